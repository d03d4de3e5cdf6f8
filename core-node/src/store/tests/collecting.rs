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
    CollectorTable, CommitVersionError, DatasetId, DatasetTable, DropError, Lease, NewDataset, NewVersion, PackNumber,
    PublishMode, Retention, TagRecord,
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
        let new = NewDataset {
            name: name.to_owned(),
            writer: UPLOADER,
            mode: PublishMode::Append,
            retention: Retention::default(),
            created_at: NOW,
        };
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
            let number = catalog.dataset_by_id(dataset).unwrap().unwrap().head.map_or(1, |head| head.number + 1);
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
    store.collect(options_at(now), &mut |_| {}).unwrap()
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
    let planned = store.collect(dry, &mut |_| {}).unwrap();
    assert_eq!(packs.list().unwrap().len(), before, "a dry run changes nothing");
    let done = gc(&store, AFTER_PINS);
    assert_eq!((done.versions_dropped, done.packs_deleted), (1, planned.packs_deleted));
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
    assert_eq!(gc(&store, AFTER_PINS).packs_deleted, 3, "all but the one that is written");
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
    catalog.note_freed(&device, cam, 1).unwrap();
    catalog.set_retention(cam, Retention { keep_last: Some(1), keep_newer_than_s: None }).unwrap();
    let held = gc(&store, AFTER_PINS);
    assert_eq!((held.versions_dropped, held.versions_held), (0, vec![("cam".to_owned(), 1)]));
    datasets.check();
    let word = GcOptions { last_copy: true, ..options_at(AFTER_PINS) };
    assert_eq!(store.collect(word, &mut |_| {}).unwrap().versions_dropped, 1);
    assert!(matches!(catalog.delete_dataset(cam, false), Ok(()) | Err(DropError::LastCopy { .. })));
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
    let report = store.collect(rewriting, &mut |_| {}).unwrap();
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
    let stopped = store.collect(options_at(AFTER_PINS), &mut |_| {});
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
                store.collect(options, &mut |_| {}).unwrap();
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
                    catalog.delete_dataset(id_of(dataset), true).unwrap();
                    names[dataset] = None;
                }
                Step::Collect { percent, pins_over } => {
                    let now = if pins_over { AFTER_PINS } else { NOW };
                    let options = GcOptions { rewrite_live_percent_max: percent, ..options_at(now) };
                    store.collect(options, &mut |_| {}).unwrap();
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
            catalog.delete_dataset(name, true).unwrap();
        }
        gc(&store, AFTER_PINS);
        let left = packs.list().unwrap().len();
        prop_assert!(left <= 1, "{left} packs are left, and nothing is");
    }
}
