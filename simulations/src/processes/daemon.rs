//! A daemon that was started and will be gone, whatever the test does.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::wait_for;

/// Lines of a log that a failing test shows.
const LOG_LINES_SHOWN: usize = 60;

/// A running daemon; killed and reaped on drop.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`; what it logs is appended to `log`.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let open = || File::options().create(true).append(true).open(log).expect("a log");
        let child = command
            .stdin(Stdio::null())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
        Self { child, log: log.to_owned() }
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child has a status")
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) {
        self.reap();
    }

    /// Asks it to stop, as systemd does, and waits until it has.
    #[track_caller]
    pub fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("our own child can be signalled");
        let status = wait_for("a daemon that was asked to stop", || self.ended());
        assert!(status.success(), "a daemon that was asked to stop ended with {status}:\n{}", self.log());
    }

    /// What it logged, as far as a person would read back.
    pub fn log(&self) -> String {
        last_lines(&self.log)
    }

    fn reap(&mut self) {
        // It may have ended by itself; then there is nothing to kill, but still to reap.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.reap();
    }
}

/// The end of a log.
pub(super) fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

/// Shows a log if the test is failing.
#[allow(clippy::print_stderr, reason = "a failing test's output is for people")]
pub(super) fn show_if_failing(whose: &str, log: &Path) {
    if std::thread::panicking() {
        eprintln!("--- the end of the log of {whose}\n{}\n---", last_lines(log));
    }
}
