//! Items: pages and chunks on their way, whole, compressed, or as a delta over bytes that the receiver has.

use rkyv::{Archive, Deserialize, Serialize};

use crate::chunking::CHUNK_BYTES_MAX;
use crate::codec::{self, DecodeError, Encoded};
use crate::compress::{DELTA_PREFIX_BYTES_MAX, DELTA_SOURCES_MAX};
use crate::id::ChunkId;

/// Longest item header, in bytes.
pub const ITEM_HEADER_BYTES_MAX: usize = 24 * 1024;
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
    /// A zstd frame of the plain bytes from `from_offset` on.
    Zstd {
        /// First byte of the chunk in the frame; more than 0 when an interrupted chunk goes on.
        from_offset: u32,
    },
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

const _: () = assert!(DELTA_SOURCES_MAX * size_of::<DeltaSource>() + 256 <= ITEM_HEADER_BYTES_MAX);
const _: () = assert!(crate::page::PAGE_BYTES_MAX <= CHUNK_BYTES_MAX as usize);

impl ItemHeader {
    /// The header in `bytes`, if it is valid and what it says can be: lengths in bounds and in agreement.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let header: Self = codec::decode(bytes)?;
        header.check().map_err(|reason| DecodeError::Inconsistent { what: Self::WHAT, reason })?;
        Ok(header)
    }

    /// The header as bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// First byte of the chunk that the payload stands for.
    pub const fn from_offset(&self) -> u32 {
        match self.encoding {
            Encoding::Plain { from_offset } | Encoding::Zstd { from_offset } => from_offset,
            Encoding::Delta { .. } => 0,
        }
    }

    fn check(&self) -> Result<(), String> {
        let Self { plain_bytes, payload_bytes, .. } = *self;
        if plain_bytes == 0 || plain_bytes > CHUNK_BYTES_MAX {
            return Err(format!("an item of {plain_bytes} plain bytes"));
        }
        if payload_bytes == 0 || payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(format!("a payload of {payload_bytes} bytes"));
        }
        if self.from_offset() >= plain_bytes {
            return Err(format!("it goes on at byte {} of {plain_bytes}", self.from_offset()));
        }
        match &self.encoding {
            Encoding::Plain { from_offset } if payload_bytes != plain_bytes - from_offset => {
                Err(format!("{payload_bytes} plain bytes stand for those from {from_offset} to {plain_bytes}"))
            }
            Encoding::Plain { .. } | Encoding::Zstd { .. } => Ok(()),
            Encoding::Delta { sources } => check_sources(sources),
        }
    }
}

fn check_sources(sources: &[DeltaSource]) -> Result<(), String> {
    if sources.is_empty() || sources.len() > DELTA_SOURCES_MAX {
        return Err(format!("a delta over {} sources", sources.len()));
    }
    let mut total = 0;
    for source in sources {
        if source.length == 0 || u64::from(source.offset) + u64::from(source.length) > u64::from(CHUNK_BYTES_MAX) {
            return Err(format!("a delta source of {} bytes at {}", source.length, source.offset));
        }
        total += source.length as usize;
    }
    if total > DELTA_PREFIX_BYTES_MAX { Err(format!("delta sources of {total} bytes")) } else { Ok(()) }
}
