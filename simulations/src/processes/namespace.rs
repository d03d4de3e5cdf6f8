//! A mount name space of a test's own: what is mounted there, nobody else sees.

use std::fs;
use std::net::IpAddr;
use std::process::Command;

use tempfile::NamedTempFile;

use super::say_skipped;

/// Set in a test that runs itself again with a name space of its own.
const INSIDE_VARIABLE: &str = "HEADWATER_TEST_INSIDE";
/// Where the system looks names up first.
const HOSTS: &str = "/etc/hosts";

/// Whether the test has been run again inside a name space of its own.
pub(super) fn is_inside() -> bool {
    std::env::var_os(INSIDE_VARIABLE).is_some()
}

/// Runs the test `name` again as root of a name space of its own; false if this user may not have one.
#[track_caller]
pub(super) fn run_inside(name: &str) -> bool {
    let unshare = || {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.arg("--mount");
        command
    };
    if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        return false;
    }
    let status = unshare()
        .arg(std::env::current_exe().expect("a test has a path"))
        .args([name, "--exact", "--nocapture"])
        .env(INSIDE_VARIABLE, "1")
        .status()
        .expect("unshare runs");
    assert!(status.success(), "the test failed in a name space of its own");
    true
}

/// Names whose addresses a test decides.
#[derive(Debug)]
pub struct Names {
    file: NamedTempFile,
}

impl Names {
    /// Whether the test `name` was run elsewhere, and has passed, or can't be run on this machine, which is said.
    #[track_caller]
    pub fn elsewhere(name: &str) -> bool {
        if is_inside() {
            return false;
        }
        if !run_inside(name) {
            say_skipped("this user may have no mount name space");
        }
        true
    }

    /// Takes the place of the machine's list of names, in this name space.
    #[track_caller]
    pub fn take_over() -> Self {
        assert!(is_inside(), "the machine's own list is not touched");
        let file = NamedTempFile::new().expect("a file");
        let status = Command::new("mount").arg("--bind").arg(file.path()).arg(HOSTS).status().expect("mount runs");
        assert!(status.success(), "`{HOSTS}` can't be covered");
        Self { file }
    }

    /// From now on `name` leads to these addresses, and no other name anywhere.
    pub fn lead(&self, name: &str, addresses: &[IpAddr]) {
        let lines: Vec<_> = addresses.iter().map(|address| format!("{address} {name}\n")).collect();
        // In place: the file that is mounted is this very one.
        fs::write(self.file.path(), lines.concat()).expect("written");
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(HOSTS).status();
    }
}
