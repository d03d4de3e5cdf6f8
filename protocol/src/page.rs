//! Pages: the nodes of a version's tree, each encoded as one chunk.
//!
//! A leaf page holds some hundreds of file records in path order and the table of the chunks that they point into. An
//! inner page holds references to pages of the level below. A long extent list is a small tree of its own, of extent
//! pages. Where a page ends is decided by content (see [`crate::tree`]), so a change disturbs the pages on its path only.

use rkyv::{Archive, Deserialize, Serialize};

use crate::codec::{self, DecodeError, Encoded, Stored};
use crate::id::ChunkId;
use crate::record::{ChunkRef, Content, FileKind, FileRecord};

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

/// A node of a version's tree.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// File records.
    Leaf(LeafPage),
    /// References to the pages of level `level - 1`; leaves are level 0.
    Inner {
        /// Distance from the leaves.
        level: u8,
        /// The pages below, in path order.
        children: Vec<ChildRef>,
    },
    /// Chunks of one file, in file order.
    ExtentLeaf(Vec<ChunkRef>),
    /// References to the extent pages below, in file order.
    ExtentInner {
        /// Distance from the extent leaves.
        level: u8,
        /// The pages below.
        children: Vec<ExtentChildRef>,
    },
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

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Leaf(leaf) => check_leaf(leaf),
            Self::Inner { level, children } => check_inner(*level, children),
            Self::ExtentLeaf(chunks) => {
                check_chunks(chunks)?;
                if chunks.is_empty() { Err("an extent page without chunks".into()) } else { Ok(()) }
            }
            Self::ExtentInner { level, children } => {
                if *level == 0 || *level >= HEIGHT_MAX || children.is_empty() {
                    return Err(format!("an inner extent page of level {level} with {} children", children.len()));
                }
                let total = children.iter().try_fold((0u64, 0u64), |(bytes, chunks), child| {
                    Some((bytes.checked_add(child.bytes)?, chunks.checked_add(child.chunks)?))
                });
                total.map(|_| ()).ok_or_else(|| "its counts overflow".to_owned())
            }
        }
    }
}

fn check_chunks(chunks: &[ChunkRef]) -> Result<(), String> {
    match chunks.iter().find(|chunk| chunk.length == 0 || chunk.length > crate::chunking::CHUNK_BYTES_MAX) {
        Some(chunk) => Err(format!("chunk {} claims {} bytes", chunk.id.short(), chunk.length)),
        None => Ok(()),
    }
}

fn check_inner(level: u8, children: &[ChildRef]) -> Result<(), String> {
    if level == 0 || level >= HEIGHT_MAX || children.is_empty() {
        return Err(format!("an inner page of level {level} with {} children", children.len()));
    }
    let mut sums = (0u64, 0u64, 0u64, 0u64);
    let mut last: Option<&[u8]> = None;
    for child in children {
        crate::path::RelPath::new(child.first.clone()).map_err(|error| error.to_string())?;
        if last.is_some_and(|last| crate::path::compare(last, &child.first).is_ge()) {
            return Err("its children are out of order".into());
        }
        last = Some(&child.first);
        let added = |sum: u64, more: u64| sum.checked_add(more).ok_or_else(|| "its counts overflow".to_owned());
        sums = (
            added(sums.0, child.files)?,
            added(sums.1, child.samples)?,
            added(sums.2, child.bytes)?,
            added(sums.3, child.chunks)?,
        );
    }
    Ok(())
}

fn check_leaf(leaf: &LeafPage) -> Result<(), String> {
    check_chunks(&leaf.chunks)?;
    if leaf.records.is_empty() {
        return Err("a leaf page without records".into());
    }
    let mut ids: Vec<_> = leaf.chunks.iter().map(|chunk| chunk.id).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("its chunk table names a chunk twice".into());
    }
    let mut last: Option<&[u8]> = None;
    for record in &leaf.records {
        let path = crate::path::RelPath::new(record.path.clone()).map_err(|error| error.to_string())?;
        if last.is_some_and(|last| crate::path::compare(last, &record.path).is_ge()) {
            return Err(format!("`{path}` is out of order"));
        }
        last = Some(&record.path);
        check_record(leaf, record).map_err(|reason| format!("`{path}`: {reason}"))?;
    }
    Ok(())
}

fn check_record(leaf: &LeafPage, record: &FileRecord) -> Result<(), String> {
    let target_ok = match record.kind {
        FileKind::Symlink => {
            !record.link_target.is_empty()
                && record.link_target.len() <= crate::path::PATH_BYTES_MAX
                && !record.link_target.contains(&0)
        }
        FileKind::File | FileKind::Folder => record.link_target.is_empty(),
    };
    if !target_ok {
        return Err("its link target does not fit its kind".into());
    }
    if record.mode > 0o7777 {
        return Err(format!("its mode is {:o}", record.mode));
    }
    if record.kind != FileKind::File && (record.size != 0 || record.content != Content::Empty) {
        return Err("it is no file but has content".into());
    }
    let covered = match &record.content {
        Content::Empty => 0,
        Content::Shared { extent, .. } => {
            let chunk = leaf.chunks.get(extent.chunk as usize).ok_or("its extent names no chunk of the page")?;
            if u64::from(extent.offset) + u64::from(extent.length) > u64::from(chunk.length) || extent.length == 0 {
                return Err("its extent lies outside its chunk".into());
            }
            u64::from(extent.length)
        }
        Content::Whole(extents) => {
            let mut covered = 0u64;
            for extent in extents {
                let chunk = leaf.chunks.get(extent.chunk as usize).ok_or("an extent names no chunk of the page")?;
                if extent.offset != 0 || extent.length != chunk.length {
                    return Err("an extent is not a whole chunk".into());
                }
                covered += u64::from(extent.length);
            }
            covered
        }
        Content::Paged { height, chunks, .. } => {
            if *height == 0 || *height > HEIGHT_MAX || *chunks == 0 || *chunks > record.size {
                return Err("its extent tree can't be".into());
            }
            record.size
        }
    };
    if covered == record.size { Ok(()) } else { Err(format!("its extents cover {covered} of {} bytes", record.size)) }
}
