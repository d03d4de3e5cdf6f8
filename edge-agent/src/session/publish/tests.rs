//! What stays in a dataset and what leaves it: scans of real folders, with commits noted as if a core had answered.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use headwater_host::scan::Cancel;
use headwater_protocol::id::ChunkId;
use headwater_protocol::record::ChunkRef;
use headwater_protocol::tree::Tree;
use headwater_protocol::wire::OrdinalRange;
use headwater_quic::transfer::UnavailableChunk;

use super::build::{Built, build};
use super::revert::revert;
use super::send::{find_published, note_commit};
use crate::agent::{Agent, Folder};
use crate::catalog::{Catalog, DatasetPages, DatasetRow, Role, VersionRow};
use crate::storage::free;
use crate::storage::holdings::Holdings;

/// A device that publishes one folder as `data`.
struct Site {
    root: tempfile::TempDir,
    agent: Arc<Agent>,
}

impl Site {
    fn new(mode: &str) -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let (files, data) = (root.path().join("files"), root.path().join("agent"));
        fs::create_dir_all(&files).expect("made");
        fs::create_dir_all(&data).expect("made");
        let settings = format!(
            "[scan]\nsettle = \"0\"\n[[publish]]\nfolder = \"{}\"\ndataset = \"data\"\nmode = \"{mode}\"\n",
            files.display()
        );
        fs::write(data.join("agent.toml"), settings).expect("written");
        let agent = Agent::open(&data, None).expect("opened");
        Self { root, agent }
    }

    /// The agent after a restart, with the settings changed.
    fn with_settings(self, before: &str, after: &str) -> Self {
        let Self { root, agent } = self;
        drop(agent);
        let file = root.path().join("agent/agent.toml");
        let text = fs::read_to_string(&file).expect("read");
        assert!(text.contains(before));
        fs::write(&file, text.replace(before, after)).expect("written");
        let agent = Agent::open(&root.path().join("agent"), None).expect("opened");
        Self { root, agent }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join("files").join(path)
    }

    fn write(&self, path: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(&path, path.as_os_str().as_encoded_bytes()).expect("written");
    }

    fn catalog(&self) -> Arc<Catalog> {
        self.agent.catalog()
    }

    fn folder(&self) -> Folder {
        self.agent.folder("data").expect("configured")
    }

    fn row(&self) -> DatasetRow {
        self.catalog().dataset("data", Role::Publish, &self.folder().path).expect("a dataset")
    }

    fn scan(&self) -> Built {
        build(&self.agent, &self.folder(), &Cancel::default(), &mut |_| {}).expect("built")
    }

    /// Scans, and notes that the core committed what came of it.
    fn commit(&self) {
        let row = self.scan().row;
        if let Some(pending) = self.catalog().pending(row.id).expect("read") {
            note_commit(&self.catalog(), &row, &pending).expect("noted");
        }
    }

    fn paths(&self) -> Vec<String> {
        let (catalog, row) = (self.catalog(), self.scan().row);
        let newest = catalog.pending(row.id).expect("read").or_else(|| catalog.committed(row.id).expect("read"));
        let manifest = newest.as_ref().map(VersionRow::decode_manifest).expect("a version").expect("whole");
        let pages = DatasetPages::new(Arc::clone(&catalog), row.id);
        let records = Tree::new(&manifest, &pages).records();
        records.map(|record| String::from_utf8_lossy(&record.expect("read").path).into_owned()).collect()
    }

    /// The chunks of the committed version.
    fn chunks(&self) -> Vec<ChunkRef> {
        let (catalog, id) = (self.catalog(), self.row().id);
        let manifest = catalog.committed(id).expect("read").expect("a version").decode_manifest().expect("whole");
        let pages = DatasetPages::new(catalog, id);
        let chunks = Tree::new(&manifest, &pages).chunks();
        chunks.map(|place| place.expect("read").chunk).collect()
    }

    /// Frees files as the command does under a core's receipt.
    fn free(&self, paths: &[&str]) {
        let marks: Vec<_> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        self.catalog().put_freed(self.row().id, &marks).expect("noted");
        for path in paths {
            fs::remove_file(self.path(path)).expect("removed");
        }
    }

    fn delete(&self, paths: &[&str]) {
        let paths: Vec<_> = paths.iter().map(ToString::to_string).collect();
        free::delete(&self.agent, &self.folder(), &paths).expect("deleted");
    }

    fn freed(&self) -> u64 {
        self.catalog().freed_count(self.row().id).expect("counted")
    }

    /// Takes all files away, as a disk that is not mounted does.
    fn unmount(&self) {
        fs::rename(self.path(""), self.root.path().join("unmounted")).expect("renamed");
        fs::create_dir(self.path("")).expect("made");
    }

    fn mount(&self) {
        fs::remove_dir_all(self.path("")).expect("removed");
        fs::rename(self.root.path().join("unmounted"), self.path("")).expect("renamed");
    }
}

#[test]
fn a_deletion_ends_with_its_commit_whatever_appears_there_later() {
    for mode in ["append", "mirror"] {
        let site = Site::new(mode);
        for path in ["day1/old.jpg", "day1.txt", "day2/one.jpg"] {
            site.write(path);
        }
        site.commit();
        site.delete(&["day1"]);
        // The camera goes on writing into the folder before the next sync.
        site.write("day1/new.jpg");
        site.commit();
        assert_eq!(site.paths(), ["day1/new.jpg", "day1.txt", "day2/one.jpg"], "{mode}");
        assert_eq!(site.catalog().deletions_after(site.row().id, b"", 9).expect("read"), Vec::<Vec<u8>>::new());
        site.free(&["day1/new.jpg"]);
        site.commit();
        assert!(site.paths().contains(&"day1/new.jpg".to_owned()), "{mode}: a freed file was dropped");
    }
}

#[test]
fn a_deleted_file_that_is_back_is_a_file_like_others() {
    let site = Site::new("append");
    for path in ["a", "b"] {
        site.write(path);
    }
    site.commit();
    site.delete(&["a"]);
    site.write("a");
    site.commit();
    fs::remove_file(site.path("a")).expect("removed");
    site.commit();
    assert_eq!(site.paths(), ["a", "b"], "what is deleted here alone stays");
}

#[test]
fn a_deletion_that_comes_while_a_version_is_sent_is_for_the_next() {
    let site = Site::new("append");
    for path in ["a", "b"] {
        site.write(path);
    }
    let row = site.scan().row;
    let sent = site.catalog().pending(row.id).expect("read").expect("a version");
    site.delete(&["a"]);
    note_commit(&site.catalog(), &row, &sent).expect("noted");
    assert_eq!(site.paths(), ["b"]);
}

#[test]
fn a_deletion_that_can_not_be_named_whole_deletes_nothing() {
    let site = Site::new("mirror");
    for path in ["a", "b"] {
        site.write(path);
    }
    site.commit();
    site.free(&["a"]);
    let paths = ["a", "nowhere"].map(String::from);
    free::delete(&site.agent, &site.folder(), &paths).expect_err("there is no such file");
    assert_eq!((site.paths(), site.freed()), (vec!["a".to_owned(), "b".to_owned()], 1));
}

#[test]
fn a_freed_file_that_is_back_is_a_file_like_others() {
    let site = Site::new("mirror");
    for path in ["a", "b"] {
        site.write(path);
    }
    site.commit();
    site.free(&["a"]);
    site.commit();
    assert_eq!((site.paths(), site.freed()), (vec!["a".to_owned(), "b".to_owned()], 1));
    site.write("a");
    site.commit();
    assert_eq!(site.freed(), 0);
    fs::remove_file(site.path("a")).expect("removed");
    site.commit();
    assert_eq!(site.paths(), ["b"]);
}

#[test]
fn a_freed_file_outlives_a_file_in_its_folders_place() {
    let site = Site::new("mirror");
    for path in ["a/x", "b"] {
        site.write(path);
    }
    site.commit();
    site.free(&["a/x"]);
    fs::remove_dir(site.path("a")).expect("removed");
    site.write("a");
    let built = site.scan();
    assert_eq!(built.skipped.iter().map(|skipped| &*skipped.path).collect::<Vec<_>>(), ["a"]);
    assert_eq!(site.paths(), ["a/x", "b"]);
    site.delete(&["a/x"]);
    assert_eq!(site.paths(), ["a", "b"]);
}

#[test]
fn what_is_missing_after_the_catalog_was_lost_counts_as_freed_once_the_folder_is_seen() {
    for mode in ["append", "mirror"] {
        let site = Site::new(mode);
        for path in ["freed", "here"] {
            site.write(path);
        }
        site.commit();
        fs::remove_file(site.path("freed")).expect("removed");
        site.catalog().begin_recovering(site.row().id).expect("kept");
        if mode == "mirror" {
            site.unmount();
            site.commit();
            assert_eq!(site.freed(), 0, "a folder without its disk says nothing of what was freed");
            site.mount();
        }
        site.commit();
        assert_eq!((site.paths(), site.freed()), (vec!["freed".to_owned(), "here".to_owned()], 1), "{mode}");
        // From now on it is known what was freed.
        fs::remove_file(site.path("here")).expect("removed");
        site.write("more");
        site.commit();
        assert_eq!(site.freed(), 1, "{mode}");
    }
}

#[test]
fn links_and_empty_folders_stay_like_files() {
    let all = ["empty", "file", "link"];
    for mode in ["append", "mirror"] {
        let site = Site::new(mode);
        site.write("file");
        symlink("file", site.path("link")).expect("linked");
        fs::create_dir(site.path("empty")).expect("made");
        site.commit();
        site.unmount();
        assert_eq!(site.paths(), all, "{mode}: an empty folder took something out of the dataset");
        site.mount();
        fs::remove_file(site.path("link")).expect("removed");
        fs::remove_dir(site.path("empty")).expect("removed");
        assert_eq!(site.paths(), if mode == "append" { &all[..] } else { &["file"][..] }, "{mode}");
    }
}

#[test]
fn a_path_marked_below_a_folder_is_found_by_its_folder() {
    let site = Site::new("mirror");
    let (catalog, id) = (site.catalog(), site.row().id);
    let marks = ["a/x", "a/y/z", "a.b", "a0", "b"].map(|path| path.as_bytes().to_vec());
    catalog.put_freed(id, &marks).expect("noted");
    assert!(catalog.has_freed_below(id, b"a").expect("read") && catalog.has_freed_below(id, b"a/y").expect("read"));
    assert!(!catalog.has_freed_below(id, b"b").expect("read"));
    catalog.forget_freed_at_or_below(id, b"a").expect("forgotten");
    let left = marks.iter().filter(|path| catalog.is_freed(id, path).expect("read")).count();
    assert_eq!(left, 3);
}

#[test]
fn what_was_published_and_is_local_now_answers_no_question() {
    let site = Site::new("mirror");
    fs::write(site.root.path().join("agent/agent.toml"), "[scan]\nsettle = \"0\"\n").expect("written");
    let files = site.path("").components().collect::<PathBuf>();
    let settings = || crate::settings::Settings::load(site.agent.data(), None).expect("read");
    assert!(settings().publish.is_empty());
    let (agent, catalog) = (&site.agent, site.catalog());
    let name = headwater_protocol::name::NameTemplate::new("data").expect("a name");
    agent.add_publish(files.clone(), name, &crate::settings::PublishOptions::default()).expect("added");
    site.write("a");
    let chunk = ChunkId::of(&fs::read(site.path("a")).expect("read"));
    let row = site.scan().row;
    let version = catalog.pending(row.id).expect("read").expect("a version");
    note_commit(&catalog, &row, &version).expect("noted");
    let holdings = Holdings::new(Arc::clone(agent), Arc::clone(&catalog));
    assert!(holdings.is_said(&chunk).expect("looked up") && holdings.read(&chunk, None).expect("read").is_some());
    assert!(find_published(agent, "data", &version.version).expect("looked up").is_some());
    site.write("more");
    site.scan();
    agent.set_unsent("data", true);
    assert!(agent.backlog_bytes() > 0 && agent.unsent_since().is_some());

    agent.remove("data").expect("removed");
    agent.add_local(files, "diary").expect("added");
    for holdings in [holdings, Holdings::new(Arc::clone(agent), Arc::clone(&catalog))] {
        assert!(!holdings.is_said(&chunk).expect("looked up") && holdings.read(&chunk, None).expect("read").is_none());
    }
    assert!(find_published(agent, "data", &version.version).expect("looked up").is_none());
    assert_eq!((agent.backlog_bytes(), agent.unsent_since()), (0, None));
    let shown = agent.status().expect("a status").datasets;
    assert_eq!(shown.iter().map(|dataset| &*dataset.name).collect::<Vec<_>>(), ["diary"]);
}

#[test]
fn a_version_that_alone_has_what_was_freed_is_remembered() {
    let site = Site::new("append");
    for path in ["a", "b", "c"] {
        site.write(path);
    }
    site.commit();
    let (catalog, id) = (site.catalog(), site.row().id);
    let first = catalog.committed(id).expect("read").expect("a version").version;
    site.free(&["a", "b"]);
    assert_eq!(catalog.freed_since(id).expect("read"), None);
    let begun = catalog.begin_freed_since(id, 1).expect("begun");
    assert_eq!((begun.since, begun.left), (1, None));
    site.delete(&["c"]);
    catalog.forget_freed(id, &[b"c".to_vec()]).expect("forgotten");
    catalog.withdraw_freed(id, &[b"b".to_vec()]).expect("withdrawn");
    assert_eq!(catalog.begin_freed_since(id, 9).expect("known"), begun, "nothing freed has left");
    site.delete(&["a"]);
    let left = catalog.freed_since(id).expect("read").expect("known");
    assert_eq!((left.since, left.left), (2, Some(first)));
    site.write("d");
    site.commit();
    site.free(&["d"]);
    site.write("d");
    site.commit();
    let back = catalog.freed_since(id).expect("read").expect("known");
    assert_eq!(back.since, 3, "another file may be where the freed one was");
    assert_ne!(back.left, left.left);
}

#[test]
fn the_first_version_waits_until_there_is_a_file_for_it() {
    let site = Site::new("append").with_settings("settle = \"0\"", "settle = \"1h\"");
    for path in ["a", "private/b"] {
        site.write(path);
    }
    // A folder with a mode of its own is recorded, but makes no version worth having.
    fs::set_permissions(site.path("private"), fs::Permissions::from_mode(0o700)).expect("set");
    for _ in 0..2 {
        let built = site.scan();
        assert!(built.waits && !built.is_new && built.report.settled_in.is_some() && built.skipped.len() == 2);
        assert_eq!(site.catalog().versions(built.row.id).expect("read"), []);
    }
    assert_eq!(site.agent.events(9).expect("read").len(), 1, "it is said once");

    let site = site.with_settings("settle = \"1h\"", "settle = \"0\"");
    assert!(site.scan().is_new);
    assert_eq!(site.paths(), ["a", "private", "private/b"]);
    site.commit();
    assert_eq!(site.catalog().committed(site.row().id).expect("read").expect("a version").number, 1);
}

#[test]
fn an_empty_folder_has_an_empty_first_version() {
    let site = Site::new("append");
    assert!(site.scan().is_new);
    assert_eq!(site.paths(), [""; 0]);
}

#[test]
fn a_first_version_that_loses_all_its_files_waits_for_the_next_scan() {
    let site = Site::new("append");
    site.write("a");
    let row = site.scan().row;
    let version = site.catalog().pending(row.id).expect("read").expect("a version");
    fs::write(site.path("a"), "something else").expect("written");
    let all = UnavailableChunk { range: OrdinalRange { first: 0, count: 1 }, reason: String::new() };
    let taken_back = revert(&site.catalog(), &row, &version, &[all]).expect("reverted");
    assert_eq!(taken_back.len(), 1);
    assert_eq!(site.catalog().pending(row.id).expect("read"), None);
    assert_eq!(site.paths(), ["a"]);
}

#[test]
fn the_index_of_chunks_has_what_the_version_has_and_no_more() {
    let site = Site::new("mirror");
    for path in ["a/x", "a/y", "b"] {
        site.write(path);
    }
    site.commit();
    let small = site.catalog().home_count();
    let holdings = || Holdings::new(Arc::clone(&site.agent), site.catalog());
    let twice = noise(0, 1 << 20);
    let mut count = 0;
    for round in 1..5 {
        // The same bytes in two files far apart, of which one changes.
        fs::write(site.path("a/large"), if round == 1 { twice.clone() } else { noise(round, 1 << 20) })
            .expect("written");
        fs::write(site.path("c"), &twice).expect("written");
        site.commit();
        count = site.catalog().home_count();
        let chunks = site.chunks();
        assert!(count <= chunks.len() as u64, "{count} entries for {} chunks", chunks.len());
        for chunk in chunks {
            assert!(holdings().read(&chunk.id, Some(chunk.length)).expect("read").is_some(), "round {round}");
        }
    }
    assert!(count > small);
    for path in ["a/large", "c"] {
        fs::remove_file(site.path(path)).expect("removed");
    }
    site.commit();
    assert_eq!(site.catalog().home_count(), small);
}

/// Bytes that no other seed gives.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
