//! A core and devices as processes on loopback, each with its own folder, gone when the test is over.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The program under test.
pub(crate) fn agent_program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_edge-agent"))
}

/// The core's program: beside the agent's, and built if it isn't there.
fn core_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let path = agent_program().with_file_name("core-node");
        if !path.exists() {
            let built = Command::new(env!("CARGO")).args(["build", "-p", "core-node"]).status().expect("cargo runs");
            assert!(built.success(), "core-node could not be built");
        }
        path
    })
}

/// Repeats `check` until it gives something.
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what} did not happen in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// A process that ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("waited");
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(mut self) -> Option<i32> {
        terminate(&self.0);
        self.0.wait().expect("waited").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
}

/// A core, running.
pub(crate) struct Core {
    pub(crate) folder: TempDir,
    running: Option<Running>,
}

impl Core {
    /// A new core on a free port.
    pub(crate) fn start() -> Self {
        let mut core = Self { folder: tempfile::tempdir().expect("a folder"), running: None };
        core.run(&["init"]);
        core.write_config("127.0.0.1:0", "");
        core.begin();
        core
    }

    /// A new core on this address.
    pub(crate) fn start_at(address: &str) -> Self {
        let mut core = Self { folder: tempfile::tempdir().expect("a folder"), running: None };
        core.run(&["init"]);
        core.write_config(address, "");
        core.begin();
        core
    }

    fn write_config(&self, listen: &str, more: &str) {
        let text = format!("listen = \"{listen}\"\nadmin_listen = \"127.0.0.1:0\"\n{more}");
        fs::write(self.data().join("core.toml"), text).expect("written");
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("core")
    }

    fn begin(&mut self) {
        let _ = fs::remove_file(self.data().join("address"));
        let log = fs::File::create(self.folder.path().join("core.log")).expect("a log");
        let child = Command::new(core_program())
            .arg("--data")
            .arg(self.data())
            .arg("run")
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .expect("the core starts");
        self.running = Some(Running(child));
        eventually("the core's start", || fs::read_to_string(self.data().join("address")).ok());
    }

    /// Kills the core, and starts it again on the port that it had.
    pub(crate) fn restart(&mut self) {
        let address = self.address();
        self.running.take().expect("running").kill();
        self.write_config(&address, "");
        self.begin();
    }

    /// Stops the core.
    pub(crate) fn stop(&mut self) {
        let address = self.address();
        self.running.take().expect("running").stop();
        self.write_config(&address, "");
    }

    /// Starts a stopped core again.
    pub(crate) fn start_again(&mut self) {
        self.begin();
    }

    /// Bytes in its packs.
    pub(crate) fn stored(&self) -> u64 {
        let packs = fs::read_dir(self.data().join("packs")).expect("listed");
        packs.map(|pack| pack.expect("a pack").metadata().map_or(0, |metadata| metadata.len())).sum()
    }

    pub(crate) fn address(&self) -> String {
        fs::read_to_string(self.data().join("address")).expect("read").trim().to_owned()
    }

    /// What a command of the core prints, which must succeed.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new(core_program())
            .arg("--data")
            .arg(self.data())
            .args(arguments)
            .output()
            .expect("the core's command runs");
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "core-node {arguments:?} failed: {stdout}{stderr}");
        stdout
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[arguments, &["--json"]].concat())).expect("JSON")
    }

    pub(crate) fn token(&self, arguments: &[&str]) -> String {
        let made = self.json(&[&["token", "create"], arguments].concat());
        made["token"].as_str().expect("a token").to_owned()
    }

    /// A device that has joined.
    pub(crate) fn device(&self, name: &str) -> Device {
        self.device_with(name, &["--read", "**"])
    }

    pub(crate) fn device_with(&self, name: &str, token: &[&str]) -> Device {
        let device = Device::new();
        device.run(&["join", &self.token(token), "--name", name]);
        device
    }

    /// The number of a dataset's newest version; none if the core has no such dataset.
    pub(crate) fn newest(&self, dataset: &str) -> Option<u64> {
        let output = Command::new(core_program())
            .arg("--data")
            .arg(self.data())
            .args(["dataset", "show", dataset, "--json"])
            .output()
            .expect("runs");
        let shown: Value = serde_json::from_slice(&output.stdout).ok()?;
        find_number(&shown)
    }

    /// Writes the dataset's newest version into a folder.
    pub(crate) fn export(&self, dataset: &str) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let to = folder.path().join("out");
        self.run(&["dataset", "export", dataset, to.to_str().expect("UTF-8")]);
        folder
    }
}

fn find_number(value: &Value) -> Option<u64> {
    ["number", "newest", "version"].iter().find_map(|key| match value.get(key) {
        Some(Value::Number(number)) => number.as_u64(),
        Some(inner @ Value::Object(_)) => find_number(inner),
        _ => None,
    })
}

/// A device's data folder and its work folder.
pub(crate) struct Device {
    pub(crate) folder: TempDir,
}

impl Device {
    pub(crate) fn new() -> Self {
        let device = Self { folder: tempfile::tempdir().expect("a folder") };
        fs::create_dir(device.data()).expect("created");
        device.settings("");
        device
    }

    /// Writes the settings file. Files count as settled at once, else every test would wait.
    pub(crate) fn settings(&self, more: &str) {
        let text = format!("{more}\n[scan]\nsettle = \"0\"\n");
        fs::write(self.data().join("agent.toml"), text).expect("written");
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    /// A folder of the device's user, made if it isn't there.
    pub(crate) fn files(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).expect("created");
        path
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(agent_program());
        command.arg("--data").arg(self.data()).args(arguments);
        command
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the agent runs")
    }

    /// What a command prints, which must succeed.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "edge-agent {arguments:?} failed: {stdout}{stderr}");
        stdout
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[arguments, &["--json"]].concat())).expect("JSON")
    }

    /// What a command that must fail prints on stderr.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let (stdout, stderr) = texts(&output);
        assert!(!output.status.success(), "edge-agent {arguments:?} went well: {stdout}");
        assert!(stderr.contains("error[HW-") && stderr.contains("hint: "), "no coded error with a hint: {stderr}");
        stderr
    }

    pub(crate) fn publish(&self, folder: &Path, dataset: &str) {
        self.run(&["publish", folder.to_str().expect("UTF-8"), "--dataset", dataset]);
    }

    pub(crate) fn publish_mirror(&self, folder: &Path, dataset: &str) {
        self.run(&["publish", folder.to_str().expect("UTF-8"), "--dataset", dataset, "--mode", "mirror"]);
    }

    pub(crate) fn subscribe(&self, name: &str, to: &Path) {
        self.run(&["subscribe", name, "--to", to.to_str().expect("UTF-8")]);
    }

    pub(crate) fn sync(&self) -> Value {
        self.json(&["sync", "--once"])
    }

    /// The daemon, started.
    pub(crate) fn start(&self) -> Running {
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("agent.log")).expect("a log");
        let child = self.command(&["run"]).stderr(log).stdout(Stdio::null()).spawn().expect("the daemon starts");
        let running = Running(child);
        eventually("the daemon's start", || self.data().join("control.sock").exists().then_some(()));
        running
    }

    /// The status of one dataset.
    pub(crate) fn dataset(&self, name: &str) -> Value {
        let status = self.json(&["status"]);
        let all = status["datasets"].as_array().expect("datasets");
        all.iter().find(|dataset| dataset["name"] == name).cloned().unwrap_or_default()
    }
}

pub(crate) fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Writes a file with its folders.
pub(crate) fn put(folder: &Path, path: &str, bytes: impl AsRef<[u8]>) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("created");
    fs::write(path, bytes).expect("written");
}

/// Puts a file into a folder at once, so that a daemon never finds a part of it.
pub(crate) fn put_at_once(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let beside = folder.with_extension("new");
    fs::write(&beside, bytes).expect("written");
    fs::rename(&beside, folder.join(name)).expect("moved");
}

/// Bytes that no compression helps with, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut bytes = vec![0; length];
    reader.fill(&mut bytes);
    bytes
}

/// Fails unless both folders hold the same files with the same bytes, links and folders.
pub(crate) fn assert_same(left: &Path, right: &Path) {
    let (left, right) = (listing(left), listing(right));
    let paths = |listing: &[(String, Vec<u8>)]| listing.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(&left), paths(&right), "the folders hold different files");
    for ((path, left), (_, right)) in left.iter().zip(&right) {
        assert!(left == right, "`{path}` differs");
    }
}

fn listing(root: &Path) -> Vec<(String, Vec<u8>)> {
    let root = root.canonicalize().expect("a folder");
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("listed") {
            let path = entry.expect("an entry").path();
            let shown = path.strip_prefix(&root).expect("below").to_string_lossy().into_owned();
            let kind = path.symlink_metadata().expect("looked at").file_type();
            if kind.is_symlink() {
                let target = fs::read_link(&path).expect("read").to_string_lossy().into_owned();
                found.push((shown, target.into_bytes()));
            } else if kind.is_dir() {
                found.push((shown, Vec::new()));
                open.push(path);
            } else {
                found.push((shown, fs::read(&path).expect("read")));
            }
        }
    }
    found.sort();
    found
}
