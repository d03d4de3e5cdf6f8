//! The daemon and its link: offline, killed, restarted, with files that change underneath; it always catches up.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Core, Device, PATIENCE, assert_same, eventually, noise, put, put_at_once, texts};

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

/// A file that takes a while to send, and a part of it.
const LONG: u64 = 64 << 20;
const PART: u64 = 6 << 20;
/// Times that a kill may come too late.
const TRIES: u64 = 10;

/// Runs `during` when the core has so much more in its packs, or `is_over` says that no more will come.
fn when_more_is_stored<T>(
    core: &mut Core,
    mut is_over: impl FnMut() -> bool,
    during: impl FnOnce(&mut Core) -> T,
) -> T {
    let (before, began) = (core.stored(), Instant::now());
    while core.stored() < before + PART && !is_over() {
        assert!(began.elapsed() < PATIENCE, "nothing is sent");
        std::thread::sleep(Duration::from_millis(1));
    }
    during(core)
}

#[test]
fn a_killed_device_goes_on_where_it_was() {
    const KILLS: u32 = 3;
    let mut core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    device.publish(&files, "data");
    device.sync();
    for attempt in 1..=TRIES {
        put(&files, "large.bin", noise(40 + attempt, LONG as usize));
        let (newest, before) = (core.newest("data"), core.stored());
        for _ in 0..KILLS {
            let mut child = device.command(&["sync", "--once"]).stdout(Stdio::null()).spawn().expect("started");
            let mut look = || child.try_wait().expect("asked").is_some();
            when_more_is_stored(&mut core, &mut look, |_| ());
            child.kill().expect("killed");
            child.wait().expect("waited");
        }
        if core.newest("data") != newest {
            device.sync();
            continue;
        }
        let stored = core.stored() - before;
        assert!(stored >= u64::from(KILLS) * PART);
        let report = device.sync();
        assert_eq!(report["published"].as_array().map(Vec::len), Some(1), "{report}");
        assert_eq!(core.newest("data"), newest.map(|number| number + 1), "a kill made further versions");
        let sent = report["wire"]["chunks"].as_u64().expect("a number");
        // What a kill finds unfinished is little.
        assert!(sent + stored < LONG + LONG / 20, "{sent} bytes were sent after {stored} had come: {report}");
        assert_same(&files, &core.export("data").path().join("out"));
        assert_eq!(device.sync()["unchanged"], 1);
        assert_eq!(device.dataset("data")["durability"], "local-disk", "the receipt was lost with a kill");
        return;
    }
    panic!("no kill came while something was being sent");
}

#[test]
fn a_killed_core_loses_nothing() {
    let mut core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    put(&files, "one.bin", "one");
    device.publish(&files, "data");
    let daemon = device.start();
    eventually("the first version", || core.newest("data"));
    for attempt in 1..=TRIES {
        let newest = core.newest("data").expect("a version");
        put_at_once(&files, "large.bin", noise(60 + attempt, LONG as usize));
        when_more_is_stored(&mut core, || false, Core::restart);
        let was_cut = core.newest("data") == Some(newest);
        eventually("the version", || core.newest("data").filter(|&number| number > newest));
        assert_same(&files, &core.export("data").path().join("out"));
        // What was on its way or not yet durable when the core was killed went twice, and less than all.
        let (first, again) = (wire(&device, "first send"), wire(&device, "re-sent after a cut"));
        assert!(first < attempt * LONG + PART, "{first} bytes for the first time in {attempt} sends");
        assert!(first + again >= attempt * LONG, "{first} and {again} bytes in {attempt} sends");
        if was_cut && again > 0 {
            assert!(again < attempt * LONG, "{again} bytes went again");
            daemon.stop();
            assert_eq!(wire(&device, "re-sent after a cut"), again, "it is kept when the daemon ends");
            return;
        }
    }
    panic!("no kill came while something was being sent");
}

/// Bytes that the device has sent for a reason.
fn wire(device: &Device, reason: &str) -> u64 {
    let status = device.json(&["status"]);
    let reasons = status["wire_bytes"].as_array().expect("reasons");
    let found = reasons.iter().find(|row| row[0] == reason).unwrap_or_else(|| panic!("no `{reason}` in {status}"));
    found[1].as_u64().expect("a number")
}

#[test]
fn files_that_change_while_they_are_sent_do_not_stop_a_version() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    for number in 0..64u64 {
        put(&files, &format!("{number:02}.bin"), noise(number, 1 << 20));
    }
    device.publish(&files, "data");
    // Slow enough that the last files are read long after the first ones have come.
    device.settings("[link]\nup = \"80 Mbit/s\"\n");
    let child = device.command(&["sync", "--once", "--json"]).stdout(Stdio::piped()).spawn().expect("started");
    eventually("the first of it at the core", || (core.stored() > 2 << 20).then_some(()));
    put(&files, "63.bin", noise(1000, 900_000));
    fs::write(files.join("61.bin"), noise(2000, 500_000)).expect("written");
    fs::remove_file(files.join("62.bin")).expect("removed");
    let report = texts(&child.wait_with_output().expect("waited")).0;
    assert!(report.contains("HW-4001") && report.contains("HW-4002"), "nothing changed in the middle: {report}");
    device.settings("");
    let report = device.sync();
    assert!(report["problems"].as_array().is_some_and(Vec::is_empty), "{report}");
    let out = core.export("data");
    for number in ["00", "05", "20", "61", "63"] {
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
