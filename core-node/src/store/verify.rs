//! Reading everything again: which chunks are still what they were, and which versions miss those that are not.

use std::collections::{BTreeSet, HashSet};

use headwater_protocol::id::{ChunkId, VersionId};

use super::chunk_store::{ChunkStore, read_record};
use super::pack::PackError;
use super::scan;
use super::walk::WalkError;
use crate::catalog::{CatalogError, ChunkEntry, ChunkMove, DatasetId, PackNumber, PackRecord, PackState};

/// Chunks or versions that are listed at a time.
const PAGE_OF_LIST: usize = 1024;
/// Most damaged chunks that a report names; all are counted and set aside.
const DAMAGED_NAMED_MAX: usize = 10_000;

/// How far a verification is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Chunks read.
    pub chunks: u64,
    /// Chunks there are.
    pub chunks_total: u64,
    /// Stored bytes read.
    pub bytes: u64,
    /// Stored bytes there are.
    pub bytes_total: u64,
    /// Damaged chunks found.
    pub damaged: u64,
}

/// A chunk whose bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedChunk {
    /// The chunk.
    pub id: ChunkId,
    /// The pack.
    pub pack: PackNumber,
    /// Where its record begins.
    pub offset: u64,
    /// What was found.
    pub detail: String,
}

/// A version that needs damaged chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffectedVersion {
    /// Its dataset's name.
    pub dataset: String,
    /// Its number.
    pub number: u64,
    /// Its id.
    pub version: VersionId,
    /// The damaged chunks and pages that it needs.
    pub damaged: Vec<ChunkId>,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Packs looked through.
    pub packs: u64,
    /// Chunks read and hashed.
    pub chunks: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Damaged chunks, those included that were known to be.
    pub damaged_count: u64,
    /// Those among them that nobody had noticed before.
    pub damaged_new: u64,
    /// The first of them.
    pub damaged: Vec<DamagedChunk>,
    /// Chunks that were damaged once and can be read again.
    pub healed: u64,
    /// Sealed packs whose index is damaged. What they hold was read all the same.
    pub indexes_damaged: Vec<PackNumber>,
    /// Versions that need damaged chunks.
    pub affected: Vec<AffectedVersion>,
    /// Whether it was stopped before its end.
    pub stopped: bool,
}

/// Why a verification or a look for damage came to no end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Another one runs, or a gc.
    #[error("another gc or verification is running")]
    Busy,
    /// Packs failed.
    #[error(transparent)]
    Packs(#[from] PackError),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl ChunkStore {
    /// Reads and hashes every chunk, sets damaged ones aside, compares catalog and packs, and names the versions that miss
    /// bytes. Blocks, possibly for long. It ends early when `progress` says false.
    pub fn verify(&self, progress: &mut dyn FnMut(VerifyProgress) -> bool) -> Result<VerifyReport, VerifyError> {
        let _running = self.begin_maintenance().ok_or(VerifyError::Busy)?;
        let totals = self.catalog().counts()?.chunks;
        let mut report = VerifyReport::default();
        let mut told = VerifyProgress {
            chunks_total: totals.chunks,
            bytes_total: totals.stored_bytes,
            ..VerifyProgress::default()
        };
        for pack in self.catalog().packs()? {
            if pack.state == PackState::Dropped {
                continue;
            }
            report.packs += 1;
            self.verify_index(&pack, &mut report)?;
            let mut from = 0;
            loop {
                let entries = self.catalog().chunks_in_pack(pack.number, from, PAGE_OF_LIST)?;
                let Some(last) = entries.last() else { break };
                from = last.location.offset + 1;
                for entry in &entries {
                    self.verify_chunk(entry, &pack, &mut report)?;
                    (told.chunks, told.bytes, told.damaged) = (report.chunks, report.bytes, report.damaged_count);
                    if !progress(told) {
                        report.stopped = true;
                        return Ok(report);
                    }
                }
            }
        }
        report.affected = self.affected_versions()?;
        Ok(report)
    }

    fn verify_index(&self, pack: &PackRecord, report: &mut VerifyReport) -> Result<(), VerifyError> {
        let PackState::Sealed(identity) = pack.state else { return Ok(()) };
        let sound = match scan::index(&**self.packs(), pack.number, pack.end_bytes) {
            Ok(found) => found.is_some_and(|(trailer, _)| trailer.identity == identity),
            Err(PackError::NotFound { .. } | PackError::Short { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        if !sound {
            report.indexes_damaged.push(pack.number);
        }
        Ok(())
    }

    fn verify_chunk(
        &self,
        entry: &ChunkEntry,
        pack: &PackRecord,
        report: &mut VerifyReport,
    ) -> Result<(), VerifyError> {
        report.chunks += 1;
        report.bytes += u64::from(entry.location.stored_bytes);
        match read_record(&**self.packs(), entry)? {
            Ok(_) if entry.damaged => {
                let back = ChunkMove { id: entry.id, from: entry.location, to: entry.location };
                report.healed += self.catalog().relocate(&[back], (pack.number, 0))?;
            }
            Ok(_) => {}
            Err(detail) => {
                let now = self.catalog().locate(&[entry.id])?[0];
                if now.is_none_or(|now| now.location != entry.location) {
                    // It was moved or freed meanwhile.
                    return Ok(());
                }
                report.damaged_new += u64::from(self.set_aside(entry, &detail)?);
                report.damaged_count += 1;
                if report.damaged.len() < DAMAGED_NAMED_MAX {
                    let offset = entry.location.offset;
                    report.damaged.push(DamagedChunk { id: entry.id, pack: entry.location.pack, offset, detail });
                }
            }
        }
        Ok(())
    }

    /// The damaged chunks and pages that the tree below `root` needs: what its publisher is to be asked for again. What is below
    /// a damaged page is found once the page is back. Blocks.
    pub fn damaged_below(&self, root: ChunkId) -> Result<Vec<ChunkId>, VerifyError> {
        let damaged: HashSet<ChunkId> = self.catalog().damaged()?.into_iter().map(|entry| entry.id).collect();
        Ok(if damaged.is_empty() { Vec::new() } else { self.needed_of(root, &damaged) })
    }

    /// All versions that need damaged chunks. Blocks.
    pub fn affected_versions(&self) -> Result<Vec<AffectedVersion>, VerifyError> {
        let catalog = self.catalog();
        let damaged: HashSet<ChunkId> = catalog.damaged()?.into_iter().map(|entry| entry.id).collect();
        let mut datasets: BTreeSet<DatasetId> = BTreeSet::new();
        for id in &damaged {
            datasets.extend(catalog.datasets_holding(id)?);
        }
        let mut affected = Vec::new();
        for id in datasets {
            let Some(dataset) = catalog.dataset_by_id(id)? else { continue };
            let mut before = None;
            loop {
                let versions = catalog.versions(id, before, PAGE_OF_LIST)?;
                let Some(last) = versions.last() else { break };
                before = Some(last.number);
                for version in versions {
                    let Some(root) = version.root else { continue };
                    let needed = self.needed_of(root, &damaged);
                    if !needed.is_empty() {
                        affected.push(AffectedVersion {
                            dataset: dataset.name.clone(),
                            number: version.number,
                            version: version.version,
                            damaged: needed,
                        });
                    }
                }
            }
        }
        Ok(affected)
    }

    fn needed_of(&self, root: ChunkId, damaged: &HashSet<ChunkId>) -> Vec<ChunkId> {
        let mut needed = BTreeSet::new();
        let mut seen = HashSet::new();
        let mut waiting = vec![root];
        while let Some(page) = waiting.pop() {
            if !seen.insert(page) {
                continue;
            }
            match self.below(&page) {
                Ok(below) => {
                    needed.extend(below.chunks.into_iter().filter(|id| damaged.contains(id)));
                    waiting.extend(below.pages);
                }
                // A page that can't be read is itself what is needed.
                Err(WalkError::Read { page, .. } | WalkError::Decode { page, .. }) => {
                    needed.insert(page);
                }
            }
        }
        needed.into_iter().collect()
    }
}
