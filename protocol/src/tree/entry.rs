//! What a builder takes: one entry per path, and where its bytes are or were.

use bytes::Bytes;

use super::cursor::chunk_of;
use super::read::{RecordAt, TreeError, mismatch};
use super::source::SinkError;
use crate::id::ChunkId;
use crate::path::RelPath;
use crate::record::{ChunkRef, Content, FileKind, FileRecord};

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

impl BuildEntry {
    /// The entry that keeps a record of an earlier version as it is. Its bytes are read again only where a small file's
    /// neighbours changed.
    pub fn unchanged(record: &RecordAt) -> Result<Self, TreeError> {
        let content = match &record.content {
            Content::Empty => BuildContent::Empty,
            Content::Shared { extent, hash } => {
                let previous = Some((chunk_of(&record.leaf, extent)?, extent.offset));
                BuildContent::Small { hash: *hash, size: extent.length, bytes: None, previous }
            }
            Content::Whole(extents) => BuildContent::Large(
                extents.iter().map(|extent| chunk_of(&record.leaf, extent)).collect::<Result<_, _>>()?,
            ),
            Content::Paged { root, chunks, height } => {
                BuildContent::PagedKept { root: *root, chunks: *chunks, height: *height, size: record.size }
            }
        };
        let path = RelPath::new(record.path.clone()).map_err(|error| mismatch(&record.leaf.id, error.to_string()))?;
        let FileRecord { kind, mode, mtime_ns, .. } = **record;
        Ok(Self { path, kind, link_target: record.link_target.clone(), mode, mtime_ns, content })
    }

    /// The same for a file whose bytes are not here any more: it keeps its chunks whatever its neighbours do.
    pub fn pinned(record: &RecordAt) -> Result<Self, TreeError> {
        let mut entry = Self::unchanged(record)?;
        if let BuildContent::Small { hash, size, previous: Some((chunk, offset)), .. } = entry.content {
            entry.content = BuildContent::Pinned { chunk, offset, length: size, hash };
        }
        Ok(entry)
    }
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
