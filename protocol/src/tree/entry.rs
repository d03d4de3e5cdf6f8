//! What a builder takes: one entry per path, and where its bytes are or were.

use bytes::Bytes;

use super::source::SinkError;
use crate::id::ChunkId;
use crate::path::RelPath;
use crate::record::{ChunkRef, FileKind};

/// One path of a version to be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildEntry {
    /// Where it stands.
    pub path: RelPath,
    /// What stands there.
    pub kind: FileKind,
    /// Target of a symbolic link, else empty.
    pub link_target: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Its bytes.
    pub content: BuildContent,
}

/// Where the bytes of a [`BuildEntry`] are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildContent {
    /// There are none.
    Empty,
    /// A file below `ChunkerParams::min_bytes`, which shares a chunk with its neighbours.
    Small {
        /// BLAKE3 of its bytes.
        hash: ChunkId,
        /// Bytes, at least 1.
        size: u32,
        /// Its bytes where they are at hand. Otherwise [`SharedSink::read_small`] is asked, if they are needed at all.
        bytes: Option<Bytes>,
        /// Where these same bytes lie in an earlier version: a shared chunk and the offset in it. A chunk whose files
        /// are all unchanged is named again without reading one byte.
        previous: Option<(ChunkRef, u32)>,
    },
    /// Whole chunks in file order, as the chunker cut them.
    Large(Vec<ChunkRef>),
    /// An unchanged long file: its extent pages stay as they are.
    PagedKept {
        /// The topmost extent page.
        root: ChunkId,
        /// Chunks that the tree lists.
        chunks: u64,
        /// Levels of extent pages.
        height: u8,
        /// Bytes of the file.
        size: u64,
    },
    /// A small file whose bytes are not here any more (freed): it keeps its stretch of an old chunk.
    Pinned {
        /// The chunk.
        chunk: ChunkRef,
        /// First byte in it.
        offset: u32,
        /// Bytes.
        length: u32,
        /// BLAKE3 of the stretch.
        hash: ChunkId,
    },
}

/// Gives the bytes of small files when a shared chunk has to be made, and takes the chunks that were made.
pub trait SharedSink {
    /// The bytes of the file at `path`, which had the hash `hash` when it was seen. `None`: they are not here (freed);
    /// the file then keeps the stretch that it had before.
    fn read_small(&mut self, path: &RelPath, hash: &ChunkId) -> Result<Option<Bytes>, SinkError>;

    /// A shared chunk was made. Its files are told by the leaf page that follows.
    fn put_shared(&mut self, chunk: ChunkRef, bytes: &[u8]) -> Result<(), SinkError>;
}

/// A [`SharedSink`] for builds in which every entry brings its bytes, and nobody needs the chunks.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSharedSink;

impl SharedSink for NoSharedSink {
    fn read_small(&mut self, _path: &RelPath, _hash: &ChunkId) -> Result<Option<Bytes>, SinkError> {
        Ok(None)
    }

    fn put_shared(&mut self, _chunk: ChunkRef, _bytes: &[u8]) -> Result<(), SinkError> {
        Ok(())
    }
}
