//! A core in a folder of its own, on an address that no other test uses.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use super::daemon::{Daemon, show_if_failing};
use super::{AgentProcess, Program, Said, program, run, wait_for};

/// Ports from here on lie below those that the system gives to whoever asks for any.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;

/// What the devices of a token may do.
#[derive(Clone, Copy, Debug)]
pub struct Rights<'a> {
    /// Names to publish under.
    pub write: &'a str,
    /// Names to read.
    pub read: &'a str,
}

impl Default for Rights<'_> {
    fn default() -> Self {
        Self { write: "**", read: "**" }
    }
}

/// A core. It runs unless it was stopped, and ends with this value.
#[derive(Debug)]
pub struct CoreProcess {
    base: TempDir,
    data: PathBuf,
    address: SocketAddr,
    daemon: Option<Daemon>,
}

impl CoreProcess {
    /// Makes a core and starts it.
    #[track_caller]
    pub fn start() -> Self {
        let mut core = Self::init();
        core.run();
        core
    }

    /// The same with settings added.
    #[track_caller]
    pub fn with_settings(settings: &str) -> Self {
        let mut core = Self::init();
        let file = core.data.join("core.toml");
        let text = std::fs::read_to_string(&file).expect("the settings that it was made with");
        std::fs::write(&file, format!("{text}\n{settings}")).expect("written");
        core.run();
        core
    }

    /// Makes a core without starting it.
    #[track_caller]
    pub fn init() -> Self {
        let base = tempfile::tempdir().expect("a folder");
        let data = base.path().join("core");
        Self::init_in(base, data)
    }

    /// Makes a core whose data folder is `data`, as on a disk of its own.
    #[track_caller]
    pub fn init_at(data: &Path) -> Self {
        Self::init_in(tempfile::tempdir().expect("a folder"), data.to_owned())
    }

    fn init_in(base: TempDir, data: PathBuf) -> Self {
        let address = free_address();
        let core = Self { base, data, address, daemon: None };
        let admin = SocketAddr::from((address.ip(), 0));
        core.run_command(&["init", "--listen", &address.to_string(), "--admin-listen", &admin.to_string()]).success();
        core
    }

    /// Starts the daemon, on the same address as ever, and waits until it is ready.
    #[track_caller]
    pub fn run(&mut self) {
        if let Err(log) = self.try_run() {
            panic!("the core ended instead of starting:\n{log}");
        }
    }

    /// Starts the daemon and waits until it is ready, or has ended; then the end of its log is the error.
    #[track_caller]
    pub fn try_run(&mut self) -> Result<(), String> {
        assert!(self.daemon.is_none(), "the core runs already");
        let ready = self.data.join("address");
        // A core that was killed leaves it behind.
        let _ = std::fs::remove_file(&ready);
        let mut daemon = Daemon::start(self.command(&["run"]), &self.log_file());
        let is_ready = wait_for("the core to be ready", || match daemon.ended() {
            Some(_) => Some(false),
            None => std::fs::read_to_string(&ready).is_ok_and(|text| !text.trim().is_empty()).then_some(true),
        });
        if !is_ready {
            return Err(daemon.log());
        }
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Ends the daemon with SIGKILL.
    #[track_caller]
    pub fn kill(&mut self) {
        self.daemon.take().expect("the core runs").kill();
    }

    /// Stops the daemon as systemd does.
    #[track_caller]
    pub fn stop(&mut self) {
        self.daemon.take().expect("the core runs").stop();
    }

    /// Whether the daemon still runs.
    pub fn is_running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|daemon| daemon.ended().is_none())
    }

    /// The id of the running daemon.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("the core runs").pid()
    }

    /// The most memory that the running daemon has had, as the kernel counts it, in bytes.
    #[track_caller]
    pub fn peak_bytes(&self) -> u64 {
        let pid = self.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process has a status");
        let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB"));
        kib.and_then(|kib| kib.trim().parse::<u64>().ok()).expect("it counts memory") << 10
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens elsewhere from its next start on.
    pub fn move_to(&mut self, address: SocketAddr) {
        let settings = self.data.join("core.toml");
        let text = std::fs::read_to_string(&settings).expect("read");
        let moved = text.replace(&self.address.to_string(), &address.to_string());
        assert_ne!(moved, text, "it moves nowhere");
        std::fs::write(&settings, moved).expect("written");
        self.address = address;
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A folder for what a test needs beside it.
    pub fn scratch(&self) -> &Path {
        self.base.path()
    }

    /// All that it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.base.path().join("core.log")
    }

    /// A command for this core, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        Self::command_in(&self.data, arguments)
    }

    /// A command for whatever is in the data folder `data`.
    pub fn command_in(data: &Path, arguments: &[&str]) -> Command {
        let mut command = plain_command(&program(Program::Core));
        command.arg("--data").arg(data).args(arguments);
        command
    }

    /// Runs a command.
    #[track_caller]
    pub fn run_command(&self, arguments: &[&str]) -> Said {
        run(self.command(arguments))
    }

    /// The only document with which a command answers.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> Value {
        self.run_command(&[arguments, &["--json"]].concat()).success().document()
    }

    /// The documents with which a command answers.
    #[track_caller]
    pub fn list(&self, arguments: &[&str]) -> Vec<Value> {
        self.run_command(&[arguments, &["--json"]].concat()).success().documents()
    }

    /// A new token, made with `arguments`.
    #[track_caller]
    pub fn token(&self, arguments: &[&str]) -> String {
        let made = self.ask(&[&["token", "create"], arguments].concat());
        made["token"].as_str().expect("a token").to_owned()
    }

    /// A device that has joined under `name` and may write and read everything.
    #[track_caller]
    pub fn device(&self, name: &str) -> AgentProcess {
        self.device_with(name, Rights::default())
    }

    /// A device that has joined under `name`.
    #[track_caller]
    pub fn device_with(&self, name: &str, rights: Rights<'_>) -> AgentProcess {
        let agent = AgentProcess::new(name);
        self.admit(&agent, rights);
        agent
    }

    /// Lets a device join.
    #[track_caller]
    pub fn admit(&self, agent: &AgentProcess, rights: Rights<'_>) {
        let token = self.token(&["--write", rights.write, "--read", rights.read]);
        agent.run_command(&["join", &token, "--name", agent.name()]).success();
    }

    /// Writes a version out at the core, and gives the folder.
    #[track_caller]
    pub fn export(&self, version: &str) -> PathBuf {
        let folder = tempfile::Builder::new().prefix("export").tempdir_in(self.base.path()).expect("a folder").keep();
        self.run_command(&["dataset", "export", version, folder.to_str().expect("a plain path")]).success();
        folder
    }

    /// All that is stored must be whole.
    #[track_caller]
    pub fn verify(&self) {
        self.run_command(&["verify"]).success();
    }
}

impl Drop for CoreProcess {
    fn drop(&mut self) {
        self.daemon = None;
        show_if_failing("the core", &self.log_file());
    }
}

/// A command with nothing of this test's environment that could steer the program.
pub(super) fn plain_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HEADWATER_") {
            command.env_remove(name);
        }
    }
    command
}

/// An address that nobody else takes, also while this core is down: the process's own of the many loopback addresses, and
/// a port that the system gives to nobody by itself.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, 64 + (high & 63), middle, low);
    let ports = std::iter::from_fn(|| Some(FIRST_PORT + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS));
    ports
        .take(usize::from(PORTS))
        .map(|port| SocketAddr::from((host, port)))
        .find(|address| UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok())
        .expect("one of twelve thousand ports is free")
}
