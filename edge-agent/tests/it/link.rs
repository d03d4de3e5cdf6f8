//! The daemon and its link: offline, killed, restarted, with files that change underneath; it always catches up.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::{Core, assert_same, eventually, noise, put};

#[test]
fn the_daemon_publishes_what_changes_and_takes_what_is_new() {
    let core = Core::start();
    let writer = core.device("writer");
    let files = writer.files("data");
    put(&files, "one.txt", "one");
    writer.publish(&files, "data");
    let reader = core.device("reader");
    let to = reader.files("in");
    reader.subscribe("data", &to);
    let (writing, reading) = (writer.start(), reader.start());
    eventually("the first version", || fs::read(to.join("current/one.txt")).ok());
    put(&files, "two.txt", "two");
    eventually("the second version", || fs::read(to.join("current/two.txt")).ok());
    assert_same(&files, &to.join("current"));

    // Commands go through the running daemon.
    let more = writer.files("more");
    put(&more, "three.txt", "three");
    writer.publish(&more, "more");
    eventually("the second dataset", || core.newest("more"));
    assert_eq!(writer.json(&["status"])["link"], "connected");
    assert!(writer.sync()["problems"].as_array().is_some_and(Vec::is_empty));
    writer.run(&["remove", "more"]);
    assert_eq!(writing.stop(), Some(0));
    assert_eq!(reading.stop(), Some(0));
}

#[test]
fn an_agent_works_offline_and_catches_up_when_the_core_is_back() {
    let mut core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    put(&files, "one.txt", "one");
    device.publish(&files, "data");
    let _daemon = device.start();
    eventually("the first version", || core.newest("data"));
    core.stop();
    put(&files, "two.txt", "two");
    eventually("a built version", || {
        let dataset = device.dataset("data");
        (dataset["pending"][0] == 2).then_some(())
    });
    core.start_again();
    eventually("the second version", || (core.newest("data")? == 2).then_some(()));
}

#[test]
fn a_killed_device_goes_on_where_it_was() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    let size = 48 << 20;
    put(&files, "large.bin", noise(40, size));
    device.publish(&files, "data");
    let mut kills = 0;
    let began = Instant::now();
    while core.newest("data").is_none() && began.elapsed() < Duration::from_mins(2) {
        let mut child = device.command(&["sync", "--once"]).spawn().expect("started");
        std::thread::sleep(Duration::from_millis(250 + 200 * kills));
        child.kill().expect("killed");
        child.wait().expect("waited");
        kills += 1;
        if kills > 6 {
            device.sync();
        }
    }
    assert_same(&files, &core.export("data").path().join("out"));
    assert_eq!(core.newest("data"), Some(1), "a kill made further versions");
    let report = device.sync();
    assert_eq!(report["unchanged"], 1, "{report}");
    assert_eq!(device.dataset("data")["durability"], "local-disk", "the receipt was lost with a kill");
}

#[test]
fn a_killed_core_loses_nothing() {
    let mut core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    put(&files, "one.bin", noise(41, 8 << 20));
    device.publish(&files, "data");
    let daemon = device.start();
    std::thread::sleep(Duration::from_millis(300));
    core.restart();
    eventually("the version", || core.newest("data"));
    drop(daemon);
    assert_same(&files, &core.export("data").path().join("out"));
}

#[test]
fn files_that_change_while_they_are_sent_do_not_stop_a_version() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    for number in 0..40u64 {
        put(&files, &format!("{number:02}.bin"), noise(number, 1 << 20));
    }
    device.publish(&files, "data");
    let mut child = device.command(&["sync", "--once"]).spawn().expect("started");
    for round in 0..10u64 {
        std::thread::sleep(Duration::from_millis(40));
        put(&files, "39.bin", noise(1000 + round, 900_000));
        let _ = fs::remove_file(files.join(format!("{:02}.bin", 38 - round)));
        fs::write(files.join("20.bin"), noise(2000 + round, 500_000)).expect("written");
    }
    child.wait().expect("waited");
    let report = device.sync();
    assert!(report["problems"].as_array().is_some_and(Vec::is_empty), "{report}");
    let out = core.export("data");
    for number in ["00", "05", "20", "39"] {
        let name = format!("{number}.bin");
        assert_eq!(
            fs::read(out.path().join("out").join(&name)).expect("there"),
            fs::read(files.join(&name)).expect("read"),
            "{name} differs"
        );
    }
}

#[test]
fn a_dataset_that_is_removed_and_added_again_goes_on_with_its_versions() {
    let core = Core::start();
    let device = core.device("cam1");
    let (files, other) = (device.files("data"), device.files("other"));
    put(&files, "one.txt", "one");
    put(&other, "other.txt", "other");
    device.publish(&files, "data");
    device.sync();
    device.run(&["remove", "data"]);
    device.publish(&other, "other");
    let _daemon = device.start();
    eventually("the session", || (device.json(&["status"])["link"] == "connected").then_some(()));
    // The session began without it: what the core has of it must be asked for, not taken for nothing.
    put(&files, "two.txt", "two");
    device.publish(&files, "data");
    eventually("the second version", || (core.newest("data")? == 2).then_some(()));
    assert!(!device.run(&["log"]).contains("published anew"));
}
