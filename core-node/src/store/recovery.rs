//! What a store does before it takes its first request: makes packs and catalog agree again after whatever happened.
//!
//! The commit order leaves only these traces of a crash: a torn tail or whole records beyond what the catalog has entered
//! (cut, and entered), a pack that the catalog doesn't know (the same, from its start), a dropped pack whose file is still
//! there (deleted), and an index that was written but not entered (entered). A catalog that points beyond a pack can't come of
//! a crash; it is checked all the same, and such chunks are marked damaged. Packs without any catalog entries are how the
//! chunk table is rebuilt when the catalog was lost. Bytes may have rotted meanwhile: damage never hides the whole records
//! behind it, and only what no whole record follows is cut.

use std::collections::BTreeMap;

use super::commit_order::OpenPack;
use super::format::{self, FormatError, IndexEntry, PACK_HEADER_BYTES};
use super::pack::{PackError, PackInfo, PackStore};
use super::scan::{self, Depth};
use crate::catalog::{AdoptGroup, AdoptedChunk, Catalog, CatalogError, PackNumber, PackRecord, PackState};

/// Chunks that are entered in one transaction.
const ADOPT_GROUP_MAX: usize = 4096;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// A pack was written by a newer release.
    #[error("pack {pack} has layout {found}, and this release knows layouts up to {known}: a newer release wrote it")]
    Newer {
        /// The pack.
        pack: PackNumber,
        /// The layout in the file.
        found: u16,
        /// The newest that is known here.
        known: u16,
    },
    /// Packs failed.
    #[error(transparent)]
    Packs(#[from] PackError),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The writer thread could not be started.
    #[error("the writer thread could not be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// What opening a store found and mended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Records beyond the last catalog commit that were whole and were entered.
    pub adopted_chunks: u64,
    /// Bytes of torn tails that were cut.
    pub cut_bytes: u64,
    /// Bytes of packs that are in no whole record although whole ones follow: passed over, and left where they are.
    pub damaged_bytes: u64,
    /// Packs that a gc had dropped and whose bytes are gone now, and ones in which nothing had begun.
    pub deleted_packs: u64,
    /// Entries that pointed beyond their pack, or into one that is gone: marked damaged. Zero unless files were lost.
    pub lost_chunks: u64,
}

/// Where the writer goes on.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    pub(super) report: RecoveryReport,
    pub(super) pack: Option<OpenPack>,
    pub(super) index: Vec<IndexEntry>,
    pub(super) next_pack: PackNumber,
}

struct Recovery<'a> {
    packs: &'a dyn PackStore,
    catalog: &'a dyn Catalog,
    report: RecoveryReport,
}

pub(super) fn recover(
    packs: &dyn PackStore,
    catalog: &dyn Catalog,
    pack_bytes_max: u64,
) -> Result<Resumed, OpenStoreError> {
    let mut recovery = Recovery { packs, catalog, report: RecoveryReport::default() };
    let mut known: BTreeMap<PackNumber, PackRecord> =
        catalog.packs()?.into_iter().map(|record| (record.number, record)).collect();
    let mut highest = known.keys().next_back().map_or(0, |number| number.0);
    let mut open: Option<(OpenPack, Vec<IndexEntry>)> = None;
    let mut deleted = false;
    for info in packs.list()? {
        highest = highest.max(info.number.0);
        let record = known.remove(&info.number);
        if record.is_some_and(|record| record.state == PackState::Dropped) {
            if_room(info.number, recovery.delete(info.number))?;
            deleted = true;
            continue;
        }
        if let Some(unsealed) = if_room(info.number, recovery.pack(info, record, &mut deleted))?.flatten()
            && let Some((left, index)) = open.replace(unsealed)
        {
            if_room(left.number, seal(packs, catalog, left.number, left.bytes, &index))?;
        }
    }
    if deleted {
        packs.sync_folder()?;
    }
    for record in known.into_values() {
        if_room(record.number, recovery.gone(&record))?;
    }
    let mut resumed = Resumed { report: recovery.report, next_pack: PackNumber(highest + 1), ..Resumed::default() };
    if let Some((pack, index)) = open {
        if pack.bytes >= pack_bytes_max || pack.records >= format::PACK_RECORDS_MAX {
            if_room(pack.number, seal(packs, catalog, pack.number, pack.bytes, &index))?;
        } else {
            (resumed.pack, resumed.index) = (Some(pack), index);
        }
    }
    Ok(resumed)
}

/// What was done to a pack; none where the disk is too full for it. Such a pack stays as it is until the next start and nothing
/// more is written to it, and what it holds beyond the catalog was never acknowledged: a full disk keeps no core from reading.
fn if_room<T>(pack: PackNumber, done: Result<T, OpenStoreError>) -> Result<Option<T>, OpenStoreError> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(OpenStoreError::Packs(PackError::Full { .. }) | OpenStoreError::Catalog(CatalogError::Full { .. })) => {
            tracing::warn!(%pack, "the disk is full: the pack is left as it was, and the next start sees to it");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Appends the index to a pack whose records end at `records_end` and enters it as sealed.
pub(super) fn seal(
    packs: &dyn PackStore,
    catalog: &dyn Catalog,
    pack: PackNumber,
    records_end: u64,
    index: &[IndexEntry],
) -> Result<(), OpenStoreError> {
    let (bytes, trailer) = format::encode_index(index, records_end);
    let end_bytes = records_end + bytes.len() as u64;
    packs.append(pack, records_end, &[bytes.into()])?;
    packs.seal(pack)?;
    catalog.put_pack(&PackRecord { number: pack, state: PackState::Sealed(trailer.identity), end_bytes })?;
    Ok(())
}

impl Recovery<'_> {
    /// Makes one pack and the catalog agree; gives it back if it is not sealed.
    fn pack(
        &mut self,
        info: PackInfo,
        record: Option<PackRecord>,
        deleted: &mut bool,
    ) -> Result<Option<(OpenPack, Vec<IndexEntry>)>, OpenStoreError> {
        let pack = info.number;
        let known_end = record.map_or(0, |record| record.end_bytes);
        if info.bytes < known_end {
            self.lost_from(pack, info.bytes)?;
        }
        if let Some(PackRecord { state: PackState::Sealed(_), .. }) = record {
            return Ok(None);
        }
        match scan::header(self.packs, pack, info.bytes)? {
            Ok(()) => {}
            Err(FormatError::Newer { found }) => {
                return Err(OpenStoreError::Newer { pack, found, known: format::PACK_VERSION });
            }
            // Its header was damaged later, or its creation never came to an end.
            Err(_) => return self.headless(info, known_end, deleted),
        }
        if let Some((trailer, index)) = scan::index(self.packs, pack, info.bytes)? {
            self.sealed(pack, known_end, &index)?;
            let state = PackState::Sealed(trailer.identity);
            self.catalog.put_pack(&PackRecord { number: pack, state, end_bytes: info.bytes })?;
            return Ok(None);
        }
        self.unsealed(info, known_end)
    }

    /// Enters what a sealed pack holds beyond what is entered. A pack that the catalog never heard of is believed: a read
    /// verifies anyway. In one that it knows, only the last records are in doubt, and these are looked at.
    fn sealed(&mut self, pack: PackNumber, known_end: u64, index: &[IndexEntry]) -> Result<(), OpenStoreError> {
        let mut group = AdoptGroup::default();
        for entry in index.iter().filter(|entry| entry.offset >= known_end) {
            if known_end > 0 {
                let end = entry.offset + entry.header.record_bytes();
                if scan::record_at(self.packs, pack, entry.offset, end, Depth::Bytes)?.is_none() {
                    self.report.damaged_bytes += entry.header.record_bytes();
                    continue;
                }
            }
            self.adopt(&mut group, pack, entry)?;
        }
        self.flush(&mut group)
    }

    fn unsealed(
        &mut self,
        info: PackInfo,
        known_end: u64,
    ) -> Result<Option<(OpenPack, Vec<IndexEntry>)>, OpenStoreError> {
        let (packs, pack) = (self.packs, info.number);
        let known_end = known_end.clamp(PACK_HEADER_BYTES as u64, info.bytes);
        let mut index = Vec::new();
        let known = scan::records(packs, pack, PACK_HEADER_BYTES as u64, known_end, Depth::Headers, &mut |entry| {
            index.push(entry);
        })?;
        let mut group = AdoptGroup::default();
        let mut found = Vec::new();
        let beyond = scan::records(packs, pack, known_end, info.bytes, Depth::Bytes, &mut |entry| found.push(entry))?;
        let end = beyond.end;
        for entry in &found {
            self.adopt(&mut group, pack, entry)?;
        }
        self.report.damaged_bytes += beyond.damaged_bytes;
        if end < info.bytes {
            packs.truncate(pack, end)?;
            self.report.cut_bytes += info.bytes - end;
        }
        // What was appended before the crash may not have been synced, and the name neither.
        packs.sync(pack)?;
        packs.sync_folder()?;
        group.pack_ends.push((pack, end));
        self.flush(&mut group)?;
        index.extend(found);
        if known.end < known_end || known.damaged_bytes + beyond.damaged_bytes > 0 {
            // Nothing more is written where bytes rot; what can be read stays.
            if_room(pack, seal(packs, self.catalog, pack, end, &index))?;
            return Ok(None);
        }
        Ok(Some((OpenPack { number: pack, bytes: end, records: index.len() as u64 }, index)))
    }

    /// Makes a pack and the catalog agree that is not sealed and whose own header is no good. What it holds is found by the
    /// catalog; nothing is cut from it and nothing added. One in which nothing had begun is deleted.
    fn headless(
        &mut self,
        info: PackInfo,
        known_end: u64,
        deleted: &mut bool,
    ) -> Result<Option<(OpenPack, Vec<IndexEntry>)>, OpenStoreError> {
        let pack = info.number;
        let from = known_end.max(PACK_HEADER_BYTES as u64).min(info.bytes);
        let mut found = Vec::new();
        let walked = scan::records(self.packs, pack, from, info.bytes, Depth::Bytes, &mut |entry| found.push(entry))?;
        if known_end == 0 && found.is_empty() {
            // Nothing in it was ever acknowledged.
            self.report.cut_bytes += info.bytes;
            self.delete(pack)?;
            *deleted = true;
            return Ok(None);
        }
        let mut group = AdoptGroup::default();
        for entry in &found {
            self.adopt(&mut group, pack, entry)?;
        }
        self.report.damaged_bytes += walked.damaged_bytes;
        self.packs.sync(pack)?;
        group.pack_ends.push((pack, walked.end.max(known_end)));
        self.flush(&mut group)?;
        Ok(None)
    }

    fn adopt(&mut self, group: &mut AdoptGroup, pack: PackNumber, entry: &IndexEntry) -> Result<(), OpenStoreError> {
        group.chunks.push(AdoptedChunk { id: entry.header.id, location: scan::location_of(pack, entry) });
        self.report.adopted_chunks += 1;
        if group.chunks.len() >= ADOPT_GROUP_MAX { self.flush(group) } else { Ok(()) }
    }

    fn flush(&mut self, group: &mut AdoptGroup) -> Result<(), OpenStoreError> {
        let group = std::mem::take(group);
        if !group.chunks.is_empty() || !group.pack_ends.is_empty() {
            self.catalog.adopt(&group)?;
        }
        Ok(())
    }

    fn delete(&mut self, pack: PackNumber) -> Result<(), OpenStoreError> {
        self.packs.delete(pack)?;
        self.catalog.forget_pack(pack)?;
        self.report.deleted_packs += 1;
        Ok(())
    }

    /// A pack of which there is no file.
    fn gone(&mut self, record: &PackRecord) -> Result<(), OpenStoreError> {
        if record.state == PackState::Dropped {
            self.catalog.forget_pack(record.number)?;
            return Ok(());
        }
        self.lost_from(record.number, 0)?;
        if self.catalog.chunks_in_pack(record.number, 0, 1)?.is_empty() {
            self.catalog.forget_pack(record.number)?;
        }
        Ok(())
    }

    /// Marks those chunks damaged that should lie, wholly or in part, beyond byte `end`.
    fn lost_from(&mut self, pack: PackNumber, end: u64) -> Result<(), OpenStoreError> {
        let mut from = 0;
        loop {
            let entries = self.catalog.chunks_in_pack(pack, from, ADOPT_GROUP_MAX)?;
            let Some(last) = entries.last() else { return Ok(()) };
            from = last.location.offset + 1;
            for entry in &entries {
                let at = &entry.location;
                let record_end = at.offset + format::RECORD_HEADER_BYTES as u64 + u64::from(at.stored_bytes);
                if record_end > end && !entry.damaged && self.catalog.mark_damaged(&entry.id, at)? {
                    self.report.lost_chunks += 1;
                }
            }
        }
    }
}
