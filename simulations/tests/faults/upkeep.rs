//! What an operator keeps a core well with: gc, datasets that change hands, a catalog from a backup.

use std::fs;
use std::path::Path;

use simulations::processes::{folder, wait_for};

use crate::{DATASET, Pair};

#[test]
fn gc_runs_by_itself_although_the_core_is_restarted_before_its_time() {
    let mut pair = Pair::synced();
    let file = pair.source.join("changes.bin");
    for seed in 0..2 {
        folder::write(&file, &folder::Dice::new(seed).bytes(400_000));
        pair.publisher.sync();
    }
    pair.core.run_command(&["dataset", "retention", DATASET, "--keep-last", "1"]).success();
    let settings = pair.core.data().join("core.toml");
    let text = fs::read_to_string(&settings).expect("read");
    fs::write(&settings, format!("{text}\n[gc]\nevery = \"6s\"\n")).expect("written");
    // It never runs for as long as that.
    wait_for("gc to run", || {
        pair.core.stop();
        pair.core.run();
        std::thread::sleep(std::time::Duration::from_millis(1500));
        (pair.core.list(&["dataset", "log", DATASET]).len() == 1).then_some(())
    });
    pair.still_works();
}

#[test]
fn a_dataset_goes_to_the_core_and_back() {
    let pair = Pair::synced();
    let said = pair.core.ask(&["dataset", "hand-over", DATASET, "--to-core"]);
    assert_eq!(said["writer"], "core", "{said}");
    folder::write(&pair.source.join("late.txt"), b"not the writer any more");
    pair.publisher.sync_once().problem("HW-2001", &["core"]);
    let imported = pair.core.ask(&["import", pair.source.to_str().expect("plain"), "--dataset", DATASET]);
    assert_eq!(imported["number"], 2, "{imported}");
    pair.subscriber.sync();
    folder::assert_same(&pair.source, &pair.copy);
    pair.core.run_command(&["dataset", "hand-over", DATASET, "north"]).success();
    pair.still_works();
}

/// The catalog with its log, as a backup would copy it from a stopped core.
fn copy_catalog(from: &Path, to: &Path) {
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = fs::remove_file(to.join(name));
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).expect("copied");
        }
    }
}

#[test]
fn a_catalog_from_a_backup_learns_again_what_devices_have() {
    let mut pair = Pair::synced();
    let backup = pair.core.scratch().join("backup");
    fs::create_dir(&backup).expect("made");
    pair.core.stop();
    copy_catalog(pair.core.data(), &backup);
    pair.core.run();
    // Two more versions, and a dataset that the backup has never heard of.
    let second = pair.publisher.scratch().join("second");
    folder::fill(&second, 11, 8, 1);
    pair.publisher.publish(&second, "cam/second");
    for seed in 0..2 {
        folder::write(&pair.source.join(format!("{seed}.bin")), &folder::Dice::new(seed).bytes(300_000));
        pair.publisher.sync();
        pair.subscriber.sync();
    }
    assert_eq!(pair.core.list(&["dataset", "log", DATASET]).len(), 3);
    pair.core.stop();
    copy_catalog(&backup, pair.core.data());
    pair.core.run();
    assert_eq!(pair.core.list(&["dataset", "log", DATASET]).len(), 1, "the backup is older");
    pair.publisher.sync();
    folder::assert_same(&pair.source, &pair.core.export(DATASET));
    folder::assert_same(&second, &pair.core.export("cam/second"));
    pair.core.verify();
    pair.subscriber.sync();
    folder::assert_same(&pair.source, &pair.copy);
    pair.still_works();
}
