//! Pages: the nodes of a version's tree, each encoded as one chunk.
//!
//! A leaf page holds some hundreds of file records in path order and the table of the chunks that they point into. An
//! inner page holds references to pages of the level below. A long extent list is a small tree of its own, of extent
//! pages. Where a page ends is decided by content (see [`crate::tree`]), so a change disturbs the pages on its path only.

mod check;
mod node;

pub use node::Page;
use rkyv::{Archive, Deserialize, Serialize};

use crate::codec::{self, DecodeError, Encoded, Stored};
use crate::id::ChunkId;
use crate::record::{ChunkRef, FileRecord};

/// Longest encoding of a page, in bytes.
pub const PAGE_BYTES_MAX: usize = 1 << 20;
/// Most levels that a tree of pages has.
pub const HEIGHT_MAX: u8 = 8;

/// A reference to a page of the level below, with the sums that make any lookup O(log n).
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChildRef {
    /// The page.
    pub id: ChunkId,
    /// Path of the first record below.
    pub first: Vec<u8>,
    /// Records below.
    pub files: u64,
    /// Samples below: stem groups of regular files.
    pub samples: u64,
    /// Sum of the file sizes below, in bytes.
    pub bytes: u64,
    /// Data chunks below, in manifest order: for each leaf its table, then the extent trees of its records.
    pub chunks: u64,
}

/// A reference from one extent page to another.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExtentChildRef {
    /// The page.
    pub id: ChunkId,
    /// Bytes of the file that it covers.
    pub bytes: u64,
    /// Chunks that it lists.
    pub chunks: u64,
}

/// File records in path order, and the chunks that they point into.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct LeafPage {
    /// The chunk table; no id stands in it twice.
    pub chunks: Vec<ChunkRef>,
    /// The records, in path order; all files of a stem group are in one page.
    pub records: Vec<FileRecord>,
}

impl Encoded for Page {
    const WHAT: &'static str = "page";
    const BYTES_MAX: usize = PAGE_BYTES_MAX - codec::STORED_HEADER_BYTES;
}

impl Stored for Page {
    const MAGIC: [u8; 4] = *b"HWpg";
    const VERSION: u16 = 1;
}

impl Page {
    /// The page's bytes; their BLAKE3 is its id.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode_stored(self)
    }

    /// The page in `bytes`, if it is valid and its records can be: safe paths in order, extents inside their chunks,
    /// sizes that add up.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let page: Self = codec::decode_stored(bytes)?;
        page.check().map_err(|reason| DecodeError::Inconsistent { what: Self::WHAT, reason })?;
        Ok(page)
    }
}
