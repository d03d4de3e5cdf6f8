//! Where the system allows no more watches, changes are found all the same.

use std::fs;
use std::process::Command;

use simulations::processes::{CoreProcess, Daemon, folder, say_skipped, wait_for};

use crate::DATASET;

/// Watches that the system allows: enough for the folder itself, and for none in it.
const WATCHES: u32 = 1;
/// Folders in it.
const FOLDERS: u32 = 5;

/// A command in a user name space of its own that allows few watches; none where there can be no such name space.
fn with_few_watches() -> Option<Command> {
    let limit = format!("echo {WATCHES} > /proc/sys/user/max_inotify_watches");
    let unshared = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", script]);
        command
    };
    match unshared(&limit).output() {
        Ok(output) if output.status.success() => {
            let mut command = unshared(&format!("{limit}; exec \"$@\""));
            command.arg("sh");
            Some(command)
        }
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            say_skipped(&format!("the number of watches can't be limited: {why}"));
            None
        }
        Err(error) => {
            say_skipped(&format!("the number of watches can't be limited: {error}"));
            None
        }
    }
}

#[test]
fn the_limit_of_watches_is_said_and_rescans_carry_on() {
    let Some(mut command) = with_few_watches() else { return };
    let core = CoreProcess::start();
    let agent = core.device("north");
    let source = agent.scratch().join("source");
    for number in 0..FOLDERS {
        folder::write(&source.join(format!("{number}/file.txt")), b"first");
    }
    let text = source.to_str().expect("plain");
    agent.run_command(&["publish", text, "--dataset", DATASET, "--every", "1s"]).success();
    let settings = agent.data().join("agent.toml");
    let watched = fs::read_to_string(&settings).expect("read").replace("watch = false", "watch = true");
    assert!(watched.contains("watch = true"));
    fs::write(&settings, watched).expect("written");
    let daemon = agent.command(&["run"]);
    command.arg(daemon.get_program()).args(daemon.get_args());
    let running = Daemon::start(command, &agent.scratch().join("agent.log"));
    agent.wait_status("the first version", |status| status["datasets"][0]["number"] == 1);
    wait_for("a word on the limit", || agent.run_command(&["log"]).stdout.contains("HW-4005").then_some(()));
    for number in 0..FOLDERS {
        folder::write(&source.join(format!("{number}/file.txt")), format!("second {number}").as_bytes());
    }
    wait_for("the change", || {
        let exported = core.export(DATASET);
        (folder::listing(&source) == folder::listing(&exported)).then_some(())
    });
    running.stop();
}
