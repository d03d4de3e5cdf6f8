//! Walking through the records of a pack, for recovery and rebuilding.

use super::format::{
    self, FormatError, INDEX_ENTRY_BYTES, IndexEntry, PACK_HEADER_BYTES, RECORD_HEADER_BYTES, TRAILER_BYTES, Trailer,
};
use super::pack::{PackError, PackStore};
use crate::catalog::{ChunkLocation, PackNumber};

/// Whether the bytes of records are hashed while scanning, or only their headers looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Headers only: the bytes are known to be durable.
    Headers,
    /// Everything: the bytes may have been cut off.
    Bytes,
}

/// Walks the records from byte `from` up to byte `to`. Gives where the last whole one ends: `to`, unless something that is no
/// record came first.
pub(super) fn records(
    packs: &dyn PackStore,
    pack: PackNumber,
    from: u64,
    to: u64,
    depth: Depth,
    visit: &mut dyn FnMut(IndexEntry),
) -> Result<u64, PackError> {
    let mut offset = from;
    while offset + RECORD_HEADER_BYTES as u64 <= to {
        let Ok(header) = format::decode_record_header(&packs.read(pack, offset, RECORD_HEADER_BYTES)?) else {
            break;
        };
        let end = offset + header.record_bytes();
        if end > to {
            break;
        }
        if depth == Depth::Bytes {
            let body = packs.read(pack, offset + RECORD_HEADER_BYTES as u64, header.stored_bytes as usize)?;
            if header.verify(&body).is_err() {
                break;
            }
        }
        visit(IndexEntry { header, offset });
        offset = end;
    }
    Ok(offset)
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
