//! A dataset has one writer.

use simulations::processes::{Rights, folder};

use crate::{DATASET, Pair};

#[test]
fn a_second_writer() {
    let pair = Pair::synced();
    let other = pair.core.device("south");
    let source = other.scratch().join("source");
    folder::fill(&source, 8, 5, 0);
    other.publish(&source, DATASET);
    let problem = other.sync_once().problem("HW-2001", &["north"]);
    assert!(problem["hint"].as_str().is_some_and(|hint| hint.contains("hand-over")), "{problem}");
    assert_eq!(pair.core.list(&["dataset", "log", DATASET]).len(), 1);
    // Under another name it is welcome.
    other.run_command(&["remove", DATASET]).success();
    other.publish(&source, "cam/south");
    other.sync();
    folder::assert_same(&source, &pair.core.export("cam/south"));
    pair.still_works();
}

#[test]
fn a_name_that_was_deleted_goes_on_with_its_numbers() {
    let pair = Pair::synced();
    let numbers = || -> Vec<_> {
        let log = pair.core.list(&["dataset", "log", DATASET]);
        log.iter().map(|version| version["number"].as_u64().expect("a number")).collect()
    };
    folder::write(&pair.source.join("more.txt"), b"more");
    pair.publisher.sync();
    assert_eq!(numbers(), [2, 1]);
    pair.core.run_command(&["dataset", "delete", DATASET, "--last-copy"]).success();
    pair.publisher.sync();
    assert_eq!(numbers(), [3], "a name and a number never stand for two versions");
    folder::assert_same(&pair.source, &pair.core.export(DATASET));

    // Whoever comes next, too: also one that never heard of the numbers, and has built its first version already.
    pair.core.run_command(&["dataset", "delete", DATASET, "--last-copy"]).success();
    pair.publisher.run_command(&["remove", DATASET]).success();
    let other = pair.core.device("south");
    let source = other.scratch().join("source");
    folder::fill(&source, 8, 5, 0);
    other.publish(&source, DATASET);
    other.sync();
    assert_eq!(numbers(), [4]);
    pair.core.run_command(&["dataset", "delete", DATASET, "--last-copy"]).success();
    other.run_command(&["remove", DATASET]).success();
    pair.core.run_command(&["import", source.to_str().expect("plain"), "--dataset", DATASET]).success();
    assert_eq!(numbers(), [5]);
    folder::assert_same(&source, &pair.core.export(DATASET));
}

#[test]
fn the_core_as_a_second_writer() {
    let pair = Pair::synced();
    let folder = pair.source.to_str().expect("plain");
    let said = pair.core.run_command(&["import", folder, "--dataset", DATASET]);
    said.failed("HW-2001", &["north"]);
    pair.still_works();
}

#[test]
fn a_name_that_the_device_has_no_right_to() {
    let pair = Pair::synced();
    let other = pair.core.device_with("south", Rights { write: "cam/{device}", read: "nothing" });
    let source = other.scratch().join("source");
    folder::fill(&source, 8, 5, 0);
    other.publish(&source, "lab/data");
    other.sync_once().problem("HW-2006", &["lab/data"]);
    other.run_command(&["remove", "lab/data"]).success();
    other.publish(&source, "cam/{device}");
    other.sync();
    folder::assert_same(&source, &pair.core.export("cam/south"));
    pair.still_works();
}

#[test]
fn a_dataset_that_the_device_may_not_read() {
    let pair = Pair::synced();
    let other = pair.core.device_with("blind", Rights { write: "**", read: "models/**" });
    other.subscribe(DATASET);
    let hidden = other.sync_once().problem("HW-2002", &[DATASET]);
    other.run_command(&["remove", DATASET]).success();
    other.subscribe("cam/nonesuch");
    let absent = other.sync_once().problem("HW-2002", &["cam/nonesuch"]);
    let text =
        |problem: &serde_json::Value, name: &str| problem["message"].as_str().map(|text| text.replace(name, "NAME"));
    assert_eq!(text(&hidden, DATASET), text(&absent, "cam/nonesuch"), "the two must look the same");
    pair.still_works();
}

/// What one of them has brought into view is no longer held for the others by a proof of upload once it is committed.
#[test]
fn equal_folders_that_one_device_publishes_at_once() {
    let pair = Pair::synced();
    let other = pair.core.device("twins");
    let names: Vec<String> = (0..6).map(|number| format!("twins/{number}")).collect();
    for name in &names {
        let source = other.scratch().join(name);
        folder::fill(&source, 21, 40, 2);
        other.publish(&source, name);
    }
    other.sync();
    for name in &names {
        folder::assert_same(&other.scratch().join(name), &pair.core.export(name));
    }
    pair.still_works();
}
