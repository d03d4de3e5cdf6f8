//! What stands in a pack, byte for byte. Pure; drawn in `docs/storage-format.md`.
//!
//! A pack is a header, records one after the other, and, once sealed, an index of them with a trailer. All numbers are
//! little-endian. Headers carry a check of themselves; a chunk's bytes are checked by the chunk's id, so that every byte
//! is covered and none is hashed twice.

use headwater_protocol::chunking::CHUNK_BYTES_MAX;
use headwater_protocol::compress::{self, DecompressError};
use headwater_protocol::id::{ChunkId, ID_BYTES};

use crate::catalog::{ChunkCodec, PackNumber};

/// Bytes of a pack's header.
pub const PACK_HEADER_BYTES: usize = 32;
/// Bytes of a record before the chunk's own.
pub const RECORD_HEADER_BYTES: usize = 64;
/// Bytes of an entry in the index.
pub const INDEX_ENTRY_BYTES: usize = 56;
/// Bytes of the trailer that ends a sealed pack.
pub const TRAILER_BYTES: usize = 64;
/// The layout that is written, and the newest that is read.
pub const PACK_VERSION: u16 = 1;
/// Longest stored form of a chunk, in bytes: nothing is stored compressed that didn't get shorter.
pub const STORED_BYTES_MAX: u32 = CHUNK_BYTES_MAX;
/// Most records of a pack: it bounds the memory that its index takes.
pub const PACK_RECORDS_MAX: u64 = 1 << 16;

const PACK_MAGIC: [u8; 4] = *b"HWpk";
const RECORD_MAGIC: [u8; 4] = *b"HWrc";
const TRAILER_MAGIC: [u8; 4] = *b"HWix";
const CHECK_BYTES: usize = 8;

/// Why bytes are not what should stand there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It doesn't open with its magic.
    #[error("there is no {0} here")]
    Magic(&'static str),
    /// Its check doesn't fit.
    #[error("the {0} is damaged")]
    Check(&'static str),
    /// A newer release wrote it.
    #[error("the pack has layout {found}, and this release knows layouts up to {PACK_VERSION}")]
    Newer {
        /// The layout in the bytes.
        found: u16,
    },
    /// What it says can't be.
    #[error("the {0} says what can't be")]
    Value(&'static str),
    /// The chunk's bytes end too early.
    #[error("the record is cut off")]
    Short,
    /// The stored bytes are no frame of the right length.
    #[error("the frame is damaged: {0}")]
    Frame(#[from] DecompressError),
    /// The plain bytes have another hash than the chunk's name.
    #[error("the bytes have another hash than the chunk's name")]
    Hash,
}

/// What stands before a chunk's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The chunk.
    pub id: ChunkId,
    /// How its bytes are stored.
    pub codec: ChunkCodec,
    /// Bytes that follow.
    pub stored_bytes: u32,
    /// Bytes that they become.
    pub plain_bytes: u32,
}

/// A line of a sealed pack's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The record's header.
    pub header: RecordHeader,
    /// Where the record begins.
    pub offset: u64,
}

/// What ends a sealed pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Entries of the index.
    pub entries: u64,
    /// Where the index begins, and the records end.
    pub index_offset: u64,
    /// BLAKE3 of the index: the pack's identity.
    pub identity: [u8; ID_BYTES],
}

/// The header of pack `number`.
pub fn encode_pack_header(number: PackNumber) -> [u8; PACK_HEADER_BYTES] {
    let mut bytes = [0; PACK_HEADER_BYTES];
    bytes[..4].copy_from_slice(&PACK_MAGIC);
    bytes[4..6].copy_from_slice(&PACK_VERSION.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.0.to_le_bytes());
    put_check(&mut bytes);
    bytes
}

/// The number in a pack's header.
pub fn decode_pack_header(bytes: &[u8]) -> Result<PackNumber, FormatError> {
    const WHAT: &str = "pack header";
    let bytes: &[u8; PACK_HEADER_BYTES] = exactly(bytes)?;
    if bytes[..4] != PACK_MAGIC {
        return Err(FormatError::Magic(WHAT));
    }
    let found = u16::from_le_bytes([bytes[4], bytes[5]]);
    if found > PACK_VERSION {
        return Err(FormatError::Newer { found });
    }
    check(bytes, WHAT)?;
    Ok(PackNumber(u64_at(bytes, 8)))
}

/// The bytes of a record's header.
pub fn encode_record_header(header: &RecordHeader) -> [u8; RECORD_HEADER_BYTES] {
    let mut bytes = [0; RECORD_HEADER_BYTES];
    bytes[..4].copy_from_slice(&RECORD_MAGIC);
    bytes[4] = header.codec as u8;
    bytes[8..12].copy_from_slice(&header.stored_bytes.to_le_bytes());
    bytes[12..16].copy_from_slice(&header.plain_bytes.to_le_bytes());
    bytes[16..48].copy_from_slice(header.id.as_bytes());
    put_check(&mut bytes);
    bytes
}

/// The header that opens a record.
pub fn decode_record_header(bytes: &[u8]) -> Result<RecordHeader, FormatError> {
    const WHAT: &str = "record header";
    let bytes: &[u8; RECORD_HEADER_BYTES] = exactly(bytes)?;
    if bytes[..4] != RECORD_MAGIC {
        return Err(FormatError::Magic(WHAT));
    }
    check(bytes, WHAT)?;
    let header = RecordHeader {
        id: id_at(bytes, 16),
        codec: ChunkCodec::from_byte(bytes[4]).ok_or(FormatError::Value(WHAT))?,
        stored_bytes: u32_at(bytes, 8),
        plain_bytes: u32_at(bytes, 12),
    };
    if header.is_possible() { Ok(header) } else { Err(FormatError::Value(WHAT)) }
}

/// Where in `bytes` a record's header may begin.
pub fn record_magics(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let candidates = bytes.windows(RECORD_MAGIC.len()).enumerate();
    candidates.filter(|(_, window)| *window == RECORD_MAGIC).map(|(at, _)| at)
}

impl RecordHeader {
    /// Bytes of the whole record.
    pub const fn record_bytes(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + self.stored_bytes as u64
    }

    fn is_possible(&self) -> bool {
        let lengths_fit = match self.codec {
            ChunkCodec::Plain => self.stored_bytes == self.plain_bytes,
            ChunkCodec::Zstd => self.stored_bytes > 0,
        };
        lengths_fit && (1..=CHUNK_BYTES_MAX).contains(&self.plain_bytes) && self.stored_bytes <= STORED_BYTES_MAX
    }

    /// Checks that `stored` is the chunk, and gives its plain bytes if they are not `stored` itself.
    pub fn verify(&self, stored: &[u8]) -> Result<Option<Vec<u8>>, FormatError> {
        if stored.len() != self.stored_bytes as usize {
            return Err(FormatError::Short);
        }
        let plain = match self.codec {
            ChunkCodec::Plain => None,
            ChunkCodec::Zstd => Some(compress::decompress(stored, self.plain_bytes as usize)?),
        };
        if ChunkId::of(plain.as_deref().unwrap_or(stored)) == self.id { Ok(plain) } else { Err(FormatError::Hash) }
    }
}

/// The index and trailer that seal a pack whose records end at `index_offset`.
pub fn encode_index(entries: &[IndexEntry], index_offset: u64) -> (Vec<u8>, Trailer) {
    let mut bytes = Vec::with_capacity(entries.len() * INDEX_ENTRY_BYTES + TRAILER_BYTES);
    for entry in entries {
        bytes.extend_from_slice(entry.header.id.as_bytes());
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
        bytes.extend_from_slice(&entry.header.stored_bytes.to_le_bytes());
        bytes.extend_from_slice(&entry.header.plain_bytes.to_le_bytes());
        bytes.extend_from_slice(&[entry.header.codec as u8, 0, 0, 0, 0, 0, 0, 0]);
    }
    let trailer = Trailer { entries: entries.len() as u64, index_offset, identity: *blake3::hash(&bytes).as_bytes() };
    let mut end = [0; TRAILER_BYTES];
    end[..4].copy_from_slice(&TRAILER_MAGIC);
    end[4..6].copy_from_slice(&PACK_VERSION.to_le_bytes());
    end[8..16].copy_from_slice(&trailer.entries.to_le_bytes());
    end[16..24].copy_from_slice(&trailer.index_offset.to_le_bytes());
    end[24..56].copy_from_slice(&trailer.identity);
    put_check(&mut end);
    bytes.extend_from_slice(&end);
    (bytes, trailer)
}

/// The trailer of a sealed pack of `pack_bytes` bytes.
pub fn decode_trailer(bytes: &[u8], pack_bytes: u64) -> Result<Trailer, FormatError> {
    const WHAT: &str = "trailer";
    let bytes: &[u8; TRAILER_BYTES] = exactly(bytes)?;
    if bytes[..4] != TRAILER_MAGIC {
        return Err(FormatError::Magic(WHAT));
    }
    let found = u16::from_le_bytes([bytes[4], bytes[5]]);
    if found > PACK_VERSION {
        return Err(FormatError::Newer { found });
    }
    check(bytes, WHAT)?;
    let trailer = Trailer { entries: u64_at(bytes, 8), index_offset: u64_at(bytes, 16), identity: id_at(bytes, 24).0 };
    let index_bytes = trailer.entries.checked_mul(INDEX_ENTRY_BYTES as u64);
    let end = index_bytes.and_then(|index| index.checked_add(trailer.index_offset)?.checked_add(TRAILER_BYTES as u64));
    if end == Some(pack_bytes) { Ok(trailer) } else { Err(FormatError::Value(WHAT)) }
}

/// The entries of a sealed pack's index.
pub fn decode_index(bytes: &[u8], trailer: &Trailer) -> Result<Vec<IndexEntry>, FormatError> {
    const WHAT: &str = "index";
    if *blake3::hash(bytes).as_bytes() != trailer.identity {
        return Err(FormatError::Check(WHAT));
    }
    let mut entries = Vec::with_capacity(bytes.len() / INDEX_ENTRY_BYTES);
    for line in bytes.chunks_exact(INDEX_ENTRY_BYTES) {
        let header = RecordHeader {
            id: id_at(line, 0),
            codec: ChunkCodec::from_byte(line[48]).ok_or(FormatError::Value(WHAT))?,
            stored_bytes: u32_at(line, 40),
            plain_bytes: u32_at(line, 44),
        };
        let entry = IndexEntry { header, offset: u64_at(line, 32) };
        let end = entry.offset.checked_add(header.record_bytes()).ok_or(FormatError::Value(WHAT))?;
        if !header.is_possible() || end > trailer.index_offset {
            return Err(FormatError::Value(WHAT));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], FormatError> {
    bytes.try_into().map_err(|_| FormatError::Short)
}

/// The last eight bytes of a header are the first of the BLAKE3 of the rest.
fn put_check(bytes: &mut [u8]) {
    let (head, check) = bytes.split_at_mut(bytes.len() - CHECK_BYTES);
    check.copy_from_slice(&blake3::hash(head).as_bytes()[..CHECK_BYTES]);
}

fn check(bytes: &[u8], what: &'static str) -> Result<(), FormatError> {
    let (head, check) = bytes.split_at(bytes.len() - CHECK_BYTES);
    if check == &blake3::hash(head).as_bytes()[..CHECK_BYTES] { Ok(()) } else { Err(FormatError::Check(what)) }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn id_at(bytes: &[u8], at: usize) -> ChunkId {
    ChunkId(bytes[at..at + ID_BYTES].try_into().expect("an id's bytes"))
}
