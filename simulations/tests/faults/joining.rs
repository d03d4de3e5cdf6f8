//! Tokens that can't be used, and devices that may not come any more.

use std::fs;
use std::process::Command;
use std::time::Duration;

use simulations::processes::folder::{self, Dice};
use simulations::processes::{AgentProcess, CoreProcess, Relay, Rights, wait_for};

use crate::Pair;

/// Joining with this token must fail with `code`, leave the device as it was, and a good token must still work.
#[track_caller]
fn check_token(core: &CoreProcess, token: &str, code: &str, words: &[&str]) {
    let agent = AgentProcess::new("late");
    agent.run_command(&["join", token, "--name", "late"]).failed(code, words);
    let status = agent.ask(&["status"]);
    assert!(status["device"].is_null(), "it thinks that it has joined: {status}");
    core.admit(&agent, Rights::default());
    let source = agent.scratch().join("source");
    folder::fill(&source, 1, 3, 0);
    agent.publish(&source, "late/data");
    agent.sync();
    folder::assert_same(&source, &core.export("late/data"));
}

#[test]
fn a_token_that_is_used_up() {
    let core = CoreProcess::start();
    let token = core.token(&["--uses", "1"]);
    let first = AgentProcess::new("first");
    first.run_command(&["join", &token, "--name", "first"]).success();
    check_token(&core, &token, "HW-1001", &[]);
}

#[test]
fn a_token_that_has_expired() {
    let core = CoreProcess::start();
    let token = core.token(&["--lifetime", "1s"]);
    std::thread::sleep(Duration::from_millis(2100));
    check_token(&core, &token, "HW-1002", &[]);
}

#[test]
fn a_token_that_was_mistyped() {
    let core = CoreProcess::start();
    let token = core.token(&[]);
    let middle = token.len() / 2;
    let other = if token.as_bytes()[middle] == b'a' { "b" } else { "a" };
    let changed = format!("{}{other}{}", &token[..middle], &token[middle + 1..]);
    check_token(&core, &changed, "HW-1003", &[]);
    let agent = AgentProcess::new("typist");
    for wrong in [&token[..token.len() - 1], &token[..20], "hello", "hw1-", ""] {
        agent.run_command(&["join", wrong, "--name", "typist"]).failed("HW-1003", &[]);
    }
    // Nothing was used up by any of it, and neither white space nor case spoils a token.
    let spaced = format!(" {} \n", token.to_ascii_uppercase());
    agent.run_command(&["join", &spaced, "--name", "typist"]).success();
}

#[test]
fn a_token_from_the_future() {
    let agent = AgentProcess::new("old");
    let said = agent.run_command(&["join", "hw2-abcdefghij", "--name", "old"]);
    said.failed("HW-3001", &["later release"]);
}

#[test]
fn a_token_of_another_core() {
    let mut gone = CoreProcess::start();
    let address = gone.address().to_string();
    let token = gone.token(&["--address", &address]);
    gone.stop();
    // Another core at the same address, as after a data folder was lost.
    let mut other = CoreProcess::init();
    let settings = other.data().join("core.toml");
    let text = fs::read_to_string(&settings).expect("read");
    fs::write(&settings, text.replace(&other.address().to_string(), &address)).expect("written");
    other.run();
    let agent = AgentProcess::new("lost");
    agent.run_command(&["join", &token, "--name", "lost"]).failed("HW-1004", &[&address]);
    assert_eq!(other.list(&["device", "list"]).len(), 0, "the other core was told something");
    let log = other.log();
    assert!(!log.contains("joined"), "{log}");
}

#[test]
fn a_name_that_the_token_does_not_allow_or_that_is_taken() {
    let core = CoreProcess::start();
    let _first = core.device("cam-1");
    let token = core.token(&["--names", "cam-*", "--uses", "3"]);
    let agent = AgentProcess::new("lab-1");
    agent.run_command(&["join", &token, "--name", "lab-1"]).failed("HW-1005", &["lab-1"]);
    agent.run_command(&["join", &token, "--name", "cam-1"]).failed("HW-1005", &["cam-1"]);
    agent.run_command(&["join", &token, "--name", "cam-2"]).success();
}

#[test]
fn a_device_that_was_revoked() {
    let pair = Pair::synced();
    pair.core.run_command(&["device", "revoke", "north"]).success();
    folder::write(&pair.source.join("later.txt"), b"not for the core any more");
    pair.publisher.sync_once().problem("HW-1010", &["north"]);
    // What it published stays, and so does what it has.
    pair.subscriber.sync();
    assert!(pair.source.join("later.txt").exists());
    pair.core.verify();
    // To come back it leaves and joins again; the name is free for it once the operator says so.
    pair.publisher.run_command(&["leave"]).success();
    let again = pair.core.token(&[]);
    pair.publisher.run_command(&["join", &again, "--name", "north-again"]).success();
    pair.core.run_command(&["dataset", "hand-over", "cam/north", "north-again"]).success();
    pair.still_works();
}

#[test]
fn a_device_that_is_revoked_while_it_is_connected() {
    let mut pair = Pair::synced();
    pair.publisher.run();
    pair.publisher.wait_status("a session", |status| status["link"] == "connected");
    pair.core.run_command(&["device", "revoke", "north"]).success();
    let row = pair.core.ask(&["device", "show", "north"]);
    assert_eq!(row["state"], "revoked", "{row}");
    pair.publisher.wait_status("the refusal", |status| status["link"] == "refused");
    let log = pair.publisher.log();
    assert!(log.contains("HW-1010"), "{log}");
    pair.publisher.stop();
    wait_for("no sessions at the core", || (pair.core.ask(&["status"])["connected"] == 0).then_some(()));
    // Nor is it let in again; the others are served.
    pair.publisher.sync_once().problem("HW-1010", &["north"]);
    pair.subscriber.sync();
    folder::assert_same(&pair.source, &pair.copy);
}

#[test]
fn a_device_that_is_revoked_in_the_middle_of_a_transfer() {
    let pair = Pair::synced();
    folder::write(&pair.source.join("large.bin"), &Dice::new(71).bytes(24 << 20));
    let relay = Relay::start(pair.core.address(), 1 << 20);
    pair.publisher.dial(relay.address());
    let said = std::thread::scope(|scope| {
        let sync = scope.spawn(|| pair.publisher.sync_once());
        relay.wait_held();
        pair.core.run_command(&["device", "revoke", "north"]).success();
        relay.release();
        sync.join().expect("the sync ends")
    });
    // The word that it was revoked may be lost with the connection that carried it; the next session says it again.
    let code = said.document()["problems"][0]["code"].as_str().unwrap_or_default().to_owned();
    assert!(["HW-1010", "HW-3007"].contains(&code.as_str()), "{said:#?}");
    pair.publisher.sync_once().problem("HW-1010", &["north"]);
    assert_eq!(pair.core.list(&["dataset", "log", "cam/north"]).len(), 1, "a revoked device committed a version");
    pair.subscriber.sync();
    pair.core.verify();
}

#[test]
fn two_devices_with_one_identity() {
    let pair = Pair::synced();
    let copied = pair.core.scratch().join("copied");
    let status = Command::new("cp").arg("-a").arg(pair.publisher.data()).arg(&copied).status().expect("cp runs");
    assert!(status.success());
    let clone = AgentProcess::at("clone", &copied);
    // Both go on: sooner or later one shows a number that the other has used up.
    let mut betrayed = None;
    for round in 0..4 {
        folder::write(&pair.source.join(format!("round-{round}.txt")), b"again");
        for (which, agent) in [("original", &pair.publisher), ("clone", &clone)] {
            let said = agent.sync_once();
            if said.status != Some(0) && betrayed.is_none() {
                said.problem("HW-1011", &["north"]);
                betrayed = Some((round, which));
            }
        }
    }
    assert!(betrayed.is_some(), "nobody noticed");
    // The one who leaves and joins anew is a device of its own; the other one goes on. Who was locked out is for people to say.
    clone.run_command(&["leave"]).success();
    let token = pair.core.token(&["--read", "**"]);
    clone.run_command(&["join", &token, "--name", "clone"]).success();
    clone.run_command(&["remove", "cam/north"]).success();
    clone.sync();
    pair.publisher.run_command(&["leave"]).success();
    let token = pair.core.token(&["--read", "**"]);
    pair.publisher.run_command(&["join", &token, "--name", "original"]).success();
    pair.core.run_command(&["dataset", "hand-over", "cam/north", "original"]).success();
    pair.still_works();
}

#[test]
fn a_device_that_the_core_does_not_know() {
    let mut pair = Pair::synced();
    // A core whose catalog was restored from before the device joined: a new catalog under the same keys.
    pair.core.stop();
    for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = fs::remove_file(pair.core.data().join(file));
    }
    fs::remove_dir_all(pair.core.data().join("packs")).expect("removed");
    pair.core.run();
    pair.publisher.sync_once().problem("HW-1016", &["north"]);
    // It joins again, and all that it has is sent again.
    for agent in [&pair.publisher, &pair.subscriber] {
        agent.run_command(&["leave"]).success();
        let token = pair.core.token(&["--read", "**"]);
        agent.run_command(&["join", &token, "--name", agent.name()]).success();
    }
    pair.still_works();
}
