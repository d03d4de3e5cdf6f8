//! Where the bytes of a file are. A module of its own, because the names that deriving adds stay private in it.

use rkyv::{Archive, Deserialize, Serialize};

use super::Extent;
use crate::id::ChunkId;

/// Where the bytes of a file are.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// There are none: an empty file, a folder, a link.
    Empty,
    /// A stretch of a chunk that the file shares with its neighbours, and the BLAKE3 of that stretch.
    Shared {
        /// Where.
        extent: Extent,
        /// BLAKE3 of the file's bytes.
        hash: ChunkId,
    },
    /// Whole chunks of the page's table, in file order.
    Whole(Vec<Extent>),
    /// Whole chunks listed in a tree of extent pages, because the list is long.
    Paged {
        /// The topmost extent page.
        root: ChunkId,
        /// Chunks that the tree lists.
        chunks: u64,
        /// Levels of extent pages; 1 is a single leaf.
        height: u8,
    },
}
