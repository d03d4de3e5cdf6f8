//! Bytes that a device has freed: the core may hold the only copy, and lets go of none without a word.

use std::fs;

use simulations::processes::{CoreProcess, folder};

use crate::{DATASET, Pair};

/// The versions of which the core has noted, durably, that a device freed bytes.
fn noted(core: &CoreProcess) -> Vec<i64> {
    let catalog = rusqlite::Connection::open(core.data().join("catalog.db")).expect("opened");
    let mut statement =
        catalog.prepare("SELECT number FROM reliance WHERE freed = 1 ORDER BY number").expect("a table");
    statement.query_map([], |row| row.get(0)).expect("asked").map(|number| number.expect("a number")).collect()
}

fn keep_the_newest_only(core: &CoreProcess) {
    core.run_command(&["dataset", "retention", DATASET, "--keep-last", "1"]).success();
}

#[test]
fn what_was_freed_without_a_session_is_told_at_the_next() {
    let pair = Pair::new();
    folder::write(&pair.source.join("freed.bin"), &vec![5; 400_000]);
    pair.publisher.sync();
    pair.publisher.run_command(&["free", DATASET, "freed.bin"]).success();
    assert!(!pair.source.join("freed.bin").exists());
    assert!(noted(&pair.core).is_empty(), "there is no session in which it could have been told");
    pair.publisher.sync();
    assert_eq!(noted(&pair.core), [1]);
    pair.publisher.sync();
    assert_eq!(noted(&pair.core), [1], "said twice it is the same");

    // By command it leaves the next version: only the first one has its bytes now.
    pair.publisher.run_command(&["delete", DATASET, "freed.bin"]).success();
    pair.publisher.sync();
    keep_the_newest_only(&pair.core);
    let report = pair.core.ask(&["gc"]);
    assert_eq!((&report["versions_dropped"], &report["versions_held"][0][1]), (&0.into(), &1.into()), "{report}");
    assert!(pair.core.export(&format!("{DATASET}@1")).join("freed.bin").exists());
    let report = pair.core.ask(&["gc", "--last-copy"]);
    assert_eq!(
        (report["versions_dropped"].as_u64(), report["versions_held"][0].is_null()),
        (Some(1), true),
        "{report}"
    );
    pair.subscriber.sync();
    pair.still_works();
}

#[test]
fn with_a_session_the_core_knows_before_a_byte_goes() {
    let mut pair = Pair::new();
    let bytes = vec![6; 400_000];
    folder::write(&pair.source.join("freed.bin"), &bytes);
    pair.publisher.sync();
    pair.publisher.run();
    pair.publisher.wait_status("a session", |status| status["link"] == "connected");
    pair.publisher.run_command(&["free", DATASET, "freed.bin"]).success();
    assert_eq!(noted(&pair.core), [1]);
    pair.publisher.kill();

    // The next version has the freed file as well: the one before can go without a word.
    folder::write(&pair.source.join("more.txt"), b"more");
    pair.publisher.sync();
    assert_eq!(noted(&pair.core), [2]);
    keep_the_newest_only(&pair.core);
    let report = pair.core.ask(&["gc"]);
    assert_eq!(report["versions_dropped"], 1, "{report}");
    assert_eq!(fs::read(pair.core.export(DATASET).join("freed.bin")).expect("kept"), bytes);
    pair.core.run_command(&["dataset", "delete", DATASET]).failed("HW-2005", &[]);
    pair.core.run_command(&["dataset", "delete", DATASET, "--last-copy"]).success();
}

#[test]
fn what_a_later_version_has_not_stays_held_whatever_is_noted_later() {
    let pair = Pair::new();
    for (name, byte) in [("a.bin", 1), ("b.bin", 2), ("c.bin", 3)] {
        folder::write(&pair.source.join(name), &vec![byte; 300_000]);
    }
    pair.publisher.sync();
    pair.publisher.run_command(&["free", DATASET, "a.bin", "b.bin"]).success();
    pair.publisher.sync();
    assert_eq!(noted(&pair.core), [1]);
    // The next version has b.bin, and not a.bin.
    pair.publisher.run_command(&["delete", DATASET, "a.bin"]).success();
    pair.publisher.sync();
    assert_eq!(noted(&pair.core), [1, 2]);
    folder::write(&pair.source.join("more.txt"), b"more");
    pair.publisher.sync();
    assert_eq!(noted(&pair.core), [1, 3], "version 2 has nothing that version 3 has not");
    pair.publisher.run_command(&["free", DATASET, "c.bin"]).success();
    pair.publisher.sync();
    assert_eq!(noted(&pair.core), [1, 3]);

    keep_the_newest_only(&pair.core);
    let report = pair.core.ask(&["gc"]);
    assert_eq!((&report["versions_dropped"], &report["versions_held"][0][1]), (&1.into(), &1.into()), "{report}");
    assert!(pair.core.export(&format!("{DATASET}@1")).join("a.bin").exists());
}

#[test]
fn what_was_freed_and_deleted_between_two_sessions_is_held() {
    let pair = Pair::new();
    folder::write(&pair.source.join("freed.bin"), &vec![5; 400_000]);
    pair.publisher.sync();
    pair.publisher.run_command(&["free", DATASET, "freed.bin"]).success();
    pair.publisher.run_command(&["delete", DATASET, "freed.bin"]).success();
    pair.publisher.sync();
    assert_eq!(noted(&pair.core), [1]);
}

#[test]
fn a_core_that_lost_its_notes_is_told_again() {
    let pair = Pair::new();
    folder::write(&pair.source.join("freed.bin"), &vec![5; 400_000]);
    pair.publisher.sync();
    pair.publisher.run_command(&["free", DATASET, "freed.bin"]).success();
    pair.publisher.sync();
    assert_eq!(noted(&pair.core), [1]);
    // As in a catalog that was restored from a backup.
    let catalog = rusqlite::Connection::open(pair.core.data().join("catalog.db")).expect("opened");
    catalog.execute("UPDATE reliance SET freed = 0", []).expect("lost");
    assert!(noted(&pair.core).is_empty());
    pair.publisher.sync();
    assert_eq!(noted(&pair.core), [1]);
}
