//! Freeing what nothing needs any more.
//!
//! Retention first lets go of old versions. Then everything below the remaining versions and below leases is marked;
//! proofs of uploads pin by themselves. Then memberships of what was let go are ended, and only then packs are swept: those in which
//! nothing is live are deleted, those that are mostly dead are copied together first, if wanted.
//!
//! It runs beside uploads and commits. What is stored or pinned after it began is live (the catalog's epoch); a version committed
//! meanwhile holds the sweep where it is until its tree is marked too (the catalog's root sequence; marks only grow, so what was
//! swept before stays swept); and the sweep itself runs on the writer thread between two groups, so no chunk is found "here
//! already" and gone a moment later. A page of a living version that can't be read ends the gc before anything is swept: what is
//! below it can't be known.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use headwater_protocol::id::VersionId;
use tokio::sync::oneshot;

use super::chunk_store::{ChunkStore, StoreError, block_on, read_record};
use super::marks::{Marks, quarter};
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
/// How often one step is tried again because versions were committed meanwhile; each time only those are marked.
const TRIES_MAX: u32 = 1000;
/// Packs that are deleted with one sync of their folder.
const DELETE_TOGETHER_MAX: usize = 64;

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
    /// Whether it was stopped before its end.
    pub stopped: bool,
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
    #[error("versions were committed faster than they could be marked, {TRIES_MAX} times in a row")]
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

struct Collection<'a, P: ?Sized> {
    store: &'a ChunkStore,
    options: GcOptions,
    report: GcReport,
    epoch: u64,
    /// Shared with the writer thread while a pack is looked at.
    marks: Arc<Marks>,
    /// The roots up to here are marked.
    sequence: u64,
    /// In a dry run: versions that are not there any more, so to speak.
    given_up: BTreeSet<(DatasetId, u64)>,
    progress: &'a mut P,
}

impl ChunkStore {
    /// Frees what nothing needs. Blocks, possibly for long; uploads and reads go on meanwhile. It ends early, and whole, when
    /// `progress` says false.
    pub fn collect(
        &self,
        options: GcOptions,
        progress: &mut dyn FnMut(GcProgress) -> bool,
    ) -> Result<GcReport, GcError> {
        block_on(self.collect_in_turns(options, progress))
    }

    /// [`ChunkStore::collect`] as a task that shares its thread with the writer, as in a simulated process: it gives way
    /// wherever it waits for the writer.
    pub async fn collect_in_turns<P: FnMut(GcProgress) -> bool + ?Sized>(
        &self,
        options: GcOptions,
        progress: &mut P,
    ) -> Result<GcReport, GcError> {
        let _running = self.begin_maintenance().ok_or(GcError::Busy)?;
        let mut collection = Collection {
            store: self,
            options,
            report: GcReport::default(),
            // Proofs and leases that ended do so in a dry run too: nobody can rely on them any more.
            epoch: self.catalog().begin_collection(options.now)?,
            marks: Arc::default(),
            sequence: 0,
            given_up: BTreeSet::new(),
            progress,
        };
        match collection.run().await {
            Ok(()) => {}
            Err(Stop::Wanted) => collection.report.stopped = true,
            Err(Stop::Failed(error)) => return Err(error),
        }
        Ok(collection.report)
    }
}

impl<P: FnMut(GcProgress) -> bool + ?Sized> Collection<'_, P> {
    async fn run(&mut self) -> Result<(), Stop> {
        for dataset in self.store.catalog().datasets()? {
            self.retain(&dataset)?;
        }
        self.mark()?;
        if !self.options.dry_run {
            for dataset in self.store.catalog().datasets_to_trim()? {
                self.trim(dataset)?;
            }
        }
        self.sweep().await
    }

    fn tell(&mut self, progress: GcProgress) -> Result<(), Stop> {
        if (self.progress)(progress) { Ok(()) } else { Err(Stop::Wanted) }
    }

    fn retain(&mut self, dataset: &DatasetRecord) -> Result<(), GcError> {
        let catalog = self.store.catalog();
        let versions = self.versions(dataset.id)?;
        let own = Some(dataset.retention).filter(|own| *own != Retention::default());
        let unwanted = retention::unwanted(&versions, own.unwrap_or(self.options.retention), self.options.now);
        if unwanted.is_empty() {
            return Ok(());
        }
        let leased: HashSet<VersionId> = catalog.leases()?.into_iter().map(|lease| lease.version).collect();
        let ids: HashMap<u64, VersionId> = versions.iter().map(|version| (version.number, version.version)).collect();
        for number in unwanted {
            if ids.get(&number).is_some_and(|version| leased.contains(version)) {
                continue;
            }
            let dropped = if self.options.dry_run {
                catalog.may_drop(dataset.id, number, self.options.last_copy)
            } else {
                catalog.drop_versions(dataset.id, &[number], self.options.last_copy)
            };
            match dropped {
                Ok(()) => {
                    self.report.versions_dropped += 1;
                    if self.options.dry_run {
                        self.given_up.insert((dataset.id, number));
                    }
                }
                Err(DropError::LastCopy { .. }) => self.report.versions_held.push((dataset.name.clone(), number)),
                // Tags or collections keep it, or it went in the meantime.
                Err(
                    DropError::Tagged { .. }
                    | DropError::Collected { .. }
                    | DropError::Newest { .. }
                    | DropError::NotFound,
                ) => {}
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
    fn mark(&mut self) -> Result<(), Stop> {
        let roots = self.store.catalog().roots(self.sequence)?;
        let total = roots.roots.len() as u64;
        for (done, root) in roots.roots.iter().enumerate() {
            self.tell(GcProgress::Marking { done: done as u64, total })?;
            if root.version.is_some_and(|version| self.given_up.contains(&version)) {
                continue;
            }
            Arc::make_mut(&mut self.marks).add(self.store, root)?;
        }
        self.sequence = roots.sequence;
        self.report.live_chunks = self.marks.len();
        self.tell(GcProgress::Marking { done: total, total })
    }

    /// Ends the membership of what a dataset let go of. Before the sweep: a page that is a member vouches for what is below it.
    fn trim(&mut self, dataset: DatasetId) -> Result<(), Stop> {
        let mut own = Marks::default();
        for version in self.versions(dataset)? {
            if let Some(page) = version.root {
                own.add(self.store, &Root { version: Some((dataset, version.number)), page })?;
            }
        }
        let mut sequence = self.sequence;
        for _ in 0..TRIES_MAX {
            match self.store.catalog().trim_members(dataset, sequence, &|id| own.contains(id)) {
                Ok(_) => return Ok(()),
                Err(SweepError::RootsChanged) => {}
                Err(SweepError::Catalog(error)) => return Err(error.into()),
            }
            let newer = self.store.catalog().roots(sequence)?;
            for root in newer.roots.iter().filter(|root| root.version.is_some_and(|(of, _)| of == dataset)) {
                own.add(self.store, root)?;
            }
            sequence = newer.sequence;
        }
        Err(GcError::Overtaken.into())
    }

    async fn sweep(&mut self) -> Result<(), Stop> {
        let known = self.store.catalog().packs()?.into_iter().filter(|pack| pack.state != PackState::Dropped);
        let packs: Vec<_> = known.map(|pack| pack.number).collect();
        let total = packs.len() as u64;
        let mut dropped = Vec::new();
        let mut swept = Ok(());
        for (done, &pack) in packs.iter().enumerate() {
            swept = self.tell(GcProgress::Sweeping { done: done as u64, total });
            if swept.is_ok() {
                swept = self.sweep_one(pack, &mut dropped).await;
            }
            if swept.is_err() {
                break;
            }
            if dropped.len() >= DELETE_TOGETHER_MAX {
                self.delete(&std::mem::take(&mut dropped))?;
            }
        }
        self.delete(&dropped)?;
        swept?;
        self.tell(GcProgress::Sweeping { done: total, total })
    }

    async fn sweep_one(&mut self, pack: PackNumber, dropped: &mut Vec<PackNumber>) -> Result<(), Stop> {
        let found = self.look(pack).await?;
        let stored = found.live_bytes + found.dead_bytes;
        let dead = found.dropped || (found.live_chunks == 0 && found.dead_chunks > 0);
        let mostly_dead = self.options.rewrite_live_percent_max.is_some_and(|percent| {
            found.dead_chunks > 0 && found.live_bytes.saturating_mul(100) <= stored.saturating_mul(percent.into())
        });
        let mut goes = dead || mostly_dead;
        if goes && !found.dropped && !self.options.dry_run {
            // The pack that is written can only go once it is not.
            self.seal(pack).await?;
            if !dead {
                self.copy_out(pack).await?;
            }
            goes = self.look(pack).await?.dropped;
        }
        self.report.live_bytes += found.live_bytes;
        if goes {
            self.report.packs_deleted += 1;
            self.report.packs_rewritten += u64::from(!dead);
            self.report.freed_bytes += found.dead_bytes;
        } else {
            self.report.dead_bytes += found.dead_bytes;
        }
        if goes && !self.options.dry_run {
            dropped.push(pack);
        }
        Ok(())
    }

    /// Counts what is live in a pack, and drops it if nothing is; never the one that is written.
    async fn look(&mut self, pack: PackNumber) -> Result<PackSweep, Stop> {
        for _ in 0..TRIES_MAX {
            let (catalog, marks) = (Arc::clone(self.store.catalog()), Arc::clone(&self.marks));
            let (epoch, sequence, dry_run) = (self.epoch, self.sequence, self.options.dry_run);
            let swept = self.store.between_groups(move |order| {
                let written_to = order.open_pack().is_some_and(|open| open.number == pack);
                catalog.sweep_pack(pack, epoch, sequence, &|id| marks.contains(id), !dry_run && !written_to)
            });
            match swept.await? {
                Ok(found) => return Ok(found),
                Err(SweepError::RootsChanged) => self.mark()?,
                Err(SweepError::Catalog(error)) => return Err(error.into()),
            }
        }
        Err(GcError::Overtaken.into())
    }

    /// Seals a pack if it is the one that is written; the next chunk begins another.
    async fn seal(&mut self, pack: PackNumber) -> Result<(), Stop> {
        let (tried, sealed) = oneshot::channel();
        self.store.send(Request::Seal { pack, tried })?;
        sealed.await.map_err(|_| StoreError::Closed)?;
        Ok(())
    }

    /// Copies what is needed out of a pack, through the writer like any other chunk.
    async fn copy_out(&mut self, pack: PackNumber) -> Result<(), Stop> {
        let (store, marks) = (self.store, Arc::clone(&self.marks));
        let catalog = store.catalog();
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
                match read_record(&**store.packs(), entry)? {
                    Ok((plain, frame)) => {
                        let stored = frame.unwrap_or(plain);
                        bytes += stored.len() as u64;
                        chunks.push(MovedChunk { id: entry.id, from: entry.location, stored });
                    }
                    Err(detail) => {
                        store.set_aside(entry, &detail)?;
                    }
                }
                if bytes >= MOVE_BYTES_MAX {
                    self.hand_over(std::mem::take(&mut chunks)).await?;
                    bytes = 0;
                }
            }
        }
        if chunks.is_empty() { Ok(()) } else { self.hand_over(chunks).await }
    }

    async fn hand_over(&mut self, chunks: Vec<MovedChunk>) -> Result<(), Stop> {
        let (reply, moved) = oneshot::channel();
        self.store.send(Request::Move { chunks, reply })?;
        moved.await.unwrap_or(Err(StoreError::Closed))?;
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

/// Why a gc ends before its end.
enum Stop {
    /// Whoever watches wants it.
    Wanted,
    Failed(GcError),
}

impl<E: Into<GcError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}
