//! Building a version from entries in path order.

use super::entry::{BuildContent, BuildEntry, SharedSink};
use super::extents;
use super::group::{self, STEM_GROUP_RECORDS_MAX};
use super::leaf::{self, PendingRecord, Place};
use super::shared::{Member, SharedGroup};
use super::source::{PageSink, SinkError};
use crate::chunking::{CHUNK_BYTES_MAX, ChunkerParams, EXTENTS_INLINE_MAX, GroupingParams, ParamsError};
use crate::id::ChunkId;
use crate::page::{ChildRef, HEIGHT_MAX, PAGE_BYTES_MAX, Page};
use crate::path::{self, PATH_BYTES_MAX, RelPath};
use crate::record::{ChunkRef, FileKind};

/// A page ends after the stem group, or the child, with which it reaches this many bytes.
const PAGE_BYTES_SOFT: usize = 256 << 10;
/// Most bytes of a page besides its records: enum, vectors, padding.
const PAGE_BYTES_FRAME: usize = 4 << 10;
/// Pages hold at least a quarter of the average and at most four times it.
pub(super) const PAGE_SPREAD: usize = 4;

// The last group of a page can't push it over the limit, whatever is in it.
const RECORD_BYTES_MAX: usize =
    leaf::RECORD_BYTES_FIXED + PATH_BYTES_MAX + max(PATH_BYTES_MAX, EXTENTS_INLINE_MAX as usize * leaf::EXTENT_BYTES);
const _: () = assert!(
    PAGE_BYTES_SOFT + STEM_GROUP_RECORDS_MAX * RECORD_BYTES_MAX + PAGE_BYTES_FRAME <= PAGE_BYTES_MAX,
    "a full stem group fits into a page"
);

/// Why a version can't be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The parameters can't be used.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// Entries came in another order than that of paths, or one came twice.
    #[error("`{0}` came out of order while a version was built")]
    OutOfOrder(RelPath),
    /// An entry can't be.
    #[error("`{path}` can't be in a version: {reason}")]
    Entry {
        /// The entry.
        path: RelPath,
        /// What is wrong with it.
        reason: String,
    },
    /// A small file's bytes could not be read.
    #[error("`{path}` could not be read: {source}")]
    Read {
        /// The file.
        path: RelPath,
        /// What the reader found.
        source: SinkError,
    },
    /// A small file is not what it was when it was hashed.
    #[error("`{0}` changed while a version was built")]
    Changed(RelPath),
    /// A small file's bytes are not here, nor does an earlier version have them.
    #[error("the bytes of `{0}` are not here, and no earlier version has them")]
    Unavailable(RelPath),
    /// A page or chunk could not be stored.
    #[error("a page or chunk of the new version could not be stored: {0}")]
    Store(#[source] SinkError),
    /// More levels than a tree may have.
    #[error("the version's tree would have more than {HEIGHT_MAX} levels")]
    TooHigh,
}

/// What was built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// The root page; none if there were no entries.
    pub root: Option<ChildRef>,
    /// Level of the root page.
    pub height: u8,
}

/// Builds a version's pages from entries in path order.
///
/// It holds one leaf's records, the small files of one shared chunk (1 MiB at most), and one inner page per level. The
/// same entries give the same pages whichever leaves were taken over with [`reuse`](Self::reuse), except that pinned files
/// keep old chunks.
pub struct TreeBuilder<'s> {
    grouping: GroupingParams,
    out: Output<'s>,
    /// Records of the open leaf.
    records: Vec<PendingRecord>,
    /// Bytes that the open leaf will take at most.
    bytes: usize,
    /// How many of `records`, at their end, are the open stem group.
    group_records: usize,
    shared: SharedGroup,
    /// Inner pages being filled; `levels[0]` is level 1.
    levels: Vec<Level>,
    last: Option<RelPath>,
}

pub(super) struct Output<'s> {
    pages: &'s mut dyn PageSink,
    pub(super) shared: &'s mut dyn SharedSink,
}

#[derive(Default)]
struct Level {
    children: Vec<ChildRef>,
    bytes: usize,
}

impl Output<'_> {
    /// Encodes and stores a page.
    pub(super) fn page(&mut self, page: &Page) -> Result<ChunkId, BuildError> {
        let bytes = page.encode();
        let id = ChunkId::of(&bytes);
        self.pages.put_page(id, bytes, page).map_err(BuildError::Store)?;
        Ok(id)
    }
}

impl<'s> TreeBuilder<'s> {
    /// A builder that gives its pages to `sink`, and its shared chunks to `shared`.
    pub fn new(
        chunker: ChunkerParams,
        grouping: GroupingParams,
        sink: &'s mut dyn PageSink,
        shared: &'s mut dyn SharedSink,
    ) -> Result<Self, BuildError> {
        chunker.check()?;
        grouping.check()?;
        Ok(Self {
            grouping,
            out: Output { pages: sink, shared },
            records: Vec::new(),
            bytes: 0,
            group_records: 0,
            shared: SharedGroup::new(grouping.shared_average_bytes),
            levels: Vec::new(),
            last: None,
        })
    }

    /// Adds an entry; its path comes after all before it.
    pub fn push(&mut self, entry: BuildEntry) -> Result<(), BuildError> {
        if self.last.as_ref().is_some_and(|last| *last >= entry.path) {
            return Err(BuildError::OutOfOrder(entry.path));
        }
        if let Err(reason) = check(&entry) {
            return Err(BuildError::Entry { path: entry.path, reason });
        }
        if self.continues_group(entry.path.as_bytes()) {
            self.group_records += 1;
        } else {
            if self.page_ends() {
                self.end_leaf()?;
            }
            self.group_records = 1;
        }
        self.last = Some(entry.path.clone());
        self.add(entry)
    }

    /// Whether a page ends here, if the next path is `next`.
    pub fn at_boundary(&self, next: &[u8]) -> bool {
        self.records.is_empty() || (!self.continues_group(next) && self.page_ends())
    }

    /// Takes over a leaf page of an earlier version that was built with the same parameters, if a page ends here. It may
    /// not be the last leaf of its version, unless nothing comes after it.
    /// `false`: no page ends here, and the leaf's records have to be pushed one by one.
    pub fn reuse(&mut self, leaf: &ChildRef) -> Result<bool, BuildError> {
        if !self.at_boundary(&leaf.first) {
            return Ok(false);
        }
        let Ok(first) = RelPath::new(leaf.first.clone()) else { return Ok(false) };
        if self.last.as_ref().is_some_and(|last| *last >= first) {
            return Err(BuildError::OutOfOrder(first));
        }
        self.last = Some(first);
        self.end_leaf()?;
        self.add_child(leaf.clone())?;
        Ok(true)
    }

    /// Ends the last pages and gives the root.
    pub fn finish(mut self) -> Result<Built, BuildError> {
        self.end_leaf()?;
        let mut at = 0;
        while at < self.levels.len() {
            let is_top = at + 1 == self.levels.len();
            if is_top && self.levels[at].children.len() == 1 {
                return Ok(Built { root: self.levels[at].children.pop(), height: at as u8 });
            }
            let above = self.end_inner(at)?;
            if let Some(child) = above {
                self.add_child_at(at + 1, child)?;
            }
            at += 1;
        }
        Ok(Built::default())
    }

    fn continues_group(&self, next: &[u8]) -> bool {
        let open = self.records.last().is_some_and(|last| path::stem(last.path.as_bytes()) == path::stem(next));
        open && self.group_records < STEM_GROUP_RECORDS_MAX
    }

    /// Whether the open leaf ends after the open stem group, if that is complete.
    fn page_ends(&self) -> bool {
        let Some(last) = self.records.last() else { return false };
        let (count, average) = (self.records.len(), self.grouping.page_records_average as usize);
        let drawn = || {
            let draw = group::draw(path::stem(last.path.as_bytes()));
            group::ends(draw, self.group_records as u64, average as u64)
        };
        count >= average * PAGE_SPREAD || self.bytes >= PAGE_BYTES_SOFT || (count >= average / PAGE_SPREAD && drawn())
    }

    fn add(&mut self, entry: BuildEntry) -> Result<(), BuildError> {
        let BuildEntry { path, kind, link_target, mode, mtime_ns, content } = entry;
        let mut member = None;
        let (size, place) = match content {
            BuildContent::Empty => (0, Place::Empty),
            BuildContent::Small { hash, size, bytes, previous } => {
                member = Some(Member { record: self.records.len(), hash, size, bytes, previous, pinned: false });
                (u64::from(size), Place::Shared { at: None, length: size, hash })
            }
            BuildContent::Pinned { chunk, offset, length, hash } => {
                let previous = Some((chunk, offset));
                member = Some(Member {
                    record: self.records.len(),
                    hash,
                    size: length,
                    bytes: None,
                    previous,
                    pinned: true,
                });
                (u64::from(length), Place::Shared { at: previous, length, hash })
            }
            BuildContent::Large(chunks) => {
                let size = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
                (size, self.place_large(chunks)?)
            }
            BuildContent::PagedKept { root, chunks, height, size } => (size, Place::Paged { root, chunks, height }),
        };
        let record = PendingRecord { path, kind, link_target, mode, mtime_ns, size, place };
        self.bytes += record.bytes_max();
        self.records.push(record);
        match member {
            Some(member) => self.shared.add(member, &mut self.records, &mut self.out),
            None => Ok(()),
        }
    }

    fn place_large(&mut self, chunks: Vec<ChunkRef>) -> Result<Place, BuildError> {
        if chunks.is_empty() {
            return Ok(Place::Empty);
        }
        if chunks.len() <= self.grouping.extents_inline_max as usize {
            return Ok(Place::Whole(chunks));
        }
        let average = self.grouping.page_children_average as usize;
        let (root, height) = extents::build(&chunks, average, &mut |page| self.out.page(&page))?;
        Ok(Place::Paged { root, chunks: chunks.len() as u64, height })
    }

    fn end_leaf(&mut self) -> Result<(), BuildError> {
        if self.records.is_empty() {
            return Ok(());
        }
        self.shared.end(&mut self.records, &mut self.out)?;
        let records = std::mem::take(&mut self.records);
        (self.bytes, self.group_records) = (0, 0);
        let page = leaf::assemble(records)?;
        let sums = leaf::sums(&page);
        let first = page.records[0].path.clone();
        let id = self.out.page(&Page::Leaf(page))?;
        self.add_child(ChildRef {
            id,
            first,
            files: sums.files,
            samples: sums.samples,
            bytes: sums.bytes,
            chunks: sums.chunks,
        })
    }

    fn add_child(&mut self, child: ChildRef) -> Result<(), BuildError> {
        self.add_child_at(0, child)
    }

    /// Adds a child to the inner page being filled at level `at + 1`, and ends that page and those above where it is time.
    fn add_child_at(&mut self, mut at: usize, mut child: ChildRef) -> Result<(), BuildError> {
        let average = self.grouping.page_children_average as usize;
        loop {
            if at + 1 >= HEIGHT_MAX as usize {
                return Err(BuildError::TooHigh);
            }
            if self.levels.len() <= at {
                self.levels.resize_with(at + 1, Level::default);
            }
            let draw = group::draw(&child.first).rotate_left(16 * (at as u32 + 1));
            let level = &mut self.levels[at];
            level.bytes += size_of::<rkyv::Archived<ChildRef>>() + child.first.len() + 8;
            level.children.push(child);
            let count = level.children.len();
            let full = count >= average * PAGE_SPREAD || level.bytes >= PAGE_BYTES_SOFT;
            if !(full || (count >= average / PAGE_SPREAD && group::ends(draw, 1, average as u64))) {
                return Ok(());
            }
            match self.end_inner(at)? {
                Some(above) => (at, child) = (at + 1, above),
                None => return Ok(()),
            }
        }
    }

    fn end_inner(&mut self, at: usize) -> Result<Option<ChildRef>, BuildError> {
        let Level { children, .. } = std::mem::take(&mut self.levels[at]);
        let Some(first) = children.first().map(|child| child.first.clone()) else { return Ok(None) };
        let sum = |of: fn(&ChildRef) -> u64| children.iter().map(of).sum();
        let (files, samples) = (sum(|child| child.files), sum(|child| child.samples));
        let (bytes, chunks) = (sum(|child| child.bytes), sum(|child| child.chunks));
        let id = self.out.page(&Page::Inner { level: at as u8 + 1, children })?;
        Ok(Some(ChildRef { id, first, files, samples, bytes, chunks }))
    }
}

fn check(entry: &BuildEntry) -> Result<(), String> {
    let target = &entry.link_target;
    match entry.kind {
        FileKind::Symlink if target.is_empty() || target.len() > PATH_BYTES_MAX || target.contains(&0) => {
            return Err("its link target is empty, too long, or holds a NUL byte".into());
        }
        FileKind::File | FileKind::Folder if !target.is_empty() => {
            return Err("it has a link target but is no link".into());
        }
        _ => {}
    }
    if entry.mode > 0o7777 {
        return Err(format!("its mode is {:o}", entry.mode));
    }
    let length_ok = |length: u32| (1..=CHUNK_BYTES_MAX).contains(&length);
    let content_ok = match &entry.content {
        BuildContent::Empty => return Ok(()),
        BuildContent::Small { size, bytes, previous, .. } => {
            length_ok(*size)
                && bytes.as_ref().is_none_or(|bytes| bytes.len() == *size as usize)
                && previous.is_none_or(|(chunk, offset)| lies_within(chunk, offset, *size))
        }
        BuildContent::Pinned { chunk, offset, length, .. } => {
            length_ok(*length) && lies_within(*chunk, *offset, *length)
        }
        BuildContent::Large(chunks) => chunks.iter().all(|chunk| length_ok(chunk.length)),
        BuildContent::PagedKept { chunks, height, size, .. } => {
            (1..=HEIGHT_MAX).contains(height) && *chunks > 0 && chunks <= size
        }
    };
    if entry.kind != FileKind::File {
        return Err("it is no file but has content".into());
    }
    if content_ok { Ok(()) } else { Err("its content can't be of the size that it says".into()) }
}

fn lies_within(chunk: ChunkRef, offset: u32, length: u32) -> bool {
    chunk.length <= CHUNK_BYTES_MAX && u64::from(offset) + u64::from(length) <= u64::from(chunk.length)
}

const fn max(left: usize, right: usize) -> usize {
    if left > right { left } else { right }
}
