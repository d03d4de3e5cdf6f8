//! Two network namespaces, and the daemons in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::LinksError;
use crate::processes::{Program, program};

/// The namespaces and the TUN devices in them.
pub(super) const DEVICE: (&str, &str) = ("device", "up0");
pub(super) const CORE: (&str, &str) = ("core", "down0");
const DEVICE_ADDRESS: &str = "10.9.1.1";
const CORE_ADDRESS: &str = "10.9.1.2";
/// Port of the core; nobody else is in its namespace.
const CORE_PORT: u16 = 4733;
/// Longest that a daemon may take to start.
const START_MAX: Duration = Duration::from_mins(1);

/// A process that ends with this value.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Both ends, with a core and an rsync daemon at one and an agent that has joined at the other.
pub(super) struct Ends {
    base: TempDir,
    _core: Running,
    _rsync: Running,
}

/// Makes the namespaces, in a namespace of this process's own, and moves the two devices into them.
pub(super) fn make() -> Result<(), LinksError> {
    for ((space, device), address, peer) in
        [(DEVICE, DEVICE_ADDRESS, CORE_ADDRESS), (CORE, CORE_ADDRESS, DEVICE_ADDRESS)]
    {
        ip(&["netns", "add", space])?;
        ip(&["link", "set", device, "netns", space])?;
        ip(&["-n", space, "link", "set", "lo", "up"])?;
        ip(&["-n", space, "addr", "add", address, "peer", peer, "dev", device])?;
        ip(&["-n", space, "link", "set", device, "up"])?;
        // The machine's default may be another than what TCP is compared by.
        ip(&["-n", space, "route", "replace", peer, "dev", device, "congctl", "cubic"])?;
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<(), LinksError> {
    finish(Command::new("ip").args(arguments)).map(drop)
}

/// Runs a command to its end, which must be a good one; gives what it printed.
fn finish(command: &mut Command) -> Result<String, LinksError> {
    let name = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().map_err(|error| LinksError::Start(name.clone(), error))?;
    if !output.status.success() {
        return Err(LinksError::Failed(name, String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn start(command: &mut Command) -> Result<Running, LinksError> {
    let name = format!("{command:?}");
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(Running).map_err(|error| LinksError::Start(name, error))
}

/// A command in a namespace: its process becomes that of the program.
fn within(space: &str, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", space]).arg(program);
    command
}

/// Starts to send a folder's file with rsync, as `name`.
pub(super) fn send_rsync(folder: &Path, name: &str) -> Result<Running, LinksError> {
    let mut rsync = within(DEVICE.0, Path::new("rsync"));
    rsync.args(["--whole-file", "--inplace"]).arg(folder.join("noise.bin"));
    start(rsync.arg(format!("rsync://{CORE_ADDRESS}/in/{name}")))
}

impl Ends {
    /// Starts what stays, over a link that is good.
    pub(super) fn start() -> Result<Self, LinksError> {
        let base = tempfile::tempdir()?;
        let (data, inbox) = (base.path().join("core"), base.path().join("in"));
        fs::create_dir(&inbox)?;
        let of_core = |arguments: &[&str]| {
            let mut command = within(CORE.0, &program(Program::Core));
            command.arg("--data").arg(&data).args(arguments);
            command
        };
        let listen = format!("{CORE_ADDRESS}:{CORE_PORT}");
        finish(&mut of_core(&["init", "--listen", &listen, "--admin-listen", "127.0.0.1:0"]))?;
        let core = start(&mut of_core(&["run"]))?;
        let began = Instant::now();
        while !fs::read_to_string(data.join("address")).is_ok_and(|text| !text.trim().is_empty()) {
            if began.elapsed() > START_MAX {
                return Err(LinksError::Failed("core-node run".into(), "it did not become ready".into()));
            }
            thread::sleep(Duration::from_millis(20));
        }
        let config = base.path().join("rsyncd.conf");
        let text = format!(
            "uid = 0\ngid = 0\nuse chroot = no\naddress = {CORE_ADDRESS}\n[in]\npath = {}\nread only = no\n",
            inbox.display()
        );
        fs::write(&config, text)?;
        let mut daemon = within(CORE.0, Path::new("rsync"));
        let log = base.path().join("rsyncd.log");
        daemon.args(["--daemon", "--no-detach"]).arg(format!("--config={}", config.display()));
        let rsync = start(daemon.arg(format!("--log-file={}", log.display())))?;
        let ends = Self { base, _core: core, _rsync: rsync };
        let create = ["token", "create", "--uses", "1", "--write", "**", "--read", "**", "--json"];
        let created: serde_json::Value = serde_json::from_str(&finish(&mut of_core(&create))?)
            .map_err(|error| LinksError::Failed("token create".into(), error.to_string()))?;
        let token = created["token"].as_str().unwrap_or_default();
        finish(&mut ends.agent(&["join", token, "--name", "device"]))?;
        Ok(ends)
    }

    fn agent(&self, arguments: &[&str]) -> Command {
        let mut command = within(DEVICE.0, &program(Program::Agent));
        command.arg("--data").arg(self.agent_data()).args(arguments);
        command
    }

    fn agent_data(&self) -> PathBuf {
        self.base.path().join("agent")
    }

    /// A folder with `bytes` of noise in one file.
    pub(super) fn noise(&self, bytes: u64, seed: u64) -> Result<TempDir, LinksError> {
        let folder = tempfile::tempdir_in(self.base.path())?;
        let mut file = fs::File::create(folder.path().join("noise.bin"))?;
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut noise = blake3::Hasher::new_keyed(&key).finalize_xof();
        std::io::copy(&mut std::io::Read::take(&mut noise, bytes), &mut file)?;
        Ok(folder)
    }

    /// Sets the controller and publishes a folder, without sending any of it.
    pub(super) fn publish(&self, controller: &str, folder: &Path, dataset: &str) -> Result<(), LinksError> {
        let settings = format!("[core]\ncongestion = \"{controller}\"\n[scan]\nsettle = \"0s\"\n");
        fs::write(self.agent_data().join("agent.toml"), settings)?;
        let folder = folder.to_string_lossy();
        finish(&mut self.agent(&["publish", &folder, "--dataset", dataset])).map(drop)
    }

    /// Forgets what was published.
    pub(super) fn remove(&self, dataset: &str) -> Result<(), LinksError> {
        finish(&mut self.agent(&["remove", dataset])).map(drop)
    }

    /// Starts the daemon, which sends what is published until it is stopped.
    pub(super) fn send_agent(&self) -> Result<Running, LinksError> {
        start(&mut self.agent(&["run"]))
    }

    /// Bytes that the core's store holds.
    pub(super) fn stored_bytes(&self) -> u64 {
        bytes_of(&self.base.path().join("core/packs"))
    }

    /// Bytes that rsync's daemon wrote.
    pub(super) fn arrived_bytes(&self, name: &str) -> u64 {
        fs::metadata(self.base.path().join("in").join(name)).map_or(0, |metadata| metadata.len())
    }
}

fn bytes_of(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}
