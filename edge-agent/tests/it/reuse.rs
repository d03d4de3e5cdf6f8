//! What a subscription has is not fetched again: after a rename, after damage, after the catalog is lost.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Core, Device, assert_same, noise, put};

/// Bytes of the large file that must not travel twice.
const LARGE: usize = 6_000_000;

struct Pair {
    _core: Core,
    writer: Device,
    files: PathBuf,
    reader: Device,
    to: PathBuf,
}

impl Pair {
    /// A dataset of a large and a few small files, and a subscriber that has it.
    fn new() -> Self {
        let core = Core::start();
        let writer = core.device("writer");
        let files = writer.files("data");
        put(&files, "large.bin", noise(70, LARGE));
        put(&files, "other.bin", noise(71, 600_000));
        for number in 0..30 {
            put(&files, &format!("small/{number}.txt"), noise(100 + number, 900));
        }
        writer.publish(&files, "data");
        writer.sync();
        let reader = core.device("reader");
        let to = reader.files("in");
        reader.subscribe("data", &to);
        reader.sync();
        let pair = Self { _core: core, writer, files, reader, to };
        pair.is_the_same();
        pair
    }

    fn current(&self) -> PathBuf {
        self.to.join("current")
    }

    fn is_the_same(&self) {
        assert_same(&self.files, &self.current());
    }

    /// Syncs the reader, which must not take anything like the large file.
    fn sync_cheaply(&self) -> Value {
        let report = self.reader.sync();
        let wire = report["wire"]["udp"].as_u64().expect("a number");
        assert!(wire < LARGE as u64 / 4, "what was here travelled again: {wire} bytes");
        self.is_the_same();
        report
    }

    fn lose_the_catalog(&self) {
        for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
            let _ = fs::remove_file(self.reader.data().join(name));
        }
    }
}

/// Changes a byte of a file that is read-only and perhaps linked, leaving its time.
fn spoil(path: &Path) {
    let mut bytes = fs::read(path).expect("read");
    bytes[1000] ^= 1;
    fs::remove_file(path).expect("removed");
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_renamed_file_is_copied_here() {
    let pair = Pair::new();
    fs::rename(pair.files.join("large.bin"), pair.files.join("renamed.bin")).expect("renamed");
    fs::rename(pair.files.join("small"), pair.files.join("little")).expect("renamed");
    pair.writer.run(&["delete", "data", "large.bin", "small"]);
    pair.writer.sync();
    pair.sync_cheaply();
}

#[test]
fn damage_costs_the_damaged_file_and_current_stays_in_place() {
    let pair = Pair::new();
    spoil(&pair.current().join("other.bin"));
    let output = pair.reader.output(&["verify", "--json"]);
    assert!(!output.status.success());
    assert_eq!(fs::read(pair.current().join("large.bin")).expect("still there"), noise(70, LARGE));
    // While it can't be mended, everything else stays in use.
    let settings = fs::read_to_string(pair.reader.data().join("agent.toml")).expect("read");
    fs::write(pair.reader.data().join("agent.toml"), format!("{settings}[core]\naddresses = [\"127.0.0.1:9\"]\n"))
        .expect("written");
    pair.reader.fails(&["sync", "--once"]);
    assert_eq!(fs::read(pair.current().join("large.bin")).expect("still there"), noise(70, LARGE));
    fs::write(pair.reader.data().join("agent.toml"), settings).expect("written");
    pair.sync_cheaply();
    assert_eq!(pair.reader.json(&["verify"])["damaged_count"], 0);
    assert_eq!(pair.reader.sync()["unchanged"], 1);
}

#[test]
fn a_lost_catalog_costs_pages_only() {
    let pair = Pair::new();
    pair.lose_the_catalog();
    pair.sync_cheaply();
    assert_eq!(pair.reader.sync()["unchanged"], 1);

    // Lost again, with a newer version at the core.
    pair.lose_the_catalog();
    put(&pair.files, "more.txt", "more");
    fs::rename(pair.files.join("large.bin"), pair.files.join("renamed.bin")).expect("renamed");
    pair.writer.run(&["delete", "data", "large.bin"]);
    pair.writer.sync();
    pair.sync_cheaply();
}

#[test]
fn a_chunk_that_spoils_while_it_waits_is_fetched_again() {
    let pair = Pair::new();
    put(&pair.files, "new.bin", noise(72, 700_000));
    pair.writer.sync();
    // Something is in the way of the files, so what came waits in the staging file.
    let versions = pair.to.join("versions");
    fs::rename(&versions, pair.to.join("aside")).expect("renamed");
    fs::write(&versions, "in the way").expect("written");
    let said = pair.reader.fails(&["sync", "--once"]);
    assert!(said.contains("versions"), "{said}");
    let staged: Vec<_> = fs::read_dir(pair.reader.data().join("staging"))
        .expect("listed")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "chunks"))
        .collect();
    assert_eq!(staged.len(), 1);
    spoil(&staged[0]);
    fs::remove_file(&versions).expect("removed");
    fs::rename(pair.to.join("aside"), &versions).expect("renamed");
    pair.reader.sync();
    pair.is_the_same();
}
