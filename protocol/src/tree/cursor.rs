//! The iterators over a version: leaves, records, chunks, and the stretches of a file. Each ends after its first error.

use std::sync::Arc;

use super::extents::{ExtentCursor, From};
use super::leaf::paged_chunks;
use super::read::{ChunkPlace, Leaf, LeafRef, RecordAt, Stretch, Tree, TreeError, Within, load, mismatch};
use super::source::PageSource;
use crate::manifest::Totals;
use crate::page::{ChildRef, Page};
use crate::path::{self, RelPath};
use crate::record::{ChunkRef, Content, Extent};

/// What an iterator passes over before its first leaf.
pub(super) enum Past {
    Nothing,
    /// All before the leaf that this path falls into.
    Path(RelPath),
    /// All before record number so-and-so.
    File(u64),
    Sample(u64),
    Chunk(u64),
}

impl Past {
    /// Whether all that is wanted comes after `child`, whose right neighbour in its page is `next`.
    fn passes(&self, before: &Totals, child: &ChildRef, next: Option<&ChildRef>) -> bool {
        let through = before.and(child);
        match self {
            Self::Nothing => false,
            Self::Path(wanted) => next.is_some_and(|next| path::compare(&next.first, wanted.as_bytes()).is_le()),
            Self::File(wanted) => through.files <= *wanted,
            Self::Sample(wanted) => through.samples <= *wanted,
            Self::Chunk(wanted) => through.chunks <= *wanted,
        }
    }
}

/// Leaf pages by reference, in path order; see [`Tree::leaves`].
pub struct Leaves<'a> {
    source: &'a dyn PageSource,
    start: Option<(&'a ChildRef, u8, Past)>,
    stack: Vec<(Arc<Page>, usize)>,
    before: Totals,
}

impl<'a> Leaves<'a> {
    pub(super) fn new(tree: &Tree<'a>, past: Past) -> Self {
        let start = tree.root.map(|root| (root, tree.height, past));
        Self { source: tree.source, start, stack: Vec::new(), before: Totals::default() }
    }

    fn advance(&mut self) -> Result<Option<LeafRef>, TreeError> {
        if let Some((root, height, past)) = self.start.take() {
            if past.passes(&self.before, root, None) {
                return Ok(None);
            }
            return self.descend(root.clone(), height, &past);
        }
        while let Some((page, at)) = self.stack.last_mut() {
            if let Page::Inner { level, children } = &**page
                && let Some(child) = children.get(*at)
            {
                *at += 1;
                let (child, level) = (child.clone(), *level - 1);
                return self.descend(child, level, &Past::Nothing);
            }
            self.stack.pop();
        }
        Ok(None)
    }

    fn descend(&mut self, mut child: ChildRef, mut level: u8, past: &Past) -> Result<Option<LeafRef>, TreeError> {
        while level > 0 {
            let page = load(self.source, &child, level)?;
            let Page::Inner { children, .. } = &*page else { unreachable!("a page of level {level}") };
            let mut at = 0;
            while at + 1 < children.len() && past.passes(&self.before, &children[at], children.get(at + 1)) {
                self.before = self.before.and(&children[at]);
                at += 1;
            }
            child = children[at].clone();
            self.stack.push((page, at + 1));
            level -= 1;
        }
        let before = self.before;
        self.before = before.and(&child);
        Ok(Some(LeafRef { child, before }))
    }
}

impl Iterator for Leaves<'_> {
    type Item = Result<LeafRef, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.advance().transpose();
        if matches!(found, Some(Err(_))) {
            self.stack.clear();
        }
        found
    }
}

/// Records in path order; see [`Tree::records`].
pub struct Records<'a> {
    tree: Tree<'a>,
    leaves: Leaves<'a>,
    from: Option<RelPath>,
    leaf: Option<(Leaf, usize)>,
}

impl<'a> Records<'a> {
    pub(super) fn new(tree: Tree<'a>, leaves: Leaves<'a>, from: Option<RelPath>) -> Self {
        Self { tree, leaves, from, leaf: None }
    }

    fn enter(&mut self, at: &LeafRef) -> Result<(), TreeError> {
        let leaf = self.tree.leaf(at)?;
        let first = self.from.take().map_or(0, |from| {
            leaf.records.partition_point(|record| path::compare(&record.path, from.as_bytes()).is_lt())
        });
        self.leaf = Some((leaf, first));
        Ok(())
    }
}

impl Iterator for Records<'_> {
    type Item = Result<RecordAt, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((leaf, next)) = &mut self.leaf {
                if *next < leaf.records.len() {
                    *next += 1;
                    return Some(Ok(RecordAt { leaf: leaf.clone(), index: *next - 1 }));
                }
                self.leaf = None;
            }
            let at = match self.leaves.next()? {
                Ok(at) => at,
                Err(error) => return Some(Err(error)),
            };
            if let Err(error) = self.enter(&at) {
                self.leaves.stack.clear();
                return Some(Err(error));
            }
        }
    }
}

/// Chunks in manifest order; see [`Tree::chunks`].
pub struct Chunks<'a> {
    tree: Tree<'a>,
    leaves: Leaves<'a>,
    leaf: Option<Leaf>,
    /// What of the open leaf comes next.
    table: usize,
    record: usize,
    extents: Option<ExtentCursor<'a>>,
    ordinal: u64,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(tree: Tree<'a>, leaves: Leaves<'a>, ordinal: u64) -> Self {
        Self { tree, leaves, leaf: None, table: 0, record: 0, extents: None, ordinal }
    }

    /// Opens a leaf at the chunk that `self.ordinal` names.
    fn enter(&mut self, at: &LeafRef) -> Result<(), TreeError> {
        let leaf = self.tree.leaf(at)?;
        let mut skip = self.ordinal.saturating_sub(at.before.chunks);
        self.ordinal = at.before.chunks + skip;
        self.table = leaf.chunks.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
        skip -= self.table as u64;
        self.record = 0;
        while let Some(record) = leaf.records.get(self.record).filter(|record| paged_chunks(record) <= skip) {
            skip -= paged_chunks(record);
            self.record += 1;
        }
        if let Some(record) = leaf.records.get(self.record) {
            self.extents = ExtentCursor::new(self.tree.source, record, From::Chunk(skip))?;
        }
        self.leaf = Some(leaf);
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<ChunkPlace>, TreeError> {
        loop {
            let Some(leaf) = &self.leaf else {
                match self.leaves.advance()? {
                    Some(at) => self.enter(&at)?,
                    None => return Ok(None),
                }
                continue;
            };
            let found = if let Some(&chunk) = leaf.chunks.get(self.table) {
                self.table += 1;
                Some((chunk, Within::Table(self.table - 1)))
            } else if let Some(extents) = &mut self.extents {
                let found = extents.next()?;
                found.map(|at| (at.chunk, Within::Extent { record: self.record, file_offset: at.file_offset }))
            } else {
                None
            };
            if let Some((chunk, within)) = found {
                self.ordinal += 1;
                return Ok(Some(ChunkPlace { ordinal: self.ordinal - 1, chunk, leaf: leaf.clone(), within }));
            }
            self.record += 1;
            if let Some(record) = leaf.records.get(self.record) {
                self.extents = ExtentCursor::new(self.tree.source, record, From::Chunk(0))?;
            } else {
                (self.leaf, self.extents) = (None, None);
            }
        }
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<ChunkPlace, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.advance().transpose();
        if matches!(found, Some(Err(_))) {
            self.leaf = None;
            self.leaves.stack.clear();
        }
        found
    }
}

/// Stretches of chunks that make up a file; see [`Tree::stretches`].
pub struct Stretches<'a> {
    leaf: Leaf,
    index: usize,
    /// First byte that is wanted.
    wanted: u64,
    of: Of<'a>,
}

enum Of<'a> {
    /// Extents of the record: the next one, and the first byte that it covers.
    Table {
        next: usize,
        file_offset: u64,
    },
    /// Extent pages, and the ordinal of the first chunk that they list.
    Pages {
        extents: ExtentCursor<'a>,
        ordinal: u64,
    },
    Failed(Option<TreeError>),
}

impl<'a> Stretches<'a> {
    pub(super) fn new(source: &'a dyn PageSource, record: &RecordAt, wanted: u64) -> Self {
        let RecordAt { leaf, index } = record.clone();
        let of = match ExtentCursor::new(source, record, From::Byte(wanted)) {
            Ok(Some(extents)) => {
                let before: u64 = leaf.records[..index].iter().map(paged_chunks).sum();
                Of::Pages { extents, ordinal: leaf.before.chunks + leaf.chunks.len() as u64 + before }
            }
            Ok(None) => Of::Table { next: 0, file_offset: 0 },
            Err(error) => Of::Failed(Some(error)),
        };
        Self { leaf, index, wanted, of }
    }

    fn advance(&mut self) -> Result<Option<Stretch>, TreeError> {
        match &mut self.of {
            Of::Failed(error) => error.take().map_or(Ok(None), Err),
            Of::Pages { extents, ordinal } => Ok(extents.next()?.map(|at| {
                let (ordinal, length) = (*ordinal + at.index, at.chunk.length);
                Stretch { ordinal, chunk: at.chunk, offset: 0, length, file_offset: at.file_offset }
            })),
            Of::Table { next, file_offset } => {
                let extents: &[Extent] = match &self.leaf.records[self.index].content {
                    Content::Shared { extent, .. } => std::slice::from_ref(extent),
                    Content::Whole(extents) => extents,
                    Content::Empty | Content::Paged { .. } => &[],
                };
                while let Some(extent) = extents.get(*next) {
                    *next += 1;
                    let from = *file_offset;
                    *file_offset += u64::from(extent.length);
                    if *file_offset <= self.wanted {
                        continue;
                    }
                    let chunk = chunk_of(&self.leaf, extent)?;
                    let ordinal = self.leaf.before.chunks + u64::from(extent.chunk);
                    let (offset, length) = (extent.offset, extent.length);
                    return Ok(Some(Stretch { ordinal, chunk, offset, length, file_offset: from }));
                }
                Ok(None)
            }
        }
    }
}

impl Iterator for Stretches<'_> {
    type Item = Result<Stretch, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.advance().transpose();
        if matches!(found, Some(Err(_))) {
            self.of = Of::Failed(None);
        }
        found
    }
}

/// The chunk that an extent of a leaf's record points into.
pub(super) fn chunk_of(leaf: &Leaf, extent: &Extent) -> Result<ChunkRef, TreeError> {
    let chunk = leaf.chunks.get(extent.chunk as usize).copied();
    chunk.ok_or_else(|| mismatch(&leaf.id, "an extent names no chunk of the page"))
}
