//! Reading a version: every lookup reads O(log n) pages and believes none of them more than their parents allow.

use std::ops::{Deref, Range};
use std::sync::Arc;

use super::source::{PageSource, PageSourceError};
use crate::id::ChunkId;
use crate::manifest::{Manifest, Totals};
use crate::page::{ChildRef, LeafPage, Page};
use crate::path::RelPath;
use crate::record::{ChunkRef, FileRecord};

/// Why a version can't be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A page can't be had.
    #[error(transparent)]
    Source(#[from] PageSourceError),
    /// A page is not what the page above says of it.
    #[error("page {} does not fit into its version: {reason}", .id.short())]
    Mismatch {
        /// The page.
        id: ChunkId,
        /// What does not fit.
        reason: String,
    },
}

/// A version's tree: its root, and where its pages are. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    pub(super) root: Option<&'a ChildRef>,
    pub(super) height: u8,
    pub(super) source: &'a dyn PageSource,
}

/// A leaf page by reference, and what comes before it in the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafRef {
    /// The page and its sums.
    pub child: ChildRef,
    /// Files, samples, bytes and chunks of all leaves before it.
    pub before: Totals,
}

/// A leaf page that was read. Derefs to [`LeafPage`]; cheap to clone.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Its id.
    pub id: ChunkId,
    /// Files, samples, bytes and chunks of all leaves before it.
    pub before: Totals,
    page: Arc<Page>,
}

impl Deref for Leaf {
    type Target = LeafPage;

    fn deref(&self) -> &LeafPage {
        match &*self.page {
            Page::Leaf(leaf) => leaf,
            _ => unreachable!("only made from leaf pages"),
        }
    }
}

/// A record of a version. Derefs to [`FileRecord`].
#[derive(Clone, Debug)]
pub struct RecordAt {
    /// The page that holds it.
    pub leaf: Leaf,
    /// Its index in the page.
    pub index: usize,
}

impl RecordAt {
    /// The record.
    pub fn record(&self) -> &FileRecord {
        &self.leaf.records[self.index]
    }

    /// Its number among all records of the version.
    pub fn file(&self) -> u64 {
        self.leaf.before.files + self.index as u64
    }
}

impl Deref for RecordAt {
    type Target = FileRecord;

    fn deref(&self) -> &FileRecord {
        self.record()
    }
}

/// A sample of a version: a stem group. Records in it that are no regular files are not part of the sample.
#[derive(Clone, Debug)]
pub struct SampleAt {
    /// The page that holds it.
    pub leaf: Leaf,
    /// The indices of its records in the page.
    pub records: Range<usize>,
}

impl SampleAt {
    /// Numbers of its records among all records of the version.
    pub fn files(&self) -> Range<u64> {
        let before = self.leaf.before.files;
        before + self.records.start as u64..before + self.records.end as u64
    }
}

/// A chunk in manifest order.
#[derive(Clone, Debug)]
pub struct ChunkPlace {
    /// Its position in manifest order.
    pub ordinal: u64,
    /// The chunk.
    pub chunk: ChunkRef,
    /// The leaf page under which it stands.
    pub leaf: Leaf,
    /// Where under that page.
    pub within: Within,
}

/// Where under a leaf page a chunk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    /// In the page's chunk table, at this index. Any record of the page may point to it, and several may.
    Table(usize),
    /// In the extent pages of a long file.
    Extent {
        /// The file's record in the leaf page.
        record: usize,
        /// First byte of the file that the chunk covers.
        file_offset: u64,
    },
}

impl<'a> Tree<'a> {
    /// The tree of `manifest`, with pages from `source`.
    pub fn new(manifest: &'a Manifest, source: &'a dyn PageSource) -> Self {
        Self::from_root(manifest.root.as_ref(), manifest.height, source)
    }

    /// The tree below `root`, a page of level `height`.
    pub fn from_root(root: Option<&'a ChildRef>, height: u8, source: &'a dyn PageSource) -> Self {
        Self { root, height, source }
    }

    /// Files, samples, bytes and chunks.
    pub fn totals(&self) -> Totals {
        todo!()
    }

    /// The leaf pages in path order, by reference: none of them is read, only the pages above.
    pub fn leaves(&self) -> Box<dyn Iterator<Item = Result<LeafRef, TreeError>> + 'a> {
        todo!()
    }

    /// Reads a leaf page.
    pub fn leaf(&self, _at: &LeafRef) -> Result<Leaf, TreeError> {
        todo!()
    }

    /// All records in path order, one page at a time.
    pub fn records(&self) -> Box<dyn Iterator<Item = Result<RecordAt, TreeError>> + 'a> {
        todo!()
    }

    /// All records from `path` on, be there one at `path` or not.
    pub fn records_from(&self, _path: &RelPath) -> Box<dyn Iterator<Item = Result<RecordAt, TreeError>> + 'a> {
        todo!()
    }

    /// The record at `path`.
    pub fn find(&self, _path: &RelPath) -> Result<Option<RecordAt>, TreeError> {
        todo!()
    }

    /// Record number `file`.
    pub fn file_at(&self, _file: u64) -> Result<Option<RecordAt>, TreeError> {
        todo!()
    }

    /// Sample number `sample`.
    pub fn sample_at(&self, _sample: u64) -> Result<Option<SampleAt>, TreeError> {
        todo!()
    }

    /// The chunk at `ordinal` in manifest order.
    pub fn chunk_at(&self, _ordinal: u64) -> Result<Option<ChunkPlace>, TreeError> {
        todo!()
    }

    /// All chunks in manifest order.
    pub fn chunks(&self) -> Box<dyn Iterator<Item = Result<ChunkPlace, TreeError>> + 'a> {
        self.chunks_from(0)
    }

    /// All chunks in manifest order from `ordinal` on.
    pub fn chunks_from(&self, _ordinal: u64) -> Box<dyn Iterator<Item = Result<ChunkPlace, TreeError>> + 'a> {
        todo!()
    }

    /// The stretches of chunks that a file consists of, in file order.
    pub fn stretches(&self, _record: &RecordAt) -> Box<dyn Iterator<Item = Result<Stretch, TreeError>> + 'a> {
        todo!()
    }

    /// Visits every page and every chunk name below the root, each page before those below it: `enter` gets a page's id
    /// and says whether to read it and go on below it, `chunk` gets every chunk of the leaves and extent leaves entered.
    pub fn walk(
        &self,
        _enter: &mut dyn FnMut(&ChunkId) -> bool,
        _chunk: &mut dyn FnMut(&ChunkRef),
    ) -> Result<(), TreeError> {
        todo!()
    }
}

/// A stretch of one chunk that holds a part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The chunk's position in manifest order.
    pub ordinal: u64,
    /// The chunk.
    pub chunk: ChunkRef,
    /// First byte in the chunk.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
    /// First byte in the file.
    pub file_offset: u64,
}
