//! What a person or a core may get wrong: each mistake gets a clear error with a hint, and nothing is lost.

use std::fs;
use std::process::Command;

use crate::support::{Core, Device, agent_program, eventually, put};

#[test]
fn tokens_that_do_not_serve() {
    let core = Core::start();
    let device = Device::new();
    let token = core.token(&[]);
    let mistyped = format!("{}{}", &token[..token.len() - 1], if token.ends_with('a') { 'b' } else { 'a' });
    assert!(device.fails(&["join", &mistyped, "--name", "x"]).contains("HW-1003"));
    assert!(device.fails(&["join", "nonsense", "--name", "x"]).contains("HW-1003"));
    assert!(device.fails(&["join", &token, "--name", "../x"]).contains("HW-2003"));
    device.run(&["join", &token, "--name", "x"]);
    assert!(device.fails(&["join", &token, "--name", "x"]).contains("HW-1013"));
    assert!(Device::new().fails(&["join", &token, "--name", "y"]).contains("HW-1001"));

    let expired = core.token(&["--lifetime", "1s"]);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert!(Device::new().fails(&["join", &expired, "--name", "z"]).contains("HW-1002"));
}

#[test]
fn a_token_of_another_core() {
    let mut core = Core::start();
    let token = core.token(&[]);
    let address = core.address();
    core.stop();
    let other = Core::start_at(&address);
    let said = Device::new().fails(&["join", &token, "--name", "x"]);
    assert!(said.contains("HW-1004"), "{said}");
    drop(other);
}

#[test]
fn an_unreachable_core_is_said_and_nothing_is_lost() {
    let mut core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    put(&files, "one.txt", "one");
    device.publish(&files, "data");
    core.stop();
    let said = device.fails(&["sync", "--once"]);
    assert!(said.contains("HW-3006"), "{said}");
    core.start_again();
    device.sync();
    assert_eq!(core.newest("data"), Some(1));
}

#[test]
fn a_revoked_device_goes_on_for_itself_alone() {
    let core = Core::start();
    let device = core.device("cam1");
    let (files, diary) = (device.files("data"), device.files("diary"));
    put(&files, "one.txt", "one");
    put(&diary, "one.txt", "dear diary");
    device.publish(&files, "data");
    device.run(&["local", diary.to_str().expect("UTF-8"), "--dataset", "diary"]);
    let daemon = device.start();
    eventually("the version", || core.newest("data"));
    eventually("the diary's", || (device.dataset("diary")["number"] == 1).then_some(()));
    core.run(&["device", "revoke", "cam1"]);
    let status = eventually("the refusal", || {
        let status = device.json(&["status"]);
        (status["link"] == "refused").then_some(status)
    });
    assert_eq!(status["last_error"]["code"], "HW-1010", "{status}");
    put(&files, "two.txt", "two");
    put(&diary, "two.txt", "it goes on");
    eventually("the diary's next version", || (device.dataset("diary")["number"] == 2).then_some(()));
    let said = device.fails(&["sync", "--once"]);
    assert!(said.contains("HW-1010"), "{said}");
    assert_eq!(core.newest("data"), Some(1), "a revoked device published");

    // It joins again without a restart.
    device.run(&["leave"]);
    device.run(&["join", &core.token(&[]), "--name", "cam2"]);
    eventually("a session", || (device.json(&["status"])["link"] == "connected").then_some(()));
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_cloned_identity_is_noticed() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    put(&files, "one.txt", "one");
    device.publish(&files, "data");
    device.sync();
    let clone = Device::new();
    let copied = Command::new("cp").arg("-a").arg(device.data()).arg(clone.folder.path()).status().expect("copied");
    assert!(copied.success());
    for round in 0..3 {
        put(&files, "one.txt", format!("round {round}"));
        device.sync();
    }
    let said = clone.fails(&["sync", "--once"]);
    assert!(said.contains("HW-1011"), "{said}");
}

#[test]
fn a_second_writer_is_refused() {
    let core = Core::start();
    let (first, second) = (core.device("first"), core.device("second"));
    for (device, text) in [(&first, "mine"), (&second, "mine too")] {
        let files = device.files("data");
        put(&files, "one.txt", text);
        device.publish(&files, "shared");
    }
    first.sync();
    let said = second.fails(&["sync", "--once"]);
    assert!(said.contains("HW-2001"), "{said}");
    assert_eq!(core.newest("shared"), Some(1));
}

#[test]
fn settings_with_mistakes() {
    let device = Device::new();
    device.settings("[[publish]]\nfoldr = \"/x\"\ndataset = \"a\"\n");
    let said = device.fails(&["config", "check"]);
    assert!(said.contains("HW-5001") && said.contains("foldr") && said.contains("folder"), "{said}");
    device.settings("[[publish]]\nfolder = \"/x\"\ndataset = \"a\"\n[[local]]\nfolder = \"/x/y\"\ndataset = \"b\"\n");
    assert!(device.fails(&["config", "check"]).contains("overlaps"));
    device.settings("[[publish]]\nfolder = \"/x\"\ndataset = \"a/{label.nope\"\n");
    assert!(device.fails(&["config", "check"]).contains("HW-5001"));
}

#[test]
fn a_data_folder_in_use_and_a_catalog_from_the_future() {
    let core = Core::start();
    let device = core.device("cam1");
    let daemon = device.start();
    fs::remove_file(device.data().join("control.sock")).expect("removed");
    let said = device.fails(&["status"]);
    assert!(said.contains("HW-5003"), "{said}");
    drop(daemon);
    let catalog = device.data().join("catalog.db");
    rusqlite::Connection::open(&catalog)
        .and_then(|raw| raw.execute_batch("PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE)"))
        .expect("set");
    let before = fs::read(&catalog).expect("read");
    let said = device.fails(&["status"]);
    assert!(said.contains("HW-6001"), "{said}");
    assert_eq!(fs::read(&catalog).expect("read"), before, "the newer catalog was touched");
}

#[test]
fn wrong_usage_and_unknown_datasets() {
    let device = Device::new();
    let output = Command::new(agent_program()).arg("nonsense").output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(device.fails(&["publish", "/does/not/exist", "--dataset", "x"]).contains("HW-4004"));
    assert!(device.fails(&["publish", "/tmp", "--dataset", "../x"]).contains("HW-2003"));
    assert!(device.fails(&["remove", "nothing"]).contains("HW-2002"));
    assert!(device.fails(&["free", "nothing", "x"]).contains("HW-2002"));
    assert!(device.fails(&["leave"]).contains("HW-1012"));
    let inside = device.data().join("inside");
    fs::create_dir(&inside).expect("created");
    assert!(device.fails(&["publish", inside.to_str().expect("UTF-8"), "--dataset", "x"]).contains("HW-4009"));
}

#[test]
fn a_device_can_leave_and_join_again() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    put(&files, "one.txt", "one");
    device.publish(&files, "cam/{device}");
    device.sync();
    device.run(&["leave"]);
    assert!(files.join("one.txt").exists());
    assert!(device.fails(&["sync", "--once"]).contains("HW-1012"));
    device.run(&["join", &core.token(&[]), "--name", "cam2"]);
    device.sync();
    assert_eq!(core.newest("cam/cam2"), Some(1));
}
