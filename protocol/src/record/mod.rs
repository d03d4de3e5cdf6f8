//! What a version says of one file: its path, its kind, and where its bytes are.

mod content;

pub use content::Content;
use rkyv::{Archive, Deserialize, Serialize};

use crate::id::ChunkId;

/// What stands at a path.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[rkyv(derive(Clone, Copy, Debug, PartialEq, Eq))]
#[repr(u8)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder with nothing in it, or one whose mode must be kept.
    Folder,
    /// A symbolic link; its target is in [`FileRecord::link_target`].
    Symlink,
}

/// A stretch of one chunk. `chunk` is an index into the chunk table of the page that holds the record.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Index into the page's chunk table.
    pub chunk: u32,
    /// First byte in the chunk.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
}

/// A chunk as a table names it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// BLAKE3 of its plain bytes.
    pub id: ChunkId,
    /// Plain bytes in it.
    pub length: u32,
}

/// One file of a version. A page keeps these in path order.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileRecord {
    /// Path relative to the dataset's folder; see [`crate::path::RelPath`] for what decoders accept.
    pub path: Vec<u8>,
    /// What stands there.
    pub kind: FileKind,
    /// Target of a symbolic link, else empty.
    pub link_target: Vec<u8>,
    /// Permission bits, as in `st_mode & 0o7777`.
    pub mode: u32,
    /// Modification time, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Bytes.
    pub size: u64,
    /// Where the bytes are.
    pub content: Content,
}
