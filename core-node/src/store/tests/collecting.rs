//! gc: it never removes what is reachable, and removes what is not.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use headwater_protocol::id::VersionId;
use headwater_protocol::manifest::Totals;
use headwater_protocol::page::{ChildRef, LeafPage, Page};
use headwater_protocol::record::{ChunkRef, Content, Extent, FileKind, FileRecord};
use proptest::prelude::*;

use super::*;
use crate::catalog::{
    CollectionMember, CollectionTable, CollectorTable, CommitVersionError, DatasetId, DatasetTable, Deletion,
    DropError, Lease, NewCollection, NewDataset, NewVersion, PackNumber, Retention, TagRecord,
};

const RECORDS_PER_PAGE: usize = 4;
const CHUNKS_PER_BATCH: usize = 3;
const AFTER_PINS: UnixMs = UnixMs(PIN_UNTIL.0 + 1);

/// Publishes small versions into a store as a session would.
pub(super) struct Datasets<'a> {
    store: &'a ChunkStore,
    committed: Cell<u64>,
}

impl<'a> Datasets<'a> {
    pub(super) fn new(store: &'a ChunkStore) -> Self {
        Self { store, committed: Cell::new(0) }
    }

    pub(super) fn dataset(&self, name: &str) -> DatasetId {
        let new =
            NewDataset { name: name.to_owned(), writer: UPLOADER, retention: Retention::default(), created_at: NOW };
        self.store.catalog().create_dataset(&new).unwrap().id
    }

    /// Stores and commits a version with these files, and gives its root page.
    pub(super) fn commit(&self, dataset: DatasetId, files: &[Vec<u8>]) -> ChunkId {
        let (root, pages) = tree_of(files);
        let mut chunks: Vec<_> = files.iter().map(|file| chunk(file.clone())).collect();
        chunks.extend(pages.iter().cloned());
        loop {
            for few in chunks.chunks(CHUNKS_PER_BATCH) {
                self.store.store_blocking(batch(few.to_vec())).unwrap();
            }
            let catalog = self.store.catalog();
            let name = catalog.dataset_by_id(dataset).unwrap().unwrap().name;
            let number = catalog.last_number(&name).unwrap() + 1;
            let ids: Vec<_> = pages.iter().map(|page| page.id).collect();
            let complete = catalog.pages_complete(dataset, &ids).unwrap();
            let of = |wanted: bool| {
                let chosen = ids.iter().zip(&complete).filter(move |(_, complete)| **complete == wanted);
                chosen.map(|(id, _)| *id).collect::<Vec<_>>()
            };
            self.committed.set(self.committed.get() + 1);
            let manifest = format!("{dataset:?} {number} {}", self.committed.get()).into_bytes();
            let new = NewVersion {
                dataset,
                number,
                version: VersionId::of(&manifest),
                writer: UPLOADER,
                manifest,
                root: Some(root),
                commit: Vec::new(),
                receipt: Vec::new(),
                totals: Totals::default(),
                committed_at: UnixMs(NOW.0 + number * 1000),
                new_pages: of(false),
                new_chunks: files.iter().map(|file| ChunkId::of(file)).collect(),
                complete_pages: of(true),
            };
            match catalog.commit_version(&new) {
                Ok(()) => return root,
                // gc was faster.
                Err(CommitVersionError::Missing(_) | CommitVersionError::Incomplete(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads everything that any version needs.
    fn check(&self) {
        let roots = self.store.catalog().roots(0).unwrap().roots;
        for root in roots {
            let mut seen = BTreeSet::new();
            let mut chunks = BTreeSet::new();
            self.store
                .walk(root.page, &mut |page| seen.insert(*page), &mut |chunk| {
                    chunks.insert(*chunk);
                })
                .unwrap_or_else(|error| panic!("{root:?}: {error}"));
            for id in chunks {
                self.store.read(&id).unwrap_or_else(|error| panic!("{root:?}: {error}"));
            }
        }
    }
}

/// The root and all pages of a tree of two levels.
fn tree_of(files: &[Vec<u8>]) -> (ChunkId, Vec<NewChunk>) {
    let mut pages = Vec::new();
    let mut children = Vec::new();
    for (page, group) in files.chunks(RECORDS_PER_PAGE).enumerate() {
        let mut leaf = LeafPage::default();
        for (position, file) in group.iter().enumerate() {
            let id = ChunkId::of(file);
            let length = file.len() as u32;
            let known = leaf.chunks.iter().position(|chunk| chunk.id == id);
            let index = known.unwrap_or_else(|| {
                leaf.chunks.push(ChunkRef { id, length });
                leaf.chunks.len() - 1
            });
            leaf.records.push(FileRecord {
                path: format!("{page:04}-{position}").into_bytes(),
                kind: FileKind::File,
                link_target: Vec::new(),
                mode: 0o644,
                mtime_ns: 0,
                size: u64::from(length),
                content: Content::Whole(vec![Extent { chunk: index as u32, offset: 0, length }]),
            });
        }
        let bytes = group.iter().map(|file| file.len() as u64).sum();
        let (first, files) = (leaf.records[0].path.clone(), leaf.records.len() as u64);
        let chunks = leaf.chunks.len() as u64;
        let encoded = chunk(Page::Leaf(leaf).encode());
        children.push(ChildRef { id: encoded.id, first, files, samples: files, bytes, chunks });
        pages.push(encoded);
    }
    let root = chunk(Page::Inner { level: 1, children }.encode());
    let id = root.id;
    pages.push(root);
    (id, pages)
}

fn gc(store: &ChunkStore, now: UnixMs) -> GcReport {
    store.collect(options_at(now), &mut |_| true).unwrap()
}

fn options_at(now: UnixMs) -> GcOptions {
    GcOptions { now, retention: Retention::default(), dry_run: false, last_copy: false, rewrite_live_percent_max: None }
}

fn files(seeds: impl IntoIterator<Item = u64>) -> Vec<Vec<u8>> {
    seeds.into_iter().map(|seed| noise(seed, 400)).collect()
}

#[test]
fn dead_packs_go_and_living_stay() {
    let (packs, catalog, store) = in_memory(4_000);
    let datasets = Datasets::new(&store);
    let cam = datasets.dataset("cam");
    datasets.commit(cam, &files(0..20));
    datasets.commit(cam, &files(100..120));
    let before = packs.list().unwrap().len();
    assert_eq!(gc(&store, AFTER_PINS).packs_deleted, 0, "both versions are kept");
    catalog.set_retention(cam, Retention { keep_last: Some(1), keep_newer_than_s: None }).unwrap();
    let dry = GcOptions { dry_run: true, ..options_at(AFTER_PINS) };
    let planned = store.collect(dry, &mut |_| true).unwrap();
    assert_eq!(packs.list().unwrap().len(), before, "a dry run changes nothing");
    let done = gc(&store, AFTER_PINS);
    assert_eq!(done, planned);
    assert_eq!(done.versions_dropped, 1);
    assert!(done.packs_deleted > 0 && packs.list().unwrap().len() == before - done.packs_deleted as usize);
    assert!(matches!(store.read(&ChunkId::of(&files([0])[0])), Err(ReadError::Missing(_))));
    datasets.check();
    assert_eq!(gc(&store, AFTER_PINS).packs_deleted, 0);
    drop(store);
    assert_eq!(open(&packs, &catalog, 4_000).1, RecoveryReport::default());
}

#[test]
fn uploads_are_kept_while_their_proof_lasts() {
    let (_, _, store) = in_memory(1_000);
    let chunks: Vec<_> = (0..10).map(|seed| chunk(noise(seed, 400))).collect();
    for chunk in &chunks {
        store.store_blocking(batch(vec![chunk.clone()])).unwrap();
    }
    assert_eq!(gc(&store, NOW).packs_deleted, 0);
    for chunk in &chunks {
        assert_eq!(store.read(&chunk.id).unwrap(), chunk.plain);
    }
    assert_eq!(gc(&store, AFTER_PINS).packs_deleted, 4, "the one that is written goes too");
    let next = chunk(noise(99, 400));
    store.store_blocking(batch(vec![next.clone()])).unwrap();
    assert_eq!(store.read(&next.id).unwrap(), next.plain);
}

#[test]
fn tags_and_leases_keep_old_versions() {
    let (_, catalog, store) = in_memory(2_000);
    let datasets = Datasets::new(&store);
    let cam = datasets.dataset("cam");
    for round in 0..4 {
        datasets.commit(cam, &files(round * 50..round * 50 + 20));
    }
    catalog.set_retention(cam, Retention { keep_last: Some(1), keep_newer_than_s: None }).unwrap();
    catalog.tag(cam, &TagRecord { name: "best".into(), number: 1, tagged_at: NOW }, false).unwrap();
    let leased = catalog.version(cam, 2).unwrap().unwrap().summary;
    let expires_at = UnixMs(AFTER_PINS.0 + 100);
    let lease = Lease { id: "job".into(), version: leased.version, root: leased.root, expires_at };
    catalog.put_lease(&lease).unwrap();
    let first = gc(&store, AFTER_PINS);
    assert!(first.versions_dropped == 1 && first.packs_deleted > 0, "{first:?}");
    let numbers: Vec<_> = catalog.versions(cam, None, 9).unwrap().iter().map(|version| version.number).collect();
    assert_eq!(numbers, [4, 2, 1]);
    datasets.check();
    catalog.untag(cam, "best").unwrap();
    assert_eq!(gc(&store, expires_at).versions_dropped, 2);
    datasets.check();
}

#[test]
fn what_devices_freed_is_dropped_on_a_word_only() {
    let (_, catalog, store) = in_memory(2_000);
    let datasets = Datasets::new(&store);
    let cam = datasets.dataset("cam");
    datasets.commit(cam, &files(0..8));
    datasets.commit(cam, &files(50..58));
    let Principal::Device(device) = UPLOADER else { unreachable!() };
    catalog.note_freed(&device, cam, 1, 1).unwrap();
    catalog.set_retention(cam, Retention { keep_last: Some(1), keep_newer_than_s: None }).unwrap();
    let dry = GcOptions { dry_run: true, ..options_at(AFTER_PINS) };
    let planned = store.collect(dry, &mut |_| true).unwrap();
    let held = gc(&store, AFTER_PINS);
    assert_eq!(planned, held);
    assert_eq!((held.versions_dropped, held.versions_held), (0, vec![("cam".to_owned(), 1)]));
    datasets.check();
    let word = GcOptions { last_copy: true, ..options_at(AFTER_PINS) };
    assert_eq!(store.collect(word, &mut |_| true).unwrap().versions_dropped, 1);
    catalog.note_freed(&device, cam, 2, 2).unwrap();
    assert!(
        matches!(catalog.delete_dataset(cam, Deletion::default()), Err(DropError::LastCopy { versions, .. }) if versions == [2])
    );
    catalog.delete_dataset(cam, Deletion { last_copy: true, collected: true, ..Deletion::default() }).unwrap();
}

#[test]
fn a_member_of_an_edition_is_kept() {
    let (_, catalog, store) = in_memory(2_000);
    let datasets = Datasets::new(&store);
    let cam = datasets.dataset("cam");
    for round in 0..3 {
        datasets.commit(cam, &files(round * 50..round * 50 + 8));
    }
    let new = NewCollection {
        name: "site".into(),
        pattern: "cam".into(),
        labels: Vec::new(),
        every_s: None,
        keep: None,
        created_at: NOW,
    };
    let version = catalog.version(cam, 1).unwrap().unwrap().summary.version;
    let member = CollectionMember { dataset: "cam".into(), number: 1, version };
    catalog.create_collection(&new, &[member]).unwrap();
    catalog.set_retention(cam, Retention { keep_last: Some(1), keep_newer_than_s: None }).unwrap();
    let dry = GcOptions { dry_run: true, ..options_at(AFTER_PINS) };
    let planned = store.collect(dry, &mut |_| true).unwrap();
    assert_eq!(planned.versions_dropped, 1, "a dry run says what the run does");
    assert_eq!(gc(&store, AFTER_PINS), planned);
    let numbers: Vec<_> = catalog.versions(cam, None, 9).unwrap().iter().map(|version| version.number).collect();
    assert_eq!(numbers, [3, 1]);
    datasets.check();
}

#[test]
fn gc_ends_on_a_core_that_never_rests() {
    let (packs, catalog, store) = in_memory(1_500);
    let datasets = Datasets::new(&store);
    let busy = datasets.dataset("busy");
    for seed in 0..40 {
        store.store_blocking(batch(vec![chunk(noise(seed, 900))])).unwrap();
    }
    let dead = packs.list().unwrap().len() as u64;
    // Between any two packs someone commits.
    let mut looked = Vec::new();
    let mut round = 1000;
    let report = store.collect(options_at(AFTER_PINS), &mut |progress| {
        if let GcProgress::Sweeping { done, .. } = progress {
            looked.push(done);
            round += 1;
            datasets.commit(busy, &files([round]));
        }
        true
    });
    let report = report.unwrap();
    assert_eq!(report.packs_deleted, dead);
    assert!(looked.is_sorted_by(|left, right| left < right), "each pack is come to once: {looked:?}");
    datasets.check();
    let versions = catalog.count_versions(busy).unwrap();
    assert_eq!(versions, looked.len() as u64);
}

#[test]
fn a_tree_that_goes_while_it_is_marked_hides_nothing_of_another() {
    let (packs, catalog, store) = in_memory(1_000);
    let datasets = Datasets::new(&store);
    let (first, second) = (datasets.dataset("first"), datasets.dataset("second"));
    let files = files(0..12);
    let root = datasets.commit(first, &files);
    assert_eq!(datasets.commit(second, &files), root, "they share every page");
    let (_, pages) = tree_of(&files);
    let leaf = &pages[0];
    let at = location(&*catalog, &leaf.id);
    packs.with_bytes(at.pack, |bytes| bytes[at.offset as usize + 70] ^= 1).unwrap();
    let mut deleted = false;
    let stopped = store.collect(options_at(AFTER_PINS), &mut |progress| {
        if !deleted && matches!(progress, GcProgress::Marking { .. }) {
            deleted = true;
            catalog
                .delete_dataset(first, Deletion { last_copy: true, collected: true, ..Deletion::default() })
                .unwrap();
        }
        true
    });
    assert!(matches!(&stopped, Err(GcError::Page { what, .. }) if what.contains("second")), "{stopped:?}");
    store.store_blocking(batch(vec![leaf.clone()])).unwrap();
    gc(&store, AFTER_PINS);
    datasets.check();
    assert_eq!(store.verify(&mut |_| true).unwrap().damaged_count, 0);
}

#[test]
fn a_leased_tree_that_is_not_whole_hides_nothing_of_another() {
    let (_, catalog, store) = in_memory(1_000);
    let datasets = Datasets::new(&store);
    let files = files(0..12);
    let (root, pages) = tree_of(&files);
    // A lease on a version of which a leaf is gone already; all the rest is here.
    let parts = files.iter().map(|file| chunk(file.clone())).chain(pages[1..].iter().cloned());
    for part in parts {
        store.store_blocking(batch(vec![part])).unwrap();
    }
    let expires_at = UnixMs(AFTER_PINS.0 + 100);
    let lease = Lease { id: "job".into(), version: VersionId::of(b"gone"), root: Some(root), expires_at };
    catalog.put_lease(&lease).unwrap();
    gc(&store, AFTER_PINS);
    let kept = |page: &NewChunk| store.read(&page.id).is_ok();
    assert!(pages[1..].iter().all(kept), "what is left is kept");
    assert!(files[4..].iter().all(|file| store.read(&ChunkId::of(file)).is_ok()), "below it too");
    let cam = datasets.dataset("cam");
    datasets.commit(cam, &files);
    gc(&store, AFTER_PINS);
    datasets.check();
}

#[test]
fn a_gc_that_is_stopped_leaves_all_whole() {
    let (packs, catalog, store) = in_memory(1_000);
    let datasets = Datasets::new(&store);
    let cam = datasets.dataset("cam");
    for round in 0..3 {
        datasets.commit(cam, &files(round * 50..round * 50 + 8));
    }
    catalog.set_retention(cam, Retention { keep_last: Some(1), keep_newer_than_s: None }).unwrap();
    let before = packs.list().unwrap().len() as u64;
    let wanted = |progress| !matches!(progress, GcProgress::Sweeping { done: 3, .. });
    let stopped = store.collect(options_at(AFTER_PINS), &mut { wanted }).unwrap();
    assert!(stopped.stopped && stopped.packs_deleted <= 3, "{stopped:?}");
    assert_eq!(packs.list().unwrap().len() as u64, before - stopped.packs_deleted, "what was dropped is deleted");
    datasets.check();
    let rest = gc(&store, AFTER_PINS);
    assert!(!rest.stopped && rest.packs_deleted > 0);
    datasets.check();
}

#[test]
fn the_pack_that_is_written_is_freed_when_it_is_mostly_dead() {
    let (packs, catalog, store) = in_memory(1 << 20);
    let datasets = Datasets::new(&store);
    let cam = datasets.dataset("cam");
    datasets.commit(cam, &files(0..60));
    datasets.commit(cam, &files((0..60).step_by(10)));
    catalog.set_retention(cam, Retention { keep_last: Some(1), keep_newer_than_s: None }).unwrap();
    assert_eq!(packs.list().unwrap().len(), 1);
    let before = packs.list().unwrap()[0].bytes;
    assert_eq!(gc(&store, AFTER_PINS).packs_deleted, 0, "some of it is live");
    let rewriting = GcOptions { rewrite_live_percent_max: Some(50), ..options_at(AFTER_PINS) };
    let dry = store.collect(GcOptions { dry_run: true, ..rewriting }, &mut |_| true).unwrap();
    let done = store.collect(rewriting, &mut |_| true).unwrap();
    assert_eq!(done, dry);
    assert_eq!((done.packs_deleted, done.packs_rewritten, done.dead_bytes), (1, 1, 0));
    let after: u64 = packs.list().unwrap().iter().map(|pack| pack.bytes).sum();
    assert!(after < before / 4, "{after} of {before} bytes");
    datasets.check();
    datasets.commit(cam, &files(100..110));
    catalog.delete_dataset(cam, Deletion { last_copy: true, collected: true, ..Deletion::default() }).unwrap();
    gc(&store, AFTER_PINS);
    assert_eq!(packs.list().unwrap(), [], "nothing is left of what nothing needs");
    drop(store);
    let (store, recovered) = open(&packs, &catalog, 1 << 20);
    assert_eq!(recovered, RecoveryReport::default());
    Datasets::new(&store).commit(Datasets::new(&store).dataset("again"), &files(0..3));
    Datasets::new(&store).check();
}

#[test]
fn mostly_dead_packs_are_copied_together() {
    let (packs, catalog, store) = in_memory(8_000);
    let datasets = Datasets::new(&store);
    let cam = datasets.dataset("cam");
    datasets.commit(cam, &files(0..60));
    // Of each pack a little lives on.
    datasets.commit(cam, &files((0..60).step_by(10)));
    catalog.set_retention(cam, Retention { keep_last: Some(1), keep_newer_than_s: None }).unwrap();
    let rewriting = GcOptions { rewrite_live_percent_max: Some(30), ..options_at(AFTER_PINS) };
    let report = store.collect(rewriting, &mut |_| true).unwrap();
    assert!(report.packs_rewritten >= 2, "{report:?}");
    let bytes: u64 = packs.list().unwrap().iter().map(|pack| pack.bytes).sum();
    assert!(bytes < 20_000, "{bytes}");
    datasets.check();
    drop(store);
    let (store, recovered) = open(&packs, &catalog, 8_000);
    assert_eq!(recovered, RecoveryReport::default());
    Datasets::new(&store).check();
    assert_eq!(store.verify(&mut |_| true).unwrap().damaged_count, 0);
}

#[test]
fn a_page_that_is_damaged_stops_the_sweep() {
    let (packs, catalog, store) = in_memory(2_000);
    let datasets = Datasets::new(&store);
    let cam = datasets.dataset("cam");
    let root = datasets.commit(cam, &files(0..8));
    let at = location(&*catalog, &root);
    packs.with_bytes(at.pack, |bytes| bytes[at.offset as usize + 70] ^= 1).unwrap();
    let stopped = store.collect(options_at(AFTER_PINS), &mut |_| true);
    assert!(matches!(stopped, Err(GcError::Page { .. })));
    let page = tree_of(&files(0..8)).1.into_iter().find(|page| page.id == root).unwrap();
    store.store_blocking(batch(vec![page])).unwrap();
    gc(&store, AFTER_PINS);
    datasets.check();
}

#[test]
fn a_crash_between_sweep_and_deletion_is_made_good() {
    let (packs, catalog, store) = in_memory(1_000);
    let chunks: Vec<_> = (0..10).map(|seed| chunk(noise(seed, 400))).collect();
    for chunk in &chunks {
        store.store_blocking(batch(vec![chunk.clone()])).unwrap();
    }
    let epoch = catalog.begin_collection(AFTER_PINS).unwrap();
    let sequence = catalog.roots(0).unwrap().sequence;
    assert!(catalog.sweep_pack(PackNumber(1), epoch, sequence, &|_| false, true).unwrap().dropped);
    drop(store);
    let (_, report) = open(&packs, &catalog, 1_000);
    assert_eq!((report.deleted_packs, report.adopted_chunks), (1, 0));
    assert!(packs.list().unwrap().iter().all(|pack| pack.number != PackNumber(1)));
}

#[test]
fn gc_runs_beside_uploads_and_commits() {
    let (_, catalog, store) = in_memory(3_000);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (store, stop, catalog) = (&store, &stop, &catalog);
        let collector = scope.spawn(move || {
            let mut runs = 0;
            while !stop.load(Ordering::Relaxed) || runs < 3 {
                let options = GcOptions { rewrite_live_percent_max: Some(50), ..options_at(AFTER_PINS) };
                store.collect(options, &mut |_| true).unwrap();
                runs += 1;
            }
        });
        let writers: Vec<_> = (0..3u64)
            .map(|writer| {
                scope.spawn(move || {
                    let datasets = Datasets::new(store);
                    let own = datasets.dataset(&format!("cam/{writer}"));
                    catalog.set_retention(own, Retention { keep_last: Some(2), keep_newer_than_s: None }).unwrap();
                    for round in 0..12 {
                        // Half of it is as before, a part is everyone's, and some of it comes back after it was dropped.
                        let seeds = (round * 3..round * 3 + 8).chain([1000 * writer + round % 4, 5000 + round % 3]);
                        datasets.commit(own, &files(seeds));
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        collector.join().unwrap();
    });
    let datasets = Datasets::new(&store);
    datasets.check();
    gc(&store, AFTER_PINS);
    datasets.check();
    assert_eq!(store.verify(&mut |_| true).unwrap().damaged_count, 0);
}

#[derive(Clone, Debug)]
enum Step {
    Commit { dataset: usize, from: u64, count: u64, stride: u64 },
    Keep { dataset: usize, last: u64 },
    Tag { dataset: usize, back: u64 },
    Untag { dataset: usize },
    Delete { dataset: usize },
    Collect { percent: Option<u8>, pins_over: bool },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..3, 0u64..40, 1u64..20, 1u64..4)
            .prop_map(|(dataset, from, count, stride)| Step::Commit { dataset, from, count, stride }),
        1 => (0usize..3, 1u64..3).prop_map(|(dataset, last)| Step::Keep { dataset, last }),
        1 => (0usize..3, 0u64..3).prop_map(|(dataset, back)| Step::Tag { dataset, back }),
        1 => (0usize..3).prop_map(|dataset| Step::Untag { dataset }),
        1 => (0usize..3).prop_map(|dataset| Step::Delete { dataset }),
        3 => (proptest::option::of(0u8..100), any::<bool>())
            .prop_map(|(percent, pins_over)| Step::Collect { percent, pins_over }),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn gc_never_removes_what_is_reachable(steps in proptest::collection::vec(step(), 1..24)) {
        let (packs, catalog, mut store) = in_memory(3_000);
        let mut names = [None; 3];
        for step in steps {
            let datasets = Datasets::new(&store);
            let mut id_of = |dataset: usize| {
                *names[dataset].get_or_insert_with(|| datasets.dataset(&format!("d{dataset}")))
            };
            match step {
                Step::Commit { dataset, from, count, stride } => {
                    datasets.commit(id_of(dataset), &files((0..count).map(|n| from + n * stride)));
                }
                Step::Keep { dataset, last } => {
                    let retention = Retention { keep_last: Some(last), keep_newer_than_s: None };
                    catalog.set_retention(id_of(dataset), retention).unwrap();
                }
                Step::Tag { dataset, back } => {
                    let id = id_of(dataset);
                    let versions = catalog.versions(id, None, 9).unwrap();
                    if let Some(version) = versions.get(back as usize) {
                        let tag = TagRecord { name: "kept".into(), number: version.number, tagged_at: NOW };
                        catalog.tag(id, &tag, true).unwrap();
                    }
                }
                Step::Untag { dataset } => {
                    catalog.untag(id_of(dataset), "kept").unwrap();
                }
                Step::Delete { dataset } => {
                    catalog.delete_dataset(id_of(dataset), Deletion { last_copy: true, collected: true, ..Deletion::default() }).unwrap();
                    names[dataset] = None;
                }
                Step::Collect { percent, pins_over } => {
                    let now = if pins_over { AFTER_PINS } else { NOW };
                    let options = GcOptions { rewrite_live_percent_max: percent, ..options_at(now) };
                    store.collect(options, &mut |_| true).unwrap();
                }
                Step::Restart => {
                    drop(store);
                    let (again, report) = open(&packs, &catalog, 3_000);
                    prop_assert_eq!(report, RecoveryReport::default());
                    store = again;
                }
            }
            Datasets::new(&store).check();
        }
        for name in names.into_iter().flatten() {
            catalog.delete_dataset(name, Deletion { last_copy: true, collected: true, ..Deletion::default() }).unwrap();
        }
        gc(&store, AFTER_PINS);
        prop_assert_eq!(packs.list().unwrap(), [], "packs are left, and nothing is");
    }
}
