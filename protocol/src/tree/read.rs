//! Reading a version: every lookup reads O(log n) pages and believes none of them more than their parents allow.

use std::ops::{Deref, Range};
use std::sync::Arc;

use super::cursor::{Chunks, Leaves, Past, Records, Stretches};
use super::leaf;
use super::source::{PageSource, PageSourceError};
use crate::id::ChunkId;
use crate::manifest::{Manifest, Totals};
use crate::page::{ChildRef, HEIGHT_MAX, LeafPage, Page};
use crate::path::{self, RelPath, is_at_or_below};
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
    pub(super) page: Arc<Page>,
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
        self.root.map_or_else(Totals::default, |root| Totals::default().and(root))
    }

    /// The leaf pages in path order, by reference: none of them is read, only the pages above.
    pub fn leaves(&self) -> Leaves<'a> {
        Leaves::new(self, Past::Nothing)
    }

    /// The leaf pages from the one on that `path` falls into.
    pub fn leaves_from(&self, path: &RelPath) -> Leaves<'a> {
        Leaves::new(self, Past::Path(path.clone()))
    }

    /// Reads a leaf page.
    pub fn leaf(&self, at: &LeafRef) -> Result<Leaf, TreeError> {
        Ok(Leaf { id: at.child.id, before: at.before, page: load(self.source, &at.child, 0)? })
    }

    /// All records in path order, one page at a time.
    pub fn records(&self) -> Records<'a> {
        Records::new(*self, self.leaves(), None)
    }

    /// All records from `path` on, be there one at `path` or not.
    pub fn records_from(&self, path: &RelPath) -> Records<'a> {
        Records::new(*self, self.leaves_from(path), Some(path.clone()))
    }

    /// The record at `path`, and all of what lies below it: neighbours in the order that pages keep.
    pub fn records_at_or_below(&self, path: &RelPath) -> impl Iterator<Item = Result<RecordAt, TreeError>> + use<'a> {
        let at = path.clone();
        self.records_from(path).take_while(move |record| {
            record.as_ref().map_or(true, |record| is_at_or_below(&record.path, at.as_bytes()))
        })
    }

    /// The record at `path`.
    pub fn find(&self, path: &RelPath) -> Result<Option<RecordAt>, TreeError> {
        let Some(leaf) = self.first_leaf(self.leaves_from(path))? else { return Ok(None) };
        let found = leaf.records.binary_search_by(|record| path::compare(&record.path, path.as_bytes()));
        Ok(found.ok().map(|index| RecordAt { leaf, index }))
    }

    /// Record number `file`.
    pub fn file_at(&self, file: u64) -> Result<Option<RecordAt>, TreeError> {
        let Some(leaf) = self.first_leaf(Leaves::new(self, Past::File(file)))? else { return Ok(None) };
        let index = file.saturating_sub(leaf.before.files) as usize;
        Ok((index < leaf.records.len()).then_some(RecordAt { leaf, index }))
    }

    /// Sample number `sample`.
    pub fn sample_at(&self, sample: u64) -> Result<Option<SampleAt>, TreeError> {
        let Some(leaf) = self.first_leaf(Leaves::new(self, Past::Sample(sample)))? else { return Ok(None) };
        let wanted = sample.saturating_sub(leaf.before.samples) as usize;
        let records = leaf::samples(&leaf.records).nth(wanted);
        Ok(records.map(|records| SampleAt { leaf, records }))
    }

    /// The chunk at `ordinal` in manifest order.
    pub fn chunk_at(&self, ordinal: u64) -> Result<Option<ChunkPlace>, TreeError> {
        self.chunks_from(ordinal).next().transpose()
    }

    /// All chunks in manifest order.
    pub fn chunks(&self) -> Chunks<'a> {
        self.chunks_from(0)
    }

    /// All chunks in manifest order from `ordinal` on.
    pub fn chunks_from(&self, ordinal: u64) -> Chunks<'a> {
        Chunks::new(*self, Leaves::new(self, Past::Chunk(ordinal)), ordinal)
    }

    /// The stretches of chunks that a file consists of, in file order.
    pub fn stretches(&self, record: &RecordAt) -> Stretches<'a> {
        self.stretches_from(record, 0)
    }

    /// The stretches of a file from the one on that holds the byte at `file_offset`.
    pub fn stretches_from(&self, record: &RecordAt, file_offset: u64) -> Stretches<'a> {
        Stretches::new(self.source, record, file_offset)
    }

    fn first_leaf(&self, mut leaves: Leaves<'a>) -> Result<Option<Leaf>, TreeError> {
        leaves.next().transpose()?.map(|at| self.leaf(&at)).transpose()
    }
}

pub(super) fn mismatch(id: &ChunkId, reason: impl Into<String>) -> TreeError {
    TreeError::Mismatch { id: *id, reason: reason.into() }
}

/// Reads the page that `child` names and checks all that `child` says of it.
pub(super) fn load(source: &dyn PageSource, child: &ChildRef, level: u8) -> Result<Arc<Page>, TreeError> {
    if level >= HEIGHT_MAX {
        return Err(mismatch(&child.id, format!("level {level} is higher than trees are")));
    }
    let page = source.page(&child.id)?;
    check_page(&page, child, level)?;
    Ok(page)
}

/// Checks a page of records, of level `level`, against all that the reference to it says.
pub fn check_page(page: &Page, child: &ChildRef, level: u8) -> Result<(), TreeError> {
    let id = &child.id;
    let (found, first, sums) = match page {
        Page::Leaf(leaf) => (0, leaf.records.first().map(|record| &record.path), leaf::sums(leaf)),
        Page::Inner { level, children } => {
            let sums = children.iter().fold(Totals::default(), Totals::and);
            (*level, children.first().map(|child| &child.first), sums)
        }
        Page::ExtentLeaf(_) | Page::ExtentInner { .. } => {
            return Err(mismatch(id, "it lists a file's chunks, and records were expected"));
        }
    };
    if found != level {
        return Err(mismatch(id, format!("it is of level {found}, and {level} was expected")));
    }
    if first != Some(&child.first) {
        return Err(mismatch(id, "it begins with another path than the page above says"));
    }
    if sums != Totals::default().and(child) {
        return Err(mismatch(id, "its files, samples, bytes or chunks are not as many as the page above says"));
    }
    Ok(())
}
