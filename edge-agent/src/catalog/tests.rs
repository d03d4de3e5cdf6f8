//! What the catalog keeps, how it tells damage from trouble, and what it refuses untouched.

use std::sync::Arc;

use headwater_protocol::chunking::{ChunkerParams, GroupingParams};
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::manifest::Manifest;
use headwater_protocol::tree::PageSource;

use super::*;

fn version(number: u64, state: VersionState) -> VersionRow {
    let manifest = Manifest {
        chunker: ChunkerParams::default(),
        grouping: GroupingParams::default(),
        parent: None,
        origin: format!("device {number}"),
        metadata: Vec::new(),
        height: 0,
        root: None,
    }
    .encode();
    VersionRow { number, version: VersionId::of(&manifest), state, manifest, record: vec![1], receipt: Vec::new() }
}

fn dataset(catalog: &Catalog, name: &str) -> DatasetId {
    catalog.dataset(name, Role::Publish, Path::new("/data")).expect("a dataset").id
}

#[test]
fn versions_go_from_built_to_committed() {
    let catalog = Catalog::in_memory();
    let id = dataset(&catalog, "cam");
    let first = version(1, VersionState::Built);
    catalog.put_version(id, &first).expect("kept");
    assert_eq!(catalog.pending(id).expect("read"), Some(first.clone()));
    assert_eq!(catalog.committed(id).expect("read"), None);
    catalog.commit_version(id, &VersionRow { receipt: vec![7], ..first.clone() }, 2).expect("noted");
    assert_eq!(catalog.pending(id).expect("read"), None);
    assert_eq!(catalog.committed(id).expect("read").expect("there").receipt, vec![7]);
    for number in 2..5 {
        catalog.commit_version(id, &version(number, VersionState::Offered), 2).expect("noted");
    }
    let numbers: Vec<_> = catalog.versions(id).expect("read").iter().map(|row| row.number).collect();
    assert_eq!(numbers, [4, 3]);
}

#[test]
fn a_flipped_value_is_damage() {
    let catalog = Catalog::in_memory();
    let id = dataset(&catalog, "cam");
    catalog.put_version(id, &version(1, VersionState::Committed)).expect("kept");
    catalog.lock().execute("UPDATE versions SET number = 9", []).expect("changed");
    assert!(catalog.committed(id).expect_err("noticed").is_damage());

    let page = vec![5u8; 100];
    let leaf = ChunkId::of(&page);
    catalog.put_pages(id, &[(leaf, false, page.clone())]).expect("kept");
    catalog.put_stamps(id, &[(leaf, vec![1, 2, 3])]).expect("kept");
    assert_eq!(catalog.page(id, &leaf).expect("read"), Some(page));
    assert_eq!(catalog.stamps(id, &leaf).expect("read"), Some(vec![1, 2, 3]));
    catalog.lock().execute("UPDATE pages SET bytes = x'00'", []).expect("changed");
    catalog.lock().execute("UPDATE stamps SET stamps = x'00'", []).expect("changed");
    assert!(catalog.page(id, &leaf).expect_err("noticed").is_damage());
    assert!(catalog.stamps(id, &leaf).expect_err("noticed").is_damage());
}

#[test]
fn pages_belong_to_one_dataset() {
    let catalog = Catalog::in_memory();
    let own = dataset(&catalog, "own");
    let local = catalog.dataset("secret", Role::Local, Path::new("/secret")).expect("a dataset").id;
    let page = vec![9u8; 10];
    let id = ChunkId::of(&page);
    catalog.put_pages(local, &[(id, false, page)]).expect("kept");
    assert_eq!(catalog.page(own, &id).expect("read"), None);
    assert_eq!(
        catalog.page_of_any(&id, |_| true).expect("read"),
        None,
        "a local dataset's page was found by another's lookup"
    );
    assert_eq!(catalog.prune_pages(local).expect("pruned"), 1, "no version reaches it");
}

#[test]
fn what_a_newer_release_wrote_is_refused_and_untouched() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(Catalog::open(folder.path()).expect("made"));
    let raw = Connection::open(folder.path().join(CATALOG_FILE)).expect("open");
    raw.execute_batch("PRAGMA user_version = 99").expect("set");
    drop(raw);
    assert!(matches!(Catalog::open(folder.path()), Err(CatalogError::Newer { found: 99, .. })));
}

/// What is done to a catalog's file.
type Damage = fn(&Path);

#[test]
fn damage_is_told_from_trouble() {
    let cases: &[(&str, Damage)] = &[
        ("garbage", |path| std::fs::write(path, vec![0xa5; 9000]).expect("written")),
        ("a zeroed header", |path| {
            let mut bytes = std::fs::read(path).expect("read");
            bytes[..100].fill(0);
            std::fs::write(path, bytes).expect("written");
        }),
        ("a lost table", |path| {
            Connection::open(path).and_then(|raw| raw.execute_batch("DROP TABLE pages")).expect("dropped");
        }),
    ];
    for (what, damage) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        drop(Catalog::open(folder.path()).expect("made"));
        let path = folder.path().join(CATALOG_FILE);
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(folder.path().join(format!("{CATALOG_FILE}{suffix}")));
        }
        damage(&path);
        let error = Catalog::open(folder.path()).err().unwrap_or_else(|| panic!("{what} was not noticed"));
        assert!(error.is_damage(), "{what}: {error}");
        set_aside(folder.path(), 1).expect("set aside");
        Catalog::open(folder.path()).expect("made anew").check().expect("whole");
    }
}

#[test]
fn events_and_counters_are_kept() {
    let catalog = Catalog::in_memory();
    for number in 0..5 {
        let event = Event {
            id: 0,
            at_s: number,
            level: EventLevel::Warn,
            code: String::new(),
            dataset: "cam".into(),
            text: format!("event {number}"),
        };
        catalog.put_event(&event).expect("kept");
    }
    let newest = catalog.events(2).expect("read");
    assert_eq!(newest.iter().map(|event| event.at_s).collect::<Vec<_>>(), [3, 4]);
    catalog.count_bytes(&[("pages", 9), ("chunks", 0)]).expect("counted");
    catalog.count_bytes(&[("pages", -2)]).expect("counted");
    assert_eq!(catalog.counters().expect("read"), [("pages".to_owned(), 7)]);
}

#[test]
fn what_was_offered_is_recognised_however_often_the_folder_changes_since() {
    let catalog = Catalog::in_memory();
    let id = dataset(&catalog, "cam");
    let offered = VersionRow { record: vec![9], ..version(1, VersionState::Offered) };
    catalog.put_version(id, &offered).expect("kept");
    let built = |number: u64| VersionRow { record: Vec::new(), number: 1, ..version(number, VersionState::Built) };
    for number in 2..20 {
        let VersionRow { number, version, manifest, .. } = built(number);
        catalog.put_built(id, number, version, manifest).expect("kept");
    }
    assert_eq!(catalog.pending(id).expect("read"), Some(built(19)));
    assert_eq!(catalog.versions(id).expect("read").len(), 2, "what nobody was offered is not remembered");
    let known = catalog.version(id, &offered.version).expect("read").expect("remembered");
    assert_eq!((known.state, known.record), (VersionState::Superseded, vec![9]));

    // The folder is as it was then: what was offered waits again, under the signature that it had.
    catalog.put_built(id, 1, offered.version, offered.manifest.clone()).expect("kept");
    assert_eq!(catalog.pending(id).expect("read"), Some(offered.clone()));
    catalog.supersede(id).expect("noted");
    assert_eq!(catalog.pending(id).expect("read"), None);
    catalog.commit_version(id, &offered, 1).expect("noted");
    assert_eq!(catalog.versions(id).expect("read").len(), 1);
}

#[test]
fn since_when_something_waits_outlives_the_process_and_ends_with_the_commit() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let since = {
        let catalog = Catalog::open(path).expect("opens");
        let id = dataset(&catalog, "cam");
        let VersionRow { version, manifest, .. } = version(1, VersionState::Built);
        assert_eq!(catalog.unsent_since_s(id).expect("read"), None);
        catalog.put_built(id, 1, version, manifest).expect("kept");
        let key = catalog.unsent_since_s(id).expect("read").expect("it waits");
        // As if it had been found three hours ago.
        catalog.put_meta(&format!("unsent-since/{}", id.number()), &(key - 10_800).to_le_bytes()).expect("kept");
        key - 10_800
    };
    let catalog = Catalog::open(path).expect("opens");
    let id = dataset(&catalog, "cam");
    assert_eq!(catalog.unsent_since_s(id).expect("read"), Some(since));
    let later = version(2, VersionState::Built);
    catalog.put_built(id, 1, later.version, later.manifest.clone()).expect("kept");
    assert_eq!(catalog.unsent_since_s(id).expect("read"), Some(since), "a version in its place is no younger");
    catalog.commit_version(id, &VersionRow { number: 1, ..later }, 1).expect("noted");
    assert_eq!(catalog.unsent_since_s(id).expect("read"), None);
}

#[test]
fn a_dataset_that_was_forgotten_is_no_damage_and_never_another_one() {
    let catalog = Catalog::in_memory();
    let id = dataset(&catalog, "cam");
    catalog.forget_dataset(id).expect("forgotten");
    let error = catalog.put_version(id, &version(1, VersionState::Built)).expect_err("it has no dataset");
    assert!(!error.is_damage(), "{error}");
    assert_ne!(dataset(&catalog, "other"), id);
}

#[test]
fn a_page_that_went_with_its_version_is_no_damage() {
    let catalog = Arc::new(Catalog::in_memory());
    let id = dataset(&catalog, "cam");
    let page = ChunkId::of(b"a page that was pruned");
    DatasetPages::of_passing_version(Arc::clone(&catalog), id).page(&page).expect_err("it is gone");
    assert!(!catalog.is_suspect());
    DatasetPages::new(Arc::clone(&catalog), id).page(&page).expect_err("it is gone");
    assert!(catalog.is_suspect());
}
