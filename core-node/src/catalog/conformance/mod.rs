//! What every catalog must do, as one suite that each implementation runs.

use std::time::Duration;

use headwater_protocol::id::{ChunkId, PublicKey, VersionId};
use headwater_protocol::manifest::Totals;
use headwater_protocol::trust::Role;
use headwater_protocol::wire::PeerStatus;

use super::*;
use devices::{device, devices_keep_their_nonces, tokens_are_used_up};
use runs::logs_of_runs_only_grow;
use sweeping::{leases_are_roots, members_are_trimmed, packs_are_swept_whole, sweeps_stop_at_new_roots};

mod devices;
mod runs;
mod sweeping;

const DEVICE: Principal = Principal::Device(PublicKey([1; 32]));
const OTHER: Principal = Principal::Device(PublicKey([2; 32]));
const NOW: UnixMs = UnixMs(1_000_000);

macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $name() { super::$name(&super::MemoryCatalog::new()); })*
        }
        mod sqlite {
            $(#[test] fn $name() {
                let folder = tempfile::tempdir().unwrap();
                super::$name(&super::SqliteCatalog::open(&folder.path().join("catalog.sqlite")).unwrap());
            })*
        }
    };
}

conformance!(
    chunks_are_adopted_once,
    damage_is_set_aside_and_healed,
    scope_is_members_and_proofs,
    wide_scopes_answer_like_narrow_ones,
    commits_take_turns,
    commits_need_their_chunks,
    complete_pages_are_checked_again,
    reliance_guards_the_last_copy,
    versions_are_listed_and_dropped,
    tags_keep_versions,
    editions_are_immutable,
    collections_hold_versions_and_not_names,
    tokens_are_used_up,
    devices_keep_their_nonces,
    packs_are_swept_whole,
    sweeps_stop_at_new_roots,
    members_are_trimmed,
    leases_are_roots,
    notes_are_kept,
    logs_of_runs_only_grow,
    counts_follow_every_change,
);

fn id(number: u32) -> ChunkId {
    ChunkId::of(&number.to_le_bytes())
}

fn at(pack: u64, offset: u64) -> ChunkLocation {
    ChunkLocation { pack: PackNumber(pack), offset, stored_bytes: 10, plain_bytes: 20, codec: ChunkCodec::Zstd }
}

/// Enters chunks `numbers` into `pack`, one every 100 bytes, uploaded by `DEVICE`.
fn store(catalog: &dyn Catalog, pack: u64, numbers: std::ops::Range<u32>) {
    let chunks: Vec<_> = numbers
        .clone()
        .map(|number| AdoptedChunk { id: id(number), location: at(pack, u64::from(number) * 100) })
        .collect();
    let pin = Pin { principal: DEVICE, expires_at: UnixMs(NOW.0 + 10), chunks: numbers.clone().map(id).collect() };
    let pack_ends = vec![(PackNumber(pack), u64::from(numbers.end) * 100)];
    catalog.adopt(&AdoptGroup { chunks, pins: vec![pin], pack_ends }).unwrap();
}

fn dataset(catalog: &dyn Catalog, name: &str, writer: Principal) -> DatasetId {
    let new = NewDataset { name: name.to_owned(), writer, retention: Retention::default(), created_at: NOW };
    catalog.create_dataset(&new).unwrap().id
}

/// Version `number` of `dataset`, whose members are the chunks `members`; the first is its root.
fn version(dataset: DatasetId, number: u64, writer: Principal, members: std::ops::Range<u32>) -> NewVersion {
    let manifest = format!("{dataset:?} {number}").into_bytes();
    NewVersion {
        dataset,
        number,
        version: VersionId::of(&manifest),
        writer,
        manifest,
        root: members.clone().next().map(id),
        commit: b"signed".to_vec(),
        receipt: b"receipt".to_vec(),
        totals: Totals { files: number, samples: 1, bytes: u64::MAX, chunks: 2 },
        committed_at: UnixMs(NOW.0 + number),
        new_pages: members.clone().take(1).map(id).collect(),
        new_chunks: members.skip(1).map(id).collect(),
        complete_pages: Vec::new(),
    }
}

fn scope(datasets: &[DatasetId], uploader: Option<Principal>) -> Scope {
    Scope { everything: false, datasets: datasets.to_vec(), uploader }
}

fn seen(catalog: &dyn Catalog, scope: &Scope, number: u32, now: UnixMs) -> bool {
    catalog.locate_visible(scope, &[id(number)], now).unwrap()[0].is_some()
}

fn chunks_are_adopted_once(catalog: &dyn Catalog) {
    store(catalog, 1, 0..3);
    store(catalog, 2, 2..4);
    let found = catalog.locate(&[id(2), id(9), id(3)]).unwrap();
    assert_eq!(found[0].unwrap().location, at(1, 200), "what is stored keeps its place");
    assert_eq!(found[1], None);
    assert_eq!(found[2].unwrap().location, at(2, 300));
    let totals = catalog.counts().unwrap().chunks;
    assert_eq!(totals, ChunkTotals { chunks: 4, stored_bytes: 40, plain_bytes: 80, damaged: 0 });
    let ends: Vec<_> = catalog.packs().unwrap().iter().map(|pack| (pack.number.0, pack.end_bytes)).collect();
    assert_eq!(ends, [(1, 300), (2, 400)]);
    let in_pack: Vec<_> = catalog.chunks_in_pack(PackNumber(1), 100, 10).unwrap().iter().map(|e| e.id).collect();
    assert_eq!(in_pack, [id(1), id(2)]);

    let unknown = Pin { principal: DEVICE, expires_at: NOW, chunks: vec![id(77)] };
    let group = AdoptGroup {
        chunks: vec![AdoptedChunk { id: id(5), location: at(2, 500) }],
        pins: vec![unknown],
        ..Default::default()
    };
    assert!(catalog.adopt(&group).is_err());
    assert_eq!(catalog.locate(&[id(5)]).unwrap(), [None], "all of a group is entered, or nothing");

    let moves =
        [ChunkMove { id: id(0), from: at(1, 0), to: at(3, 7) }, ChunkMove { id: id(1), from: at(9, 9), to: at(3, 8) }];
    assert_eq!(catalog.relocate(&moves, (PackNumber(3), 50)).unwrap(), 1);
    assert_eq!(catalog.locate(&[id(0)]).unwrap()[0].unwrap().location, at(3, 7));
    assert_eq!(catalog.locate(&[id(1)]).unwrap()[0].unwrap().location, at(1, 100));
}

fn damage_is_set_aside_and_healed(catalog: &dyn Catalog) {
    store(catalog, 1, 0..3);
    let cam = dataset(catalog, "cam", DEVICE);
    catalog.commit_version(&version(cam, 1, DEVICE, 0..3)).unwrap();
    assert_eq!(catalog.pages_complete(cam, &[id(0), id(9)]).unwrap(), [true, false]);
    assert!(!catalog.mark_damaged(&id(1), &at(1, 5)).unwrap(), "the place must be the one that was read");
    assert!(catalog.mark_damaged(&id(1), &at(1, 100)).unwrap());
    assert!(!catalog.mark_damaged(&id(1), &at(1, 100)).unwrap());
    assert!(catalog.locate(&[id(1)]).unwrap()[0].unwrap().damaged);
    assert_eq!(catalog.damaged().unwrap().len(), 1);
    assert_eq!(catalog.datasets_holding(&id(1)).unwrap(), [cam]);
    assert_eq!(catalog.pages_complete(cam, &[id(0)]).unwrap(), [false], "the next publication looks everywhere");
    let again = version(cam, 2, DEVICE, 0..3);
    assert!(matches!(catalog.commit_version(&again), Err(CommitVersionError::Missing(ids)) if ids == [id(1)]));

    store(catalog, 2, 1..2);
    let healed = catalog.locate(&[id(1)]).unwrap()[0].unwrap();
    assert_eq!((healed.location, healed.damaged), (at(2, 100), false));
    assert_eq!(catalog.pages_complete(cam, &[id(0)]).unwrap(), [true]);
    catalog.commit_version(&again).unwrap();
}

fn scope_is_members_and_proofs(catalog: &dyn Catalog) {
    store(catalog, 1, 0..4);
    let (mine, theirs) = (dataset(catalog, "mine", DEVICE), dataset(catalog, "theirs", OTHER));
    assert!(seen(catalog, &Scope::everything(), 0, NOW));
    assert!(seen(catalog, &scope(&[], Some(DEVICE)), 0, NOW), "what it uploaded");
    assert!(!seen(catalog, &scope(&[], Some(DEVICE)), 0, UnixMs(NOW.0 + 10)), "the proof has ended");
    assert!(!seen(catalog, &scope(&[mine, theirs], Some(OTHER)), 0, NOW), "knowing a hash gives no access");
    catalog.commit_version(&version(mine, 1, DEVICE, 0..2)).unwrap();
    assert!(seen(catalog, &scope(&[mine], None), 1, NOW));
    assert!(!seen(catalog, &scope(&[theirs], None), 1, NOW));
    assert!(!seen(catalog, &scope(&[mine], None), 2, NOW));
    assert!(!seen(catalog, &scope(&[], Some(DEVICE)), 1, NOW), "the version has taken the proof's place");
    assert!(seen(catalog, &scope(&[], Some(DEVICE)), 2, NOW));
}

fn wide_scopes_answer_like_narrow_ones(catalog: &dyn Catalog) {
    store(catalog, 1, 0..4);
    let datasets: Vec<_> = (0..40).map(|number| dataset(catalog, &format!("d{number}"), DEVICE)).collect();
    catalog.commit_version(&version(datasets[33], 1, DEVICE, 0..2)).unwrap();
    assert!(seen(catalog, &scope(&datasets, None), 1, NOW));
    assert!(!seen(catalog, &scope(&datasets[..33], None), 1, NOW));
    assert!(!seen(catalog, &scope(&datasets, None), 2, NOW));
}

fn commits_take_turns(catalog: &dyn Catalog) {
    store(catalog, 1, 0..4);
    let cam = dataset(catalog, "cam", DEVICE);
    let exists = catalog.create_dataset(&NewDataset {
        name: "cam".into(),
        writer: OTHER,
        retention: Retention::default(),
        created_at: NOW,
    });
    assert!(matches!(exists, Err(CreateDatasetError::Exists { writer: DEVICE, .. })));
    let nowhere = version(DatasetId(99), 1, DEVICE, 0..1);
    assert!(matches!(catalog.commit_version(&nowhere), Err(CommitVersionError::NoDataset)));
    let second_writer = version(cam, 1, OTHER, 0..1);
    assert!(matches!(catalog.commit_version(&second_writer), Err(CommitVersionError::Writer { writer: DEVICE })));
    let skipping = version(cam, 2, DEVICE, 0..1);
    assert!(matches!(catalog.commit_version(&skipping), Err(CommitVersionError::Number { expected: 1 })));
    let first = version(cam, 1, DEVICE, 0..1);
    catalog.commit_version(&first).unwrap();
    assert!(matches!(catalog.commit_version(&first), Err(CommitVersionError::Already { number: 1 })));
    catalog.commit_version(&version(cam, 2, DEVICE, 1..3)).unwrap();

    assert!(!catalog.hand_over(cam, OTHER, Principal::Core).unwrap());
    assert!(catalog.hand_over(cam, DEVICE, OTHER).unwrap());
    catalog.commit_version(&version(cam, 3, OTHER, 0..0)).unwrap();
    let record = catalog.dataset("cam").unwrap().unwrap();
    let head = record.head.unwrap();
    assert_eq!((record.writer, head.number, head.totals.bytes), (OTHER, 3, u64::MAX));
    assert_eq!(catalog.dataset_by_id(cam).unwrap().unwrap(), record);
    let kept = catalog.version(cam, 2).unwrap().unwrap();
    assert_eq!((kept.summary.root, kept.commit, kept.receipt), (Some(id(1)), b"signed".to_vec(), b"receipt".to_vec()));
    assert_eq!(catalog.version(cam, 3).unwrap().unwrap().summary.root, None);
    let by_id = catalog.version_by_id(cam, &first.version).unwrap().unwrap();
    assert_eq!((by_id.summary.number, by_id.summary.writer, by_id.manifest), (1, DEVICE, first.manifest));
}

fn commits_need_their_chunks(catalog: &dyn Catalog) {
    store(catalog, 1, 0..2);
    let cam = dataset(catalog, "cam", DEVICE);
    match catalog.commit_version(&version(cam, 1, DEVICE, 0..4)) {
        Err(CommitVersionError::Missing(ids)) => assert_eq!(ids, [id(2), id(3)]),
        other => panic!("{other:?}"),
    }
    assert!(!seen(catalog, &scope(&[cam], None), 0, NOW), "nothing of a refused commit stays");
    assert_eq!(catalog.dataset("cam").unwrap().unwrap().head, None);
}

fn complete_pages_are_checked_again(catalog: &dyn Catalog) {
    store(catalog, 1, 0..4);
    let cam = dataset(catalog, "cam", DEVICE);
    catalog.commit_version(&version(cam, 1, DEVICE, 0..2)).unwrap();
    let second = |complete: u32| NewVersion { complete_pages: vec![id(complete)], ..version(cam, 2, DEVICE, 2..4) };
    assert!(matches!(catalog.commit_version(&second(3)), Err(CommitVersionError::Incomplete(ids)) if ids == [id(3)]));
    let posing = catalog.commit_version(&second(1));
    assert!(
        matches!(posing, Err(CommitVersionError::Incomplete(_))),
        "a data chunk is no page, whatever its bytes are"
    );
    assert_eq!(catalog.pages_complete(cam, &[id(0), id(1)]).unwrap(), [true, false]);
    catalog.commit_version(&second(0)).unwrap();
    let as_page = NewVersion { new_pages: vec![id(1)], ..version(cam, 3, DEVICE, 0..1) };
    catalog.commit_version(&as_page).unwrap();
    assert_eq!(catalog.pages_complete(cam, &[id(1)]).unwrap(), [true]);
}

fn reliance_guards_the_last_copy(catalog: &dyn Catalog) {
    store(catalog, 1, 0..4);
    let cam = dataset(catalog, "cam", DEVICE);
    for number in 1..=3 {
        catalog.commit_version(&version(cam, number, DEVICE, 0..2)).unwrap();
    }
    let device = PublicKey([1; 32]);
    catalog.note_freed(&device, cam, 2, 1).unwrap();
    let refused = catalog.drop_versions(cam, &[1, 2], false);
    assert!(matches!(refused, Err(DropError::LastCopy { versions, devices })
        if versions == [2] && devices == [device]));
    assert!(matches!(catalog.may_drop(cam, 2, false), Err(DropError::LastCopy { .. })));
    catalog.may_drop(cam, 2, true).unwrap();
    assert_eq!(catalog.versions(cam, None, 10).unwrap().len(), 3, "all are dropped, or none");
    catalog.note_freed(&device, cam, 9, 1).unwrap();
    assert!(catalog.drop_versions(cam, &[2], false).is_err(), "a version that is not there replaces no other");
    catalog.drop_versions(cam, &[1], false).unwrap();
    catalog.drop_versions(cam, &[2], true).unwrap();
    catalog.commit_version(&version(cam, 4, DEVICE, 0..2)).unwrap();
    catalog.note_freed(&device, cam, 3, 1).unwrap();
    catalog.note_freed(&device, cam, 4, 4).unwrap();
    catalog.note_freed(&device, cam, 4, u64::MAX).unwrap();
    assert!(catalog.drop_versions(cam, &[3], false).is_err(), "the later version has not all that was freed of it");
    catalog.commit_version(&version(cam, 5, DEVICE, 0..2)).unwrap();
    catalog.note_freed(&device, cam, 5, 4).unwrap();
    assert!(catalog.drop_versions(cam, &[3], false).is_err(), "what is said of later ones does not change that");
    catalog.drop_versions(cam, &[4], false).unwrap();
    catalog.note_freed(&device, cam, 5, 3).unwrap();
    catalog.drop_versions(cam, &[3], false).unwrap();
    assert!(matches!(catalog.delete_dataset(cam, Deletion::default()), Err(DropError::LastCopy { .. })));
    let unfreed = dataset(catalog, "unfreed", DEVICE);
    catalog.commit_version(&version(unfreed, 1, DEVICE, 0..2)).unwrap();
    catalog.delete_dataset(unfreed, Deletion::default()).expect("a receipt alone is no word that bytes were freed");
    let of = |newest| Deletion { last_copy: true, newest: Some(newest), ..Deletion::default() };
    let newest = catalog.dataset_by_id(cam).unwrap().unwrap().head.unwrap().number;
    assert!(
        matches!(catalog.delete_dataset(cam, of(newest + 1)), Err(DropError::Newest { number }) if number == newest)
    );
    catalog.delete_dataset(cam, of(newest)).unwrap();
    assert!(matches!(
        catalog.delete_dataset(cam, Deletion { last_copy: true, collected: false, ..Deletion::default() }),
        Err(DropError::NotFound)
    ));
    assert_eq!(catalog.dataset("cam").unwrap(), None);
    assert!(!seen(catalog, &scope(&[cam], None), 0, NOW));
    assert_ne!(dataset(catalog, "cam", OTHER), cam, "a number is never used again");
}

fn versions_are_listed_and_dropped(catalog: &dyn Catalog) {
    let cam = dataset(catalog, "cam", Principal::Core);
    for number in 1..=5 {
        catalog.commit_version(&version(cam, number, Principal::Core, 0..0)).unwrap();
    }
    let numbers = |before, limit| -> Vec<u64> {
        catalog.versions(cam, before, limit).unwrap().iter().map(|version| version.number).collect()
    };
    assert_eq!(numbers(None, 3), [5, 4, 3]);
    assert_eq!(numbers(Some(3), 3), [2, 1]);
    assert!(matches!(catalog.drop_versions(cam, &[5], true), Err(DropError::Newest { number: 5 })));
    assert!(matches!(catalog.drop_versions(cam, &[9], true), Err(DropError::NotFound)));
    assert!(matches!(catalog.may_drop(cam, 5, true), Err(DropError::Newest { number: 5 })));
    assert!(matches!(catalog.may_drop(cam, 9, true), Err(DropError::NotFound)));
    catalog.may_drop(cam, 1, false).unwrap();
    assert_eq!(catalog.datasets_to_trim().unwrap(), [], "asking changes nothing");
    catalog.drop_versions(cam, &[1, 3], false).unwrap();
    assert_eq!(numbers(None, 9), [5, 4, 2]);
    assert_eq!(catalog.count_versions(cam).unwrap(), 3);
    assert_eq!(catalog.datasets_to_trim().unwrap(), [cam]);
    catalog.set_retention(cam, Retention { keep_last: Some(3), keep_newer_than_s: None }).unwrap();
    let record = &catalog.datasets().unwrap()[0];
    assert_eq!(record.retention.keep_last, Some(3));
}

fn tags_keep_versions(catalog: &dyn Catalog) {
    let cam = dataset(catalog, "cam", Principal::Core);
    for number in 1..=3 {
        catalog.commit_version(&version(cam, number, Principal::Core, 0..0)).unwrap();
    }
    let tag = |name: &str, number| TagRecord { name: name.into(), number, tagged_at: NOW };
    assert!(matches!(catalog.tag(cam, &tag("best", 8), false), Err(TagError::NoVersion { number: 8 })));
    catalog.tag(cam, &tag("best", 1), false).unwrap();
    catalog.tag(cam, &tag("best", 1), false).unwrap();
    assert!(matches!(catalog.tag(cam, &tag("best", 2), false), Err(TagError::Taken { number: 1, .. })));
    assert!(matches!(catalog.drop_versions(cam, &[1], true), Err(DropError::Tagged { number: 1, .. })));
    catalog.tag(cam, &tag("best", 2), true).unwrap();
    assert_eq!(catalog.tags(cam).unwrap(), [tag("best", 2)]);
    catalog.drop_versions(cam, &[1], false).unwrap();
    assert!(catalog.untag(cam, "best").unwrap());
    assert!(!catalog.untag(cam, "best").unwrap());
    catalog.drop_versions(cam, &[2], false).unwrap();
}

fn editions_are_immutable(catalog: &dyn Catalog) {
    let new = NewCollection {
        name: "site".into(),
        pattern: "cam/*".into(),
        labels: vec![("site".into(), "x".into())],
        every_s: Some(3600),
        keep: Some(2),
        created_at: NOW,
    };
    let member = |name: &str, number| {
        let of = catalog.dataset(name).unwrap().unwrap().id;
        CollectionMember { dataset: name.into(), number, version: version(of, number, Principal::Core, 0..0).version }
    };
    for name in ["cam/a", "cam/b"] {
        let id = dataset(catalog, name, Principal::Core);
        for number in 1..=2 {
            catalog.commit_version(&version(id, number, Principal::Core, 0..0)).unwrap();
        }
    }
    let gone = CollectionMember { number: 7, ..member("cam/a", 1) };
    let refused = catalog.create_collection(&new, &[member("cam/b", 1), gone.clone()]);
    assert!(matches!(refused, Err(CreateCollectionError::NoMember { number: 7, .. })));
    assert_eq!(catalog.collection("site").unwrap(), None, "it is made with its first edition, or not at all");
    let first = catalog.create_collection(&new, &[member("cam/b", 1), member("cam/a", 1)]).unwrap();
    assert!(matches!(catalog.create_collection(&new, &[]), Err(CreateCollectionError::Exists(_))));
    assert_eq!((first.number, first.members[0].dataset.as_str()), (1, "cam/a"));
    assert_eq!(first.id, Edition::id_of(&first.members));
    let same = catalog.add_edition("site", &[member("cam/a", 1), member("cam/b", 1)], UnixMs(5)).unwrap();
    assert_eq!(same, first, "the same members are the same edition");
    let second = catalog.add_edition("site", &[member("cam/a", 2)], NOW).unwrap();
    assert_eq!(second.number, 2);
    assert_eq!(catalog.edition("site", Some(1)).unwrap().unwrap(), first);
    assert_eq!(catalog.edition("site", None).unwrap().unwrap(), second);
    assert_eq!(catalog.edition("site", Some(3)).unwrap(), None);
    assert!(matches!(catalog.add_edition("site", &[gone], NOW), Err(AddEditionError::NoMember { number: 7, .. })));
    assert!(matches!(catalog.add_edition("else", &[], NOW), Err(AddEditionError::NoCollection(_))));
    let latest = Some((2, second.id, NOW));
    assert_eq!(catalog.collections().unwrap(), [CollectionRecord { rule: new, latest }]);

    let cam = catalog.dataset("cam/a").unwrap().unwrap().id;
    match catalog.drop_versions(cam, &[1], true) {
        Err(DropError::Tagged { number: 1, tag }) => assert_eq!(tag, "site@1"),
        other => panic!("{other:?}"),
    }
    let third = catalog.add_edition("site", &[member("cam/b", 2)], NOW).unwrap();
    assert_eq!((third.number, catalog.edition("site", Some(1)).unwrap()), (3, None), "the newest two are kept");
    assert_eq!(catalog.edition("site", Some(2)).unwrap().unwrap(), second);
    catalog.drop_versions(cam, &[1], false).unwrap();
    assert!(catalog.delete_collection("site").unwrap());
    assert!(!catalog.delete_collection("site").unwrap());
    assert_eq!(catalog.collection("site").unwrap(), None);
    assert_eq!(catalog.edition("site", Some(3)).unwrap(), None);
}

fn collections_hold_versions_and_not_names(catalog: &dyn Catalog) {
    let new = NewCollection {
        name: "all".into(),
        pattern: "**".into(),
        labels: Vec::new(),
        every_s: None,
        keep: None,
        created_at: NOW,
    };
    let cam = dataset(catalog, "cam", Principal::Core);
    let first = version(cam, 1, Principal::Core, 0..0);
    catalog.commit_version(&first).unwrap();
    let member = CollectionMember { dataset: "cam".into(), number: 1, version: first.version };
    catalog.create_collection(&new, &[member]).unwrap();
    let refused = catalog.delete_dataset(cam, Deletion { last_copy: true, collected: false, ..Deletion::default() });
    assert!(matches!(refused, Err(DropError::Collected { collection, number: 1 }) if collection == "all"));
    assert_eq!(catalog.dataset("cam").unwrap().unwrap().id, cam);
    catalog.delete_dataset(cam, Deletion { last_copy: false, collected: true, ..Deletion::default() }).unwrap();

    // Under the same name something else begins, which the collection never held: its numbers go on.
    assert_eq!(catalog.last_number("cam").unwrap(), 1);
    let again = dataset(catalog, "cam", Principal::Core);
    let refused = catalog.commit_version(&version(again, 1, Principal::Core, 0..0));
    assert!(matches!(refused, Err(CommitVersionError::Number { expected: 2 })), "{refused:?}");
    for number in 2..=3 {
        catalog.commit_version(&version(again, number, Principal::Core, 0..0)).unwrap();
    }
    catalog.drop_versions(again, &[2], false).unwrap();
    catalog.delete_dataset(again, Deletion::default()).unwrap();
    assert_eq!((catalog.last_number("cam").unwrap(), catalog.last_number("never").unwrap()), (3, 0));
    // One without versions ends without a trace.
    let third = dataset(catalog, "cam", Principal::Core);
    catalog.delete_dataset(third, Deletion::default()).unwrap();
    assert_eq!(catalog.last_number("cam").unwrap(), 3);
}

fn notes_are_kept(catalog: &dyn Catalog) {
    assert_eq!(catalog.note("key").unwrap(), None);
    catalog.set_note("key", b"one").unwrap();
    catalog.set_note("key", b"two").unwrap();
    assert_eq!(catalog.note("key").unwrap().unwrap(), b"two");
    catalog.tidy().unwrap();
    assert_eq!(catalog.check().unwrap(), None);
    assert_eq!(catalog.note("key").unwrap().unwrap(), b"two");
}

fn counts_follow_every_change(catalog: &dyn Catalog) {
    let counted = |catalog: &dyn Catalog| {
        let CatalogCounts { devices, datasets, versions, chunks, .. } = catalog.counts().unwrap();
        (devices, datasets, versions, chunks)
    };
    let totals =
        |chunks: u64, damaged| ChunkTotals { chunks, stored_bytes: chunks * 10, plain_bytes: chunks * 20, damaged };
    assert_eq!(counted(catalog), (0, 0, 0, totals(0, 0)));
    store(catalog, 1, 0..3);
    store(catalog, 2, 2..5);
    assert_eq!((catalog.counts().unwrap().packs, catalog.counts().unwrap().pack_bytes), (2, 800));
    assert_eq!(catalog.counts().unwrap().chunks, totals(5, 0), "what is known counts once");
    catalog.mark_damaged(&id(1), &at(1, 100)).unwrap();
    catalog.mark_damaged(&id(1), &at(1, 100)).unwrap();
    assert_eq!(catalog.counts().unwrap().chunks, totals(5, 1));
    store(catalog, 3, 1..2);
    assert_eq!(catalog.counts().unwrap().chunks, totals(5, 0), "it was stored again");
    let to = ChunkLocation { stored_bytes: 7, ..at(3, 900) };
    catalog.relocate(&[ChunkMove { id: id(3), from: at(2, 300), to }], (PackNumber(3), 1000)).unwrap();
    assert_eq!(catalog.counts().unwrap().chunks, ChunkTotals { stored_bytes: 47, ..totals(5, 0) });
    let cam = dataset(catalog, "cam", DEVICE);
    catalog.commit_version(&version(cam, 1, DEVICE, 0..1)).unwrap();
    catalog.commit_version(&version(cam, 2, DEVICE, 0..1)).unwrap();
    catalog.add_device(&device(1, "a")).unwrap();
    catalog.add_device(&device(2, "b")).unwrap();
    catalog.revoke_device(&PublicKey([2; 32]), NOW).unwrap();
    assert_eq!(counted(catalog), (1, 1, 2, ChunkTotals { stored_bytes: 47, ..totals(5, 0) }));
    let epoch = catalog.begin_collection(UnixMs(NOW.0 + 10)).unwrap();
    let sequence = catalog.roots(0).unwrap().sequence;
    assert!(catalog.sweep_pack(PackNumber(2), epoch, sequence, &|_| false, true).unwrap().dropped);
    assert_eq!(catalog.counts().unwrap().chunks, ChunkTotals { stored_bytes: 37, ..totals(4, 0) });
    catalog.delete_dataset(cam, Deletion { last_copy: true, collected: true, ..Deletion::default() }).unwrap();
    assert_eq!((catalog.counts().unwrap().datasets, catalog.counts().unwrap().versions), (0, 0));
}
