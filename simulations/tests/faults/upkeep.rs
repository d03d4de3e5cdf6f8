//! What an operator keeps a core well with: damage that devices mend, old versions that go, datasets that change hands,
//! a catalog from a backup, and certificates that end.

use std::fs;
use std::path::{Path, PathBuf};

use headwater_quic::Identity;
use serde_json::Value;
use simulations::processes::{AgentProcess, CoreProcess, folder, wait_for};

use crate::{DATASET, Pair};

/// Bytes of a file that are enough to find it in a pack.
const NEEDLE_BYTES: usize = 64;

/// Changes a stored byte of `file`, as a dying disk does.
#[track_caller]
fn damage(core: &CoreProcess, file: &Path) {
    let bytes = fs::read(file).expect("read");
    let needle = &bytes[1000..1000 + NEEDLE_BYTES];
    for entry in fs::read_dir(core.data().join("packs")).expect("listed") {
        let pack = entry.expect("an entry").path();
        let mut stored = fs::read(&pack).expect("read");
        if let Some(at) = stored.windows(NEEDLE_BYTES).position(|window| window == needle) {
            stored[at] ^= 0xff;
            fs::write(&pack, stored).expect("written");
            return;
        }
    }
    panic!("{} is in no pack", file.display());
}

/// A file of the pair's source that no compression changes.
fn large_file(pair: &Pair) -> PathBuf {
    let file = pair.source.join("large.bin");
    folder::write(&file, &folder::Dice::new(99).bytes(400_000));
    pair.publisher.sync();
    file
}

#[test]
fn damage_is_set_aside_and_fetched_again_from_the_device() {
    let mut pair = Pair::synced();
    let file = large_file(&pair);
    pair.core.stop();
    damage(&pair.core, &file);
    pair.core.run();
    let said = pair.core.run_command(&["verify"]);
    assert_eq!(said.status, Some(1), "{said:#?}");
    assert!(said.stdout.contains(DATASET), "who needs it is named: {said:#?}");
    let found = pair.core.run_command(&["doctor", "--json"]).documents();
    assert!(found.iter().any(|finding| finding["found"] == "1 chunks are damaged"), "{found:?}");
    pair.publisher.run();
    wait_for("the device to send it again", || (pair.core.run_command(&["verify"]).status == Some(0)).then_some(()));
    folder::assert_same(&pair.source, &pair.core.export(DATASET));
    pair.publisher.stop();
    pair.still_works();
}

#[test]
fn what_its_writer_has_freed_is_fetched_again_from_a_subscriber() {
    let mut pair = Pair::synced();
    let file = large_file(&pair);
    pair.subscriber.sync();
    damage(&pair.core, &file);
    pair.publisher.run_command(&["free", DATASET, "large.bin"]).success();
    pair.publisher.run();
    let status = pair.core.ask(&["status"]);
    assert_eq!(status["damaged_chunks"], 0, "nobody has looked: {status}");
    assert_eq!(pair.core.run_command(&["verify"]).status, Some(1));
    let status = pair.core.ask(&["status"]);
    assert_eq!(status["damaged_chunks"], 1, "{status}");
    pair.subscriber.run();
    wait_for("the subscriber to send it", || (pair.core.run_command(&["verify"]).status == Some(0)).then_some(()));
    folder::assert_same(&pair.copy, &pair.core.export(DATASET));
    pair.subscriber.stop();
    pair.publisher.stop();
}

#[test]
fn damage_that_a_read_finds_is_mended_by_a_device_that_is_connected() {
    let mut pair = Pair::synced();
    let file = large_file(&pair);
    pair.publisher.run();
    wait_for("a session", || (pair.core.ask(&["status"])["connected"] == 1).then_some(()));
    damage(&pair.core, &file);
    let to = pair.core.scratch().join("read");
    let read = pair.core.run_command(&["dataset", "export", DATASET, to.to_str().expect("plain")]);
    assert_eq!(read.status, Some(1), "damaged bytes were given out: {read:#?}");
    wait_for("the device to send it again", || (pair.core.run_command(&["verify"]).status == Some(0)).then_some(()));
    folder::assert_same(&pair.source, &pair.core.export(DATASET));
    pair.publisher.stop();
    pair.still_works();
}

#[test]
fn old_versions_go_and_a_dry_run_says_so_before() {
    let pair = Pair::synced();
    let file = pair.source.join("changes.bin");
    for seed in 0..4 {
        folder::write(&file, &folder::Dice::new(seed).bytes(700_000));
        pair.publisher.sync();
    }
    let versions = || pair.core.list(&["dataset", "log", DATASET]).len();
    assert_eq!(versions(), 5);
    pair.core.run_command(&["dataset", "retention", DATASET, "--keep-last", "1"]).success();
    pair.core.run_command(&["dataset", "tag", &format!("{DATASET}@1"), "gold"]).success();
    let planned = pair.core.ask(&["gc", "--dry-run"]);
    assert_eq!((versions(), &planned["versions_dropped"]), (5, &Value::from(3)), "{planned}");
    let stored = || pair.core.ask(&["status"])["stored_bytes"].as_u64().expect("a number");
    let before = stored();
    let done = pair.core.ask(&["gc"]);
    for field in ["versions_dropped", "freed_bytes", "live_bytes", "packs_deleted"] {
        assert_eq!(done[field], planned[field], "{field}: {planned} {done}");
    }
    assert_eq!(versions(), 2, "the newest and the tagged one stay");
    assert!(stored() + 700_000 < before, "{} of {before} bytes are left", stored());
    pair.core.run_command(&["dataset", "show", &format!("{DATASET}@3")]).failed("HW-2002", &[]);
    folder::assert_same(&pair.source, &pair.core.export(DATASET));
    pair.core.run_command(&["dataset", "show", &format!("{DATASET}@gold")]).success();
    pair.still_works();
}

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

/// When the certificate of a device ends, in Unix seconds, as it stands in its own folder.
fn certificate_end(agent: &AgentProcess) -> i64 {
    Identity::load(&agent.identity()).expect("it has joined").parsed().not_after_s
}

#[test]
fn certificates_that_end_or_have_ended_are_renewed() {
    let mut core = CoreProcess::init();
    let settings = core.data().join("core.toml");
    let text = fs::read_to_string(&settings).expect("read");
    for (name, lifetime) in [("ended", "1s"), ("ends-soon", "6h")] {
        fs::write(&settings, format!("{text}\n[certificates]\nlifetime = \"{lifetime}\"\n")).expect("written");
        core.run();
        let agent = core.device(name);
        let revoked = core.device(&format!("{name}-and-revoked"));
        let (short, short_too) = (certificate_end(&agent), certificate_end(&revoked));
        core.run_command(&["device", "revoke", revoked.name()]).success();
        core.stop();
        std::thread::sleep(std::time::Duration::from_secs(2));
        fs::write(&settings, &text).expect("written");
        core.run();
        let source = agent.scratch().join("source");
        folder::fill(&source, 3, 4, 0);
        agent.publish(&source, &format!("cam/{name}"));
        agent.sync();
        let renewed = certificate_end(&agent);
        assert!(renewed > short + 300 * 86_400, "{name}: {short} became {renewed}");
        let listed = core.ask(&["device", "show", name]);
        assert_eq!(listed["name"], name);
        // One that is good for long is left as it is.
        agent.sync();
        assert_eq!(certificate_end(&agent), renewed);
        folder::assert_same(&source, &core.export(&format!("cam/{name}")));
        revoked.publish(&source, "cam/revoked");
        assert_ne!(revoked.sync_once().status, Some(0), "a revoked device gets nothing");
        assert_eq!(certificate_end(&revoked), short_too);
        core.stop();
    }
}
