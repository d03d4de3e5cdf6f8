//! A core and devices as real processes on this machine, for the demo and the benchmarks.
//!
//! Each process writes its log into its own file, is known by its id, and is killed and waited for when its owner goes,
//! so that nothing is left behind when something fails in between.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::lab;
use crate::process::{cargo, output, run, target_dir};

/// How long a daemon may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a daemon may take to stop after it was asked to.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(25);

/// The example of a training job, in `client/examples`.
const JOB_EXAMPLE: &str = "classify";

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) core: PathBuf,
    pub(crate) agent: PathBuf,
    /// The example of a training job.
    pub(crate) job: PathBuf,
}

impl Programs {
    /// Builds the programs; `release` as they ship, else with the profile that the tests use.
    pub(crate) fn build(release: bool) -> anyhow::Result<Self> {
        let mut command = cargo();
        command.args(["build", "--locked", "--quiet", "--workspace", "--exclude", "xtask", "--bins"]);
        command.args(["--example", JOB_EXAMPLE]);
        command.args(lab::rdma_features());
        if release {
            command.arg("--release");
        }
        run(&mut command)?;
        Ok(Self::in_folder(&if release { target_dir().join("release") } else { Self::tested_folder() }))
    }

    /// The programs that a run of all tests has built.
    pub(crate) fn tested() -> Self {
        Self::in_folder(&Self::tested_folder())
    }

    /// Where a run of all tests puts the programs.
    pub(crate) fn tested_folder() -> PathBuf {
        target_dir().join("debug")
    }

    fn in_folder(folder: &Path) -> Self {
        Self {
            core: folder.join("core-node"),
            agent: folder.join("edge-agent"),
            job: folder.join("examples").join(JOB_EXAMPLE),
        }
    }
}

/// A running process that ends with its owner.
pub(crate) struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` with its output going to the end of the file `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{name} can't be started"))?;
        Ok(Self { child, name: name.to_owned(), log: log.to_owned() })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// An error if it has ended, with the end of its log.
    pub(crate) fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); the end of its log:\n{}", self.name, tail(&self.log, 15)),
        }
    }

    /// Stops the process where it is, until [`Self::resume`].
    pub(crate) fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a paused process go on.
    pub(crate) fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), signal).with_context(|| format!("{} took no signal", self.name))
    }

    /// SIGKILL, as the kernel does it to one that takes too much memory.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and SIGKILL if that is not enough.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        let asked = Instant::now();
        while self.ended()?.is_none() {
            if asked.elapsed() > STOPPED_WITHIN {
                bail!("{} did not stop within {} s of SIGTERM", self.name, STOPPED_WITHIN.as_secs());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill and its status is waiting.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A core node of our own.
pub(crate) struct Core {
    program: PathBuf,
    data: PathBuf,
    daemon: Option<Daemon>,
}

impl Core {
    /// Makes a core under `base` and starts it on free ports of loopback.
    pub(crate) fn start(programs: &Programs, base: &Path) -> anyhow::Result<Self> {
        Self::start_with(programs, base, "")
    }

    /// The same with these settings at the end of its configuration.
    pub(crate) fn start_with(programs: &Programs, base: &Path, settings: &str) -> anyhow::Result<Self> {
        let mut core = Self { program: programs.core.clone(), data: base.join("core"), daemon: None };
        // A port of its own that stays the same when the core is started again; another could take it in between.
        let address = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.to_string();
        output(core.command().args(["init", "--listen", &address, "--admin-listen", "127.0.0.1:0"]))?;
        let configuration = core.data.join("core.toml");
        fs::write(&configuration, fs::read_to_string(&configuration)? + settings)?;
        core.run()?;
        Ok(core)
    }

    /// Starts the daemon and waits until it listens.
    pub(crate) fn run(&mut self) -> anyhow::Result<()> {
        let address = self.data.join("address");
        let _ = fs::remove_file(&address);
        let log = self.data.with_extension("log");
        let mut daemon = Daemon::start("the core", self.command().arg("run"), &log)?;
        wait_for("the core to listen", READY_WITHIN, || {
            daemon.check_alive()?;
            Ok(fs::read_to_string(&address).is_ok_and(|text| !text.trim().is_empty()))
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// The program with the data folder set.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--data").arg(&self.data);
        command
    }

    /// What a command prints as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        parse(&output(self.command().args(arguments).arg("--json"))?)
    }

    /// What a command prints as JSON, one document a line.
    pub(crate) fn json_lines(&self, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
        output(self.command().args(arguments).arg("--json"))?.lines().map(parse).collect()
    }

    /// Kills the daemon with SIGKILL.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.daemon.take().context("the core is not running")?.kill()
    }

    /// Stops the daemon as systemd does.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.daemon.take().context("the core is not running")?.stop()
    }

    /// A token with which `uses` devices may join, write their own `cam/NAME` and read everything.
    pub(crate) fn token(&self, uses: usize) -> anyhow::Result<String> {
        let uses = uses.to_string();
        let made = self.json(&[
            "token",
            "create",
            "--uses",
            &uses,
            "--label",
            "site=demo",
            "--write",
            "cam/*",
            "--read",
            "**",
        ])?;
        Ok(made["token"].as_str().ok_or_else(|| anyhow!("`token create` printed no token: {made}"))?.to_owned())
    }

    /// A file with a token that lets a training job read everything.
    pub(crate) fn reader_token(&self) -> anyhow::Result<PathBuf> {
        let made = self.json(&["token", "create", "--role", "reader", "--read", "**"])?;
        let token = made["token"].as_str().ok_or_else(|| anyhow!("`token create` printed no token: {made}"))?;
        let file = self.data.with_extension("reader-token");
        fs::write(&file, token)?;
        Ok(file)
    }

    /// The running process.
    pub(crate) fn daemon(&mut self) -> anyhow::Result<&mut Daemon> {
        self.daemon.as_mut().context("the core is not running")
    }
}

/// A device of our own: an agent with its data folder.
pub(crate) struct Device {
    pub(crate) name: String,
    program: PathBuf,
    data: PathBuf,
    daemon: Option<Daemon>,
}

impl Device {
    /// Makes a device under `base` and joins it to the core that made `token`.
    pub(crate) fn join(programs: &Programs, base: &Path, name: &str, token: &str) -> anyhow::Result<Self> {
        let device = Self::alone(programs, base, name)?;
        output(device.command().args(["join", token, "--name", name]))?;
        Ok(device)
    }

    /// Makes a device under `base` that knows no core.
    pub(crate) fn alone(programs: &Programs, base: &Path, name: &str) -> anyhow::Result<Self> {
        let data = base.join("devices").join(name).join("agent");
        fs::create_dir_all(&data)?;
        Ok(Self { name: name.to_owned(), program: programs.agent.clone(), data, daemon: None })
    }

    /// Adds to its settings, which it reads at its next start.
    pub(crate) fn set(&self, settings: &str) -> anyhow::Result<()> {
        let file = self.data.join("agent.toml");
        let before = fs::read_to_string(&file).unwrap_or_default();
        Ok(fs::write(file, before + settings)?)
    }

    /// The program with the data folder set.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--data").arg(&self.data);
        command
    }

    /// Runs a command to its end and gives what it printed.
    pub(crate) fn output(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(self.command().args(arguments))
    }

    /// What a command prints as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        parse(&output(self.command().args(arguments).arg("--json"))?)
    }

    /// Starts the daemon.
    pub(crate) fn run(&mut self) -> anyhow::Result<()> {
        let log = self.data.with_extension("log");
        self.daemon = Some(Daemon::start(&self.name, self.command().arg("run"), &log)?);
        Ok(())
    }

    /// The running process.
    pub(crate) fn daemon(&mut self) -> anyhow::Result<&mut Daemon> {
        self.daemon.as_mut().with_context(|| format!("{} is not running", self.name))
    }

    /// Kills the daemon with SIGKILL.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.daemon.take().with_context(|| format!("{} is not running", self.name))?.kill()
    }

    /// Stops the daemon as systemd does.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.daemon.take().with_context(|| format!("{} is not running", self.name))?.stop()
    }
}

/// Looks every few milliseconds until `condition` holds; fails if it doesn't within `limit`.
pub(crate) fn wait_for(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Duration> {
    let start = Instant::now();
    while !condition()? {
        if start.elapsed() > limit {
            bail!("waited {} s in vain for {what}", limit.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(start.elapsed())
}

fn parse(text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).with_context(|| format!("this is no JSON document: {}", text.trim_end()))
}

fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
