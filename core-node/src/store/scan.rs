//! Walking through the records of a pack, for recovery and rebuilding.

use super::format::{
    self, FormatError, INDEX_ENTRY_BYTES, IndexEntry, PACK_HEADER_BYTES, RECORD_HEADER_BYTES, RecordHeader,
    TRAILER_BYTES, Trailer,
};
use super::pack::{PackError, PackStore};
use crate::catalog::{ChunkLocation, PackNumber};

/// Bytes that are searched at a time for the next record behind damage.
const SEARCHED_AT_ONCE_BYTES: usize = 1 << 20;

/// Whether the bytes of records are hashed while scanning, or only their headers looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Headers only: the bytes are known to be durable.
    Headers,
    /// Everything: the bytes may have been cut off.
    Bytes,
}

/// What a walk through records came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// Where the last whole record ends.
    pub(super) end: u64,
    /// Bytes before it that are in no whole record: damage, which hides nothing of what lies behind it.
    pub(super) damaged_bytes: u64,
}

/// Walks the records from byte `from` up to byte `to`. What is no whole record is passed over up to the next one.
pub(super) fn records(
    packs: &dyn PackStore,
    pack: PackNumber,
    from: u64,
    to: u64,
    depth: Depth,
    visit: &mut dyn FnMut(IndexEntry),
) -> Result<Walked, PackError> {
    let mut walked = Walked { end: from, damaged_bytes: 0 };
    while let Some(entry) = next_record(packs, pack, walked.end, to, depth)? {
        walked.damaged_bytes += entry.offset - walked.end;
        walked.end = entry.offset + entry.header.record_bytes();
        visit(entry);
    }
    Ok(walked)
}

/// The record that begins at byte `offset`, if it is one and ends before byte `to`.
pub(super) fn record_at(
    packs: &dyn PackStore,
    pack: PackNumber,
    offset: u64,
    to: u64,
    depth: Depth,
) -> Result<Option<IndexEntry>, PackError> {
    let Some(header) = header_at(packs, pack, offset, to)? else { return Ok(None) };
    if depth == Depth::Bytes {
        let body = packs.read(pack, offset + RECORD_HEADER_BYTES as u64, header.stored_bytes as usize)?;
        if header.verify(&body).is_err() {
            return Ok(None);
        }
    }
    Ok(Some(IndexEntry { header, offset }))
}

fn header_at(packs: &dyn PackStore, pack: PackNumber, offset: u64, to: u64) -> Result<Option<RecordHeader>, PackError> {
    if offset + RECORD_HEADER_BYTES as u64 > to {
        return Ok(None);
    }
    let header = format::decode_record_header(&packs.read(pack, offset, RECORD_HEADER_BYTES)?).ok();
    Ok(header.filter(|header| offset + header.record_bytes() <= to))
}

/// The first record at byte `offset` or behind it. What doesn't begin where a record must is believed only with its bytes:
/// a chunk may itself hold what looks like a header.
fn next_record(
    packs: &dyn PackStore,
    pack: PackNumber,
    offset: u64,
    to: u64,
    depth: Depth,
) -> Result<Option<IndexEntry>, PackError> {
    if let Some(entry) = record_at(packs, pack, offset, to, depth)? {
        return Ok(Some(entry));
    }
    // Where only the chunk's bytes are damaged, its header still says where the next record begins.
    if let Some(header) = header_at(packs, pack, offset, to)?
        && let Some(entry) = record_at(packs, pack, offset + header.record_bytes(), to, Depth::Bytes)?
    {
        return Ok(Some(entry));
    }
    let mut at = offset + 1;
    while at + RECORD_HEADER_BYTES as u64 <= to {
        let length = (to - at).min(SEARCHED_AT_ONCE_BYTES as u64) as usize;
        let searched = packs.read(pack, at, length)?;
        for found in format::record_magics(&searched) {
            if let Some(entry) = record_at(packs, pack, at + found as u64, to, Depth::Bytes)? {
                return Ok(Some(entry));
            }
        }
        // A header may begin in the last bytes of this stretch and go on in the next.
        at += (length + 1).saturating_sub(RECORD_HEADER_BYTES).max(1) as u64;
    }
    Ok(None)
}

/// The trailer and index of a pack of `bytes` bytes, if it is sealed and they are sound.
pub(super) fn index(
    packs: &dyn PackStore,
    pack: PackNumber,
    bytes: u64,
) -> Result<Option<(Trailer, Vec<IndexEntry>)>, PackError> {
    let Some(trailer_offset) = bytes.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
    let Ok(trailer) = format::decode_trailer(&packs.read(pack, trailer_offset, TRAILER_BYTES)?, bytes) else {
        return Ok(None);
    };
    if trailer.entries > format::PACK_RECORDS_MAX.saturating_mul(2) {
        return Ok(None);
    }
    let index = packs.read(pack, trailer.index_offset, trailer.entries as usize * INDEX_ENTRY_BYTES)?;
    Ok(format::decode_index(&index, &trailer).ok().map(|entries| (trailer, entries)))
}

/// Looks at a pack's header: whether it is this pack's, or why not.
pub(super) fn header(
    packs: &dyn PackStore,
    pack: PackNumber,
    bytes: u64,
) -> Result<Result<(), FormatError>, PackError> {
    if bytes < PACK_HEADER_BYTES as u64 {
        return Ok(Err(FormatError::Short));
    }
    Ok(match format::decode_pack_header(&packs.read(pack, 0, PACK_HEADER_BYTES)?) {
        Ok(number) if number == pack => Ok(()),
        Ok(_) => Err(FormatError::Value("pack header")),
        Err(error) => Err(error),
    })
}

/// Where the chunk of an entry is.
pub(super) fn location_of(pack: PackNumber, entry: &IndexEntry) -> ChunkLocation {
    ChunkLocation {
        pack,
        offset: entry.offset,
        stored_bytes: entry.header.stored_bytes,
        plain_bytes: entry.header.plain_bytes,
        codec: entry.header.codec,
    }
}
