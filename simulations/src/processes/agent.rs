//! An agent in a folder of its own.

use std::fmt::Display;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::core::plain_command;
use super::daemon::{Daemon, show_if_failing};
use super::{Program, Said, program, run, wait_for};

/// Tests write files and publish them at once; and they say themselves when to scan.
const SETTINGS: &str = "[scan]\nsettle = \"0s\"\nwatch = false\n";

/// An agent, with its daemon if that was started.
#[derive(Debug)]
pub struct AgentProcess {
    base: TempDir,
    data: PathBuf,
    name: String,
    /// Another user than the test's own, and the program where that one may reach it.
    user: Option<(u32, PathBuf)>,
    daemon: Option<Daemon>,
}

impl AgentProcess {
    /// An agent that belongs to no core yet.
    pub fn new(name: &str) -> Self {
        let base = tempfile::tempdir().expect("a folder");
        let data = base.path().join("agent");
        Self::in_folder(name, base, data)
    }

    /// An agent whose data folder is `data`, as on a disk of its own, or the copy of another's.
    pub fn at(name: &str, data: &Path) -> Self {
        Self::in_folder(name, tempfile::tempdir().expect("a folder"), data.to_owned())
    }

    fn in_folder(name: &str, base: TempDir, data: PathBuf) -> Self {
        std::fs::create_dir_all(&data).expect("a folder");
        let settings = data.join("agent.toml");
        if !settings.exists() {
            std::fs::write(settings, SETTINGS).expect("written");
        }
        Self { base, data, name: name.to_owned(), user: None, daemon: None }
    }

    /// Runs everything as this user from now on; only root can do that. The program is copied to where that user may reach it.
    pub fn as_user(&mut self, user: u32) {
        let copied = self.base.path().join(Program::Agent.name());
        std::fs::copy(program(Program::Agent), &copied).expect("copied");
        for path in [self.base.path(), &self.data, &self.data.join("agent.toml"), &copied] {
            std::os::unix::fs::chown(path, Some(user), Some(user)).expect("root may give files away");
        }
        self.user = Some((user, copied));
    }

    /// Dials this address from now on, whatever the token said.
    pub fn dial(&self, address: impl Display) {
        self.dial_all(&[&address]);
    }

    /// Dials these from now on, in this order: addresses or names, each with a port.
    pub fn dial_all(&self, addresses: &[&dyn Display]) {
        let list: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
        let settings = format!("{SETTINGS}[core]\naddresses = [{}]\n", list.join(", "));
        std::fs::write(self.data.join("agent.toml"), settings).expect("written");
    }

    /// Adds these lines to its settings.
    pub fn set(&self, lines: &str) {
        let file = self.data.join("agent.toml");
        let settings = std::fs::read_to_string(&file).expect("its settings");
        std::fs::write(file, format!("{settings}{lines}\n")).expect("written");
    }

    /// Dials what the token said.
    pub fn dial_as_joined(&self) {
        std::fs::write(self.data.join("agent.toml"), SETTINGS).expect("written");
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The folder with its key and certificates.
    pub fn identity(&self) -> PathBuf {
        self.data.join("identity")
    }

    /// A folder for what a test needs beside it.
    pub fn scratch(&self) -> &Path {
        self.base.path()
    }

    /// All that its daemon logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.base.path().join("agent.log")
    }

    /// A command for this agent, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.user {
            Some((user, copied)) => {
                let mut command = plain_command(copied);
                command.uid(*user).gid(*user);
                command
            }
            None => plain_command(&program(Program::Agent)),
        };
        command.arg("--data").arg(&self.data).args(arguments);
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

    /// Publishes a folder in `append` mode.
    #[track_caller]
    pub fn publish(&self, folder: &Path, dataset: &str) {
        self.run_command(&["publish", text(folder), "--dataset", dataset]).success();
    }

    /// Subscribes to a dataset; gives the folder where its newest version will stand.
    #[track_caller]
    pub fn subscribe(&self, dataset: &str) -> PathBuf {
        let to = self.base.path().join("copies").join(dataset);
        self.run_command(&["subscribe", dataset, "--to", text(&to)]).success();
        to.join("current")
    }

    /// Subscribes to a pattern or a collection; gives the folder below which each dataset gets its own.
    #[track_caller]
    pub fn subscribe_to_many(&self, name: &str) -> PathBuf {
        let to = self.base.path().join("subscribed").join(name.replace(['*', '/'], ""));
        self.run_command(&["subscribe", name, "--to", text(&to)]).success();
        to
    }

    /// Exchanges everything once, whatever comes of it.
    #[track_caller]
    pub fn sync_once(&self) -> Said {
        self.run_command(&["sync", "--once", "--json"])
    }

    /// Exchanges everything once, which must succeed; gives the report.
    #[track_caller]
    pub fn sync(&self) -> Value {
        self.sync_once().success().document()
    }

    /// Starts the daemon and waits until it answers.
    #[track_caller]
    pub fn run(&mut self) {
        assert!(self.daemon.is_none(), "the agent runs already");
        let mut daemon = Daemon::start(self.command(&["run"]), &self.log_file());
        wait_for("the agent to be ready", || {
            let ended = daemon.ended();
            assert!(ended.is_none(), "the agent ended instead ({ended:?}):\n{}", daemon.log());
            let status = self.run_command(&["status", "--json"]);
            (status.status == Some(0) && status.document()["running"] == true).then_some(())
        });
        self.daemon = Some(daemon);
    }

    /// Starts the daemon and does not wait for anything.
    pub fn spawn(&mut self) {
        assert!(self.daemon.is_none(), "the agent runs already");
        self.daemon = Some(Daemon::start(self.command(&["run"]), &self.log_file()));
    }

    /// Waits until the daemon's status satisfies `wanted`.
    #[track_caller]
    pub fn wait_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || {
            let said = self.run_command(&["status", "--json"]);
            (said.status == Some(0)).then(|| said.document()).filter(|status| wanted(status))
        })
    }

    /// Ends the daemon with SIGKILL.
    #[track_caller]
    pub fn kill(&mut self) {
        self.daemon.take().expect("the agent runs").kill();
    }

    /// Stops the daemon as systemd does.
    #[track_caller]
    pub fn stop(&mut self) {
        self.daemon.take().expect("the agent runs").stop();
    }

    /// Whether the daemon still runs.
    pub fn is_running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(|daemon| daemon.ended().is_none())
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        self.daemon = None;
        show_if_failing(&format!("agent `{}`", self.name), &self.log_file());
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("tests use plain paths")
}
