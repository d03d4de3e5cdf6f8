//! Trees of extent pages: the chunk list of a long file.

use std::sync::Arc;

use super::build::{BuildError, PAGE_SPREAD};
use super::group;
use super::read::{TreeError, mismatch};
use super::source::PageSource;
use crate::id::ChunkId;
use crate::page::{ExtentChildRef, HEIGHT_MAX, Page};
use crate::record::{ChunkRef, Content, FileRecord};

/// Builds the extent pages of `chunks` and gives the topmost page and the number of levels.
pub(super) fn build(
    chunks: &[ChunkRef],
    average: usize,
    put: &mut dyn FnMut(Page) -> Result<ChunkId, BuildError>,
) -> Result<(ChunkId, u8), BuildError> {
    let mut row = Vec::new();
    for part in cut(chunks, average, |chunk| group::draw_id(&chunk.id)) {
        let bytes = part.iter().map(|chunk| u64::from(chunk.length)).sum();
        row.push(ExtentChildRef { id: put(Page::ExtentLeaf(part.to_vec()))?, bytes, chunks: part.len() as u64 });
    }
    let mut height = 1;
    while row.len() > 1 {
        if height == HEIGHT_MAX {
            return Err(BuildError::TooHigh);
        }
        let mut above = Vec::new();
        for part in cut(&row, average, |child| group::draw_id(&child.id)) {
            let bytes = part.iter().map(|child| child.bytes).sum();
            let chunks = part.iter().map(|child| child.chunks).sum();
            let id = put(Page::ExtentInner { level: height, children: part.to_vec() })?;
            above.push(ExtentChildRef { id, bytes, chunks });
        }
        row = above;
        height += 1;
    }
    Ok((row.first().expect("a long file has chunks").id, height))
}

/// Cuts a list after the items whose draw says so.
fn cut<T>(mut items: &[T], average: usize, draw: impl Fn(&T) -> u64) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let length_max = items.len().min(average * PAGE_SPREAD);
        let length_min = (average / PAGE_SPREAD).min(length_max);
        let end = (length_min..=length_max)
            .find(|&end| end > 0 && group::ends(draw(&items[end - 1]), 1, average as u64))
            .unwrap_or(length_max);
        let (part, rest) = items.split_at(end);
        items = rest;
        (!part.is_empty()).then_some(part)
    })
}

/// A chunk of a long file.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExtentAt {
    pub(super) chunk: ChunkRef,
    /// Its position in the file's list.
    pub(super) index: u64,
    pub(super) file_offset: u64,
}

/// Reads the chunk list of a long file from some chunk on.
#[derive(Clone)]
pub(super) struct ExtentCursor<'a> {
    source: &'a dyn PageSource,
    stack: Vec<(Arc<Page>, usize)>,
    index: u64,
    file_offset: u64,
}

/// Where an [`ExtentCursor`] begins.
#[derive(Clone, Copy)]
pub(super) enum From {
    Chunk(u64),
    Byte(u64),
}

impl<'a> ExtentCursor<'a> {
    /// A cursor over the extent pages of `record`, if it has any, that begins with the chunk that `from` lies in.
    pub(super) fn new(source: &'a dyn PageSource, record: &FileRecord, from: From) -> Result<Option<Self>, TreeError> {
        let Content::Paged { root, chunks, height } = record.content else { return Ok(None) };
        let mut child = ExtentChildRef { id: root, bytes: record.size, chunks };
        let mut level = top_level(&child, height)?;
        let mut cursor = Self { source, stack: Vec::new(), index: 0, file_offset: 0 };
        loop {
            let page = load(source, &child, level)?;
            let at = cursor.skip(&page, from);
            let below = children(&page).get(at).copied();
            cursor.stack.push((page, at));
            match below {
                Some(below) if level > 0 => {
                    cursor.stack.last_mut().expect("just pushed").1 += 1;
                    (child, level) = (below, level - 1);
                }
                _ => return Ok(Some(cursor)),
            }
        }
    }

    /// Counts what lies wholly before `from` and gives the position of the rest in the page.
    fn skip(&mut self, page: &Page, from: From) -> usize {
        let (mut index, mut file_offset) = (self.index, self.file_offset);
        let mut past = |bytes: u64, chunks: u64| {
            let skip = match from {
                From::Chunk(wanted) => index + chunks <= wanted,
                From::Byte(wanted) => file_offset + bytes <= wanted,
            };
            if skip {
                index += chunks;
                file_offset += bytes;
            }
            skip
        };
        let at = match page {
            Page::ExtentLeaf(list) => list.iter().take_while(|chunk| past(u64::from(chunk.length), 1)).count(),
            _ => children(page).iter().take_while(|child| past(child.bytes, child.chunks)).count(),
        };
        (self.index, self.file_offset) = (index, file_offset);
        at
    }

    /// The next chunk.
    pub(super) fn next(&mut self) -> Result<Option<ExtentAt>, TreeError> {
        while let Some((page, at)) = self.stack.last_mut() {
            if let Page::ExtentLeaf(list) = &**page {
                if let Some(&chunk) = list.get(*at) {
                    *at += 1;
                    let found = ExtentAt { chunk, index: self.index, file_offset: self.file_offset };
                    self.index += 1;
                    self.file_offset += u64::from(chunk.length);
                    return Ok(Some(found));
                }
                self.stack.pop();
            } else if let (Page::ExtentInner { level, children }, true) = (&**page, *at < children(page).len()) {
                let (child, level) = (children[*at], *level);
                *at += 1;
                let below = load(self.source, &child, level - 1)?;
                self.stack.push((below, 0));
            } else {
                self.stack.pop();
            }
        }
        Ok(None)
    }
}

/// The level of the topmost extent page of a tree with `height` levels.
pub(super) fn top_level(root: &ExtentChildRef, height: u8) -> Result<u8, TreeError> {
    match height {
        1..=HEIGHT_MAX => Ok(height - 1),
        _ => Err(mismatch(&root.id, format!("an extent tree of {height} levels"))),
    }
}

/// The references of an inner extent page; none of any other page.
pub(super) fn children(page: &Page) -> &[ExtentChildRef] {
    match page {
        Page::ExtentInner { children, .. } => children,
        _ => &[],
    }
}

/// Reads an extent page and checks it against the reference to it.
pub(super) fn load(source: &dyn PageSource, child: &ExtentChildRef, level: u8) -> Result<Arc<Page>, TreeError> {
    let page = source.page(&child.id)?;
    check_extent_page(&page, child, level)?;
    Ok(page)
}

/// Checks a page of a file's chunks, of level `level`, against the reference to it.
pub fn check_extent_page(page: &Page, child: &ExtentChildRef, level: u8) -> Result<(), TreeError> {
    let (found, sums) = match page {
        Page::ExtentLeaf(list) => {
            (0, Some((list.iter().map(|chunk| u64::from(chunk.length)).sum(), list.len() as u64)))
        }
        Page::ExtentInner { level, children } => {
            let sums = children.iter().try_fold((0u64, 0u64), |(bytes, chunks), child| {
                Some((bytes.checked_add(child.bytes)?, chunks.checked_add(child.chunks)?))
            });
            (*level, sums)
        }
        Page::Leaf(_) | Page::Inner { .. } => {
            return Err(mismatch(&child.id, "an extent page was expected"));
        }
    };
    if found != level {
        return Err(mismatch(&child.id, format!("it is of level {found}, and {level} was expected")));
    }
    if sums != Some((child.bytes, child.chunks)) {
        return Err(mismatch(&child.id, "the bytes or chunks that it lists are not those claimed above"));
    }
    Ok(())
}
