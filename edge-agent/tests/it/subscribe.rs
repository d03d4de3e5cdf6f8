//! Subscribing: versions arrive whole, link what did not change, and reuse what the device has already.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::{Core, assert_same, noise, put};

#[test]
fn versions_arrive_are_linked_and_swapped() {
    let core = Core::start();
    let writer = core.device("writer");
    let files = writer.files("model");
    put(&files, "weights.bin", noise(10, 2_000_000));
    for number in 0..100 {
        put(&files, &format!("labels/{number}.txt"), format!("label {number}"));
    }
    writer.publish(&files, "models/m");
    writer.sync();

    let reader = core.device("reader");
    let to = reader.files("in");
    reader.run(&["subscribe", "models/m", "--to", to.to_str().expect("UTF-8"), "--keep", "2"]);
    let first = reader.sync();
    assert_eq!(first["received"][0]["number"], 1, "{first}");
    let current = to.join("current");
    assert_same(&files, &current);
    let inode = fs::metadata(current.join("weights.bin")).expect("there").ino();

    put(&files, "labels/7.txt", "changed");
    writer.sync();
    let second = reader.sync();
    assert_same(&files, &current);
    let wire = second["wire"]["udp"].as_u64().expect("a number");
    assert!(wire < 24 * 1024, "one changed file cost {wire} bytes");
    let linked = fs::metadata(current.join("weights.bin")).expect("there");
    assert_eq!(linked.ino(), inode, "an unchanged file was not linked");
    assert_eq!(linked.mode() & 0o222, 0, "files of a subscription are read-only");

    put(&files, "labels/8.txt", "changed too");
    writer.sync();
    reader.sync();
    assert_same(&files, &current);
    let versions = to.join("versions");
    assert!(!versions.join("1").exists() && versions.join("2").exists() && versions.join("3").exists());
    assert_eq!(reader.sync()["unchanged"], 1);
}

#[test]
fn what_is_on_the_device_does_not_travel_again() {
    let core = Core::start();
    let writer = core.device("writer");
    let files = writer.files("data");
    put(&files, "large.bin", noise(11, 4_000_000));
    for number in 0..50 {
        put(&files, &format!("small/{number}.txt"), noise(number, 3000));
    }
    writer.publish(&files, "data");
    writer.sync();

    // The reader has published the same files under another name; and it publishes and subscribes in one agent.
    let reader = core.device("reader");
    let own = reader.files("own");
    put(&own, "renamed.bin", noise(11, 4_000_000));
    for number in 0..50 {
        put(&own, &format!("small/{number}.txt"), noise(number, 3000));
    }
    reader.publish(&own, "own");
    reader.sync();
    let to = reader.files("in");
    reader.subscribe("data", &to);
    let report = reader.sync();
    assert_same(&files, &to.join("current"));
    let wire = report["wire"]["udp"].as_u64().expect("a number");
    assert!(wire < 200 * 1024, "bytes that were on the device travelled again: {wire}");

    // A file that was said to have the bytes and has them no more is noticed, and the bytes are fetched.
    put(&files, "twice.bin", noise(11, 4_000_000));
    put(&files, "more.bin", noise(12, 1_000_000));
    writer.sync();
    fs::write(own.join("renamed.bin"), noise(99, 4_000_000)).expect("changed underneath");
    reader.run(&["remove", "own"]);
    reader.sync();
    assert_same(&files, &to.join("current"));
}

#[test]
fn a_pattern_brings_many_datasets_and_what_may_not_be_read_does_not_exist() {
    let core = Core::start();
    for name in ["a", "b"] {
        let writer = core.device(name);
        let files = writer.files("cam");
        put(&files, "photo.bin", noise(20, 100_000));
        put(&files, "label.txt", name);
        writer.publish(&files, "cam/{device}");
        writer.sync();
    }
    let reader = core.device_with("reader", &["--read", "cam/*"]);
    let to = reader.files("in");
    reader.subscribe("cam/*", &to);
    let report = reader.sync();
    assert_eq!(report["received"].as_array().map(Vec::len), Some(2), "{report}");
    for name in ["a", "b"] {
        assert_eq!(fs::read_to_string(to.join("cam").join(name).join("current/label.txt")).expect("there"), name);
    }

    let stranger = core.device_with("stranger", &[]);
    stranger.subscribe("cam/a", &stranger.files("in"));
    let output = stranger.output(&["sync", "--once", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["problems"][0]["code"], "HW-2002", "{report}");
}

#[test]
fn verify_finds_a_damaged_file_and_the_next_sync_mends_it() {
    let core = Core::start();
    let writer = core.device("writer");
    let files = writer.files("data");
    put(&files, "a.bin", noise(30, 300_000));
    put(&files, "b.bin", noise(31, 300_000));
    writer.publish(&files, "data");
    writer.sync();
    let reader = core.device("reader");
    let to = reader.files("in");
    reader.subscribe("data", &to);
    reader.sync();
    assert_eq!(reader.json(&["verify"])["damaged_count"], 0);
    let damaged = to.join("current/a.bin");
    let mut bytes = fs::read(&damaged).expect("read");
    bytes[1000] ^= 1;
    fs::remove_file(&damaged).expect("removed");
    fs::write(&damaged, bytes).expect("written");
    let output = reader.output(&["verify", "--json"]);
    assert!(!output.status.success());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["damaged"][0]["path"], "a.bin", "{report}");
    reader.sync();
    assert_same(&files, &to.join("current"));
}
