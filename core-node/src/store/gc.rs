//! Freeing what nothing needs any more.
//!
//! Retention first lets go of old versions. Then everything below the remaining versions and below leases is marked;
//! proofs of uploads pin by themselves. Then memberships of what was let go are ended, and only then packs are swept: those in which
//! nothing is live are deleted, those that are mostly dead are copied together first, if wanted.
//!
//! It runs beside uploads and commits. What is stored or pinned after it began is live (the catalog's epoch); a version committed
//! meanwhile stops the sweep until its tree is marked too (the catalog's root sequence); and the sweep itself runs on the
//! writer thread between two groups, so no chunk is found "here already" and gone a moment later. A page of a living version
//! that can't be read ends the gc before anything is swept: what is below it can't be known.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use headwater_protocol::id::{ChunkId, VersionId};
use tokio::sync::oneshot;

use super::chunk_store::{ChunkStore, ReadError, StoreError, read_record};
use super::pack::PackError;
use super::retention;
use super::walk::WalkError;
use super::writer::{MovedChunk, Request};
use crate::catalog::{
    CatalogError, ChunkEntry, DatasetId, DatasetRecord, DropError, PackNumber, PackState, PackSweep, Retention, Root,
    SweepError, UnixMs, VersionSummary,
};

/// Versions or chunks that are listed at a time.
const PAGE_OF_LIST: usize = 1024;
/// Bytes that are copied at a time out of a pack that is mostly dead.
const MOVE_BYTES_MAX: u64 = 16 << 20;
/// How often marking begins again because versions were committed meanwhile; each time only those are marked.
const MARK_ROUNDS_MAX: u32 = 1000;

/// What a gc does.
#[derive(Clone, Copy, Debug)]
pub struct GcOptions {
    /// The core's clock.
    pub now: UnixMs,
    /// Which old versions are kept of datasets that have no rule of their own.
    pub retention: Retention,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Also drop versions that devices said they have freed bytes of.
    pub last_copy: bool,
    /// Packs of whose bytes at most so many percent are live are copied together; none: only wholly dead packs go.
    pub rewrite_live_percent_max: Option<u8>,
}

/// How far a gc is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GcProgress {
    /// Marking what is needed.
    Marking {
        /// Trees walked.
        done: u64,
        /// Trees known.
        total: u64,
    },
    /// Looking at packs.
    Sweeping {
        /// Packs looked at.
        done: u64,
        /// Packs.
        total: u64,
    },
}

/// What a gc did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct GcReport {
    /// Versions that retention let go of.
    pub versions_dropped: u64,
    /// Versions that retention would let go of, but devices have freed bytes of them; by dataset.
    pub versions_held: Vec<(String, u64)>,
    /// Pages and chunks that are needed.
    pub live_chunks: u64,
    /// Packs that were deleted.
    pub packs_deleted: u64,
    /// Of these, packs whose living chunks were copied out first.
    pub packs_rewritten: u64,
    /// Bytes of deleted packs' dead chunks.
    pub freed_bytes: u64,
    /// Stored bytes of what stays and is needed.
    pub live_bytes: u64,
    /// Stored bytes that nothing needs, in packs that stay.
    pub dead_bytes: u64,
}

/// Why a gc came to no end. What it did until then is whole.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// Another one runs, or a verification.
    #[error("another gc or verification is running")]
    Busy,
    /// A page of a version can't be read, so what is below it can't be known. Nothing was swept.
    #[error("{what}: {source}")]
    Page {
        /// Which version.
        what: String,
        /// What is wrong.
        source: Box<WalkError>,
    },
    /// Versions are committed faster than they can be marked.
    #[error("versions were committed faster than they could be marked, {MARK_ROUNDS_MAX} times in a row")]
    Overtaken,
    /// The writer failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Packs failed.
    #[error(transparent)]
    Packs(#[from] PackError),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// What is needed. Pages by half of their ids, chunks by a quarter: two that share a prefix are at worst kept together.
#[derive(Debug, Default)]
struct Marks {
    pages: HashSet<u128>,
    chunks: HashSet<u64>,
}

impl Marks {
    fn contains(&self, id: &ChunkId) -> bool {
        self.chunks.contains(&quarter(id)) || self.pages.contains(&half(id))
    }
}

fn half(id: &ChunkId) -> u128 {
    u128::from_le_bytes(id.0[..16].try_into().expect("an id has 32 bytes"))
}

fn quarter(id: &ChunkId) -> u64 {
    u64::from_le_bytes(id.0[..8].try_into().expect("an id has 32 bytes"))
}

struct Collection<'a> {
    store: &'a ChunkStore,
    options: GcOptions,
    report: GcReport,
    marks: Marks,
    sequence: u64,
    /// In a dry run: versions that are not there any more, so to speak.
    given_up: BTreeSet<(DatasetId, u64)>,
    progress: &'a mut dyn FnMut(GcProgress),
}

impl ChunkStore {
    /// Frees what nothing needs. Blocks, possibly for long; uploads and reads go on meanwhile.
    pub fn collect(&self, options: GcOptions, progress: &mut dyn FnMut(GcProgress)) -> Result<GcReport, GcError> {
        let _running = self.begin_maintenance().ok_or(GcError::Busy)?;
        let mut collection = Collection {
            store: self,
            options,
            report: GcReport::default(),
            marks: Marks::default(),
            sequence: 0,
            given_up: BTreeSet::new(),
            progress,
        };
        collection.run()?;
        Ok(collection.report)
    }
}

impl Collection<'_> {
    fn run(&mut self) -> Result<(), GcError> {
        let catalog = self.store.catalog();
        // In a dry run nothing is stored "since it began".
        let epoch = if self.options.dry_run { u64::MAX } else { catalog.begin_collection(self.options.now)? };
        for dataset in catalog.datasets()? {
            self.retain(&dataset)?;
        }
        for _ in 0..MARK_ROUNDS_MAX {
            self.mark()?;
            match self.trim().and_then(|()| self.sweep(epoch)) {
                Err(Stop::RootsChanged) => {}
                Err(Stop::Failed(error)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
        Err(GcError::Overtaken)
    }

    fn retain(&mut self, dataset: &DatasetRecord) -> Result<(), GcError> {
        let catalog = self.store.catalog();
        let versions = self.versions(dataset.id)?;
        let leased: HashSet<VersionId> = catalog.leases()?.into_iter().map(|lease| lease.version).collect();
        let tagged: HashSet<u64> = catalog.tags(dataset.id)?.into_iter().map(|tag| tag.number).collect();
        let by_number = |number: u64| versions.iter().find(|version| version.number == number);
        let own = Some(dataset.retention).filter(|own| *own != Retention::default());
        for number in retention::unwanted(&versions, own.unwrap_or(self.options.retention), self.options.now) {
            let is_leased = by_number(number).is_some_and(|version| leased.contains(&version.version));
            if is_leased || tagged.contains(&number) {
                continue;
            }
            if self.options.dry_run {
                self.given_up.insert((dataset.id, number));
                self.report.versions_dropped += 1;
                continue;
            }
            match catalog.drop_versions(dataset.id, &[number], self.options.last_copy) {
                Ok(()) => self.report.versions_dropped += 1,
                Err(DropError::LastCopy { .. }) => self.report.versions_held.push((dataset.name.clone(), number)),
                // Collections keep it, or it went in the meantime.
                Err(DropError::Tagged { .. } | DropError::Newest { .. } | DropError::NotFound) => {}
                Err(DropError::Catalog(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn versions(&self, dataset: DatasetId) -> Result<Vec<VersionSummary>, GcError> {
        let mut versions: Vec<VersionSummary> = Vec::new();
        loop {
            let before = versions.last().map(|version| version.number);
            let more = self.store.catalog().versions(dataset, before, PAGE_OF_LIST)?;
            if more.is_empty() {
                return Ok(versions);
            }
            versions.extend(more);
        }
    }

    /// Marks the trees of the roots that were added since the last time.
    fn mark(&mut self) -> Result<(), GcError> {
        let roots = self.store.catalog().roots(self.sequence)?;
        let total = roots.roots.len() as u64;
        for (done, root) in roots.roots.iter().enumerate() {
            (self.progress)(GcProgress::Marking { done: done as u64, total });
            if root.version.is_some_and(|version| self.given_up.contains(&version)) {
                continue;
            }
            mark_below(self.store, root, &mut self.marks)?;
        }
        (self.progress)(GcProgress::Marking { done: total, total });
        self.sequence = roots.sequence;
        self.report.live_chunks = (self.marks.pages.len() + self.marks.chunks.len()) as u64;
        Ok(())
    }

    /// Ends the membership of what datasets let go of. Before the sweep: a page that is a member vouches for what is below it.
    fn trim(&mut self) -> Result<(), Stop> {
        if self.options.dry_run {
            return Ok(());
        }
        let catalog = self.store.catalog();
        for dataset in catalog.datasets_to_trim()? {
            let mut own = Marks::default();
            for version in self.versions(dataset)? {
                if let Some(page) = version.root {
                    let root = Root { version: Some((dataset, version.number)), page };
                    mark_below(self.store, &root, &mut own)?;
                }
            }
            catalog.trim_members(dataset, self.sequence, &|id| own.contains(id))?;
        }
        Ok(())
    }

    fn sweep(&mut self, epoch: u64) -> Result<(), Stop> {
        let catalog = self.store.catalog();
        let marks = Arc::new(std::mem::take(&mut self.marks));
        let packs: Vec<_> = catalog
            .packs()?
            .into_iter()
            .filter(|pack| pack.state != PackState::Dropped)
            .map(|pack| pack.number)
            .collect();
        self.report.live_bytes = 0;
        self.report.dead_bytes = 0;
        let mut dropped = Vec::new();
        let mut swept = Ok(());
        for (done, &pack) in packs.iter().enumerate() {
            (self.progress)(GcProgress::Sweeping { done: done as u64, total: packs.len() as u64 });
            swept = self.sweep_one(pack, epoch, &marks, &mut dropped);
            if swept.is_err() {
                break;
            }
        }
        self.delete(&dropped)?;
        // A second round marks what is new, on top of this.
        self.marks = Arc::try_unwrap(marks).unwrap_or_default();
        if self.marks.pages.is_empty() && self.marks.chunks.is_empty() {
            self.sequence = 0;
        }
        swept
    }

    fn sweep_one(
        &mut self,
        pack: PackNumber,
        epoch: u64,
        marks: &Arc<Marks>,
        dropped: &mut Vec<PackNumber>,
    ) -> Result<(), Stop> {
        let mut found = self.look(pack, epoch, marks)?;
        let stored = found.live_bytes + found.dead_bytes;
        let mostly_dead = self.options.rewrite_live_percent_max.is_some_and(|percent| {
            found.dead_chunks > 0 && found.live_bytes.saturating_mul(100) <= stored.saturating_mul(percent.into())
        });
        if !found.dropped && mostly_dead && !self.options.dry_run {
            let dead_bytes = found.dead_bytes;
            self.copy_out(pack, marks)?;
            found = self.look(pack, epoch, marks)?;
            if found.dropped {
                self.report.packs_rewritten += 1;
                found.dead_bytes = dead_bytes;
            }
        }
        if found.dropped || (self.options.dry_run && found.live_chunks == 0 && found.dead_chunks > 0) {
            self.report.packs_deleted += 1;
            self.report.freed_bytes += found.dead_bytes;
        } else {
            self.report.live_bytes += found.live_bytes;
            self.report.dead_bytes += found.dead_bytes;
        }
        if found.dropped {
            dropped.push(pack);
        }
        Ok(())
    }

    /// Counts what is live in a pack, and drops it if nothing is; never the one that is written.
    fn look(&self, pack: PackNumber, epoch: u64, marks: &Arc<Marks>) -> Result<PackSweep, Stop> {
        let (catalog, marks) = (Arc::clone(self.store.catalog()), Arc::clone(marks));
        let (sequence, dry_run) = (self.sequence, self.options.dry_run);
        let swept = self.store.between_groups(move |order| {
            let written_to = order.open_pack().is_some_and(|open| open.number == pack);
            catalog.sweep_pack(pack, epoch, sequence, &|id| marks.contains(id), !dry_run && !written_to)
        });
        Ok(swept.map_err(GcError::from)??)
    }

    /// Copies what is needed out of a pack, through the writer like any other chunk.
    fn copy_out(&self, pack: PackNumber, marks: &Marks) -> Result<(), Stop> {
        let catalog = self.store.catalog();
        let mut pinned = HashSet::new();
        catalog.each_pinned(&mut |id| {
            pinned.insert(quarter(&id));
        })?;
        let (mut from, mut chunks, mut bytes) = (0, Vec::new(), 0);
        loop {
            let entries = catalog.chunks_in_pack(pack, from, PAGE_OF_LIST)?;
            let Some(last) = entries.last() else { break };
            from = last.location.offset + 1;
            let needed = |entry: &&ChunkEntry| marks.contains(&entry.id) || pinned.contains(&quarter(&entry.id));
            for entry in entries.iter().filter(needed).filter(|entry| !entry.damaged) {
                match read_record(&**self.store.packs(), entry)? {
                    Ok((plain, frame)) => {
                        let stored = frame.unwrap_or(plain);
                        bytes += stored.len() as u64;
                        chunks.push(MovedChunk { id: entry.id, from: entry.location, stored });
                    }
                    Err(detail) => self.store.set_aside(entry, &detail)?,
                }
                if bytes >= MOVE_BYTES_MAX {
                    self.hand_over(std::mem::take(&mut chunks))?;
                    bytes = 0;
                }
            }
        }
        if chunks.is_empty() { Ok(()) } else { self.hand_over(chunks) }
    }

    fn hand_over(&self, chunks: Vec<MovedChunk>) -> Result<(), Stop> {
        let (reply, moved) = oneshot::channel();
        self.store.send(Request::Move { chunks, reply }).map_err(GcError::from)?;
        moved.blocking_recv().unwrap_or(Err(StoreError::Closed)).map_err(GcError::from)?;
        Ok(())
    }

    /// Deletes packs that the catalog has let go of; a crash in between is made good at the next start.
    fn delete(&self, dropped: &[PackNumber]) -> Result<(), Stop> {
        if dropped.is_empty() {
            return Ok(());
        }
        for &pack in dropped {
            self.store.packs().delete(pack)?;
        }
        self.store.packs().sync_folder()?;
        for &pack in dropped {
            self.store.catalog().forget_pack(pack)?;
        }
        Ok(())
    }
}

fn mark_below(store: &ChunkStore, root: &Root, marks: &mut Marks) -> Result<(), GcError> {
    let Marks { pages, chunks } = marks;
    let walked = store.walk(root.page, &mut |page| pages.insert(half(page)), &mut |chunk| {
        chunks.insert(quarter(chunk));
    });
    let Err(source) = walked else { return Ok(()) };
    let what = match root.version {
        Some((dataset, number)) => match store.catalog().dataset_by_id(dataset)? {
            Some(record) => format!("version {number} of `{}`", record.name),
            // It was deleted while it was marked.
            None => return Ok(()),
        },
        // A lease that was taken on a version whose bytes had gone keeps what is left.
        None if matches!(source, WalkError::Read { source: ReadError::Missing(_), .. }) => return Ok(()),
        None => "a leased version".to_owned(),
    };
    Err(GcError::Page { what, source: Box::new(source) })
}

/// Why a round of trimming and sweeping ended early.
enum Stop {
    RootsChanged,
    Failed(GcError),
}

impl<E: Into<GcError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<SweepError> for Stop {
    fn from(error: SweepError) -> Self {
        match error {
            SweepError::RootsChanged => Self::RootsChanged,
            SweepError::Catalog(error) => Self::Failed(error.into()),
        }
    }
}
