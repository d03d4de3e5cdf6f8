//! Items: pages and chunks on their way, whole, compressed, or as a delta over bytes that the receiver has.

use rkyv::{Archive, Deserialize, Serialize};

use crate::codec::Encoded;
use crate::id::ChunkId;

/// Longest item header, in bytes.
pub const ITEM_HEADER_BYTES_MAX: usize = 16 * 1024;
/// Longest payload of an item, in bytes: an incompressible chunk of the largest size, and then some.
pub const PAYLOAD_BYTES_MAX: u32 = (1 << 20) + 4096;

/// Which page or chunk an item carries.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ItemKey {
    /// A page, by id.
    Page(ChunkId),
    /// A data chunk, by its ordinal in the version's manifest order.
    Chunk(u64),
}

/// A range of a chunk that the receiver holds.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeltaSource {
    /// The chunk or page.
    pub id: ChunkId,
    /// First byte.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
}

/// What an item's payload is.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// The plain bytes from `from_offset` on.
    Plain {
        /// First byte of the chunk in the payload; more than 0 when an interrupted chunk goes on.
        from_offset: u32,
    },
    /// A zstd frame of the plain bytes.
    Zstd,
    /// A zstd frame whose prefix is the concatenation of these ranges.
    Delta {
        /// What the receiver puts before the frame; it must hold and be allowed to read all of them.
        sources: Vec<DeltaSource>,
    },
}

/// What stands before an item's payload.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
pub struct ItemHeader {
    /// The transfer that it belongs to.
    pub transfer: u32,
    /// Which page or chunk.
    pub key: ItemKey,
    /// Bytes of the whole chunk, plain.
    pub plain_bytes: u32,
    /// Bytes that follow this header.
    pub payload_bytes: u32,
    /// What they are.
    pub encoding: Encoding,
}

impl Encoded for ItemHeader {
    const WHAT: &'static str = "item header";
    const BYTES_MAX: usize = ITEM_HEADER_BYTES_MAX;
}
