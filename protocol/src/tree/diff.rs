//! What changed between two versions, without reading a page that both have.
//!
//! Both trees are walked in path order at once. A page that is next on both sides is skipped; else the one that begins
//! with the lower path is opened, because the other side has nothing like it any more. So pages that were inserted or
//! split shift nothing: the walk falls into step again at the next page that both have.

use std::cmp::Ordering;

use super::cursor::chunk_of;
use super::read::{Leaf, LeafRef, RecordAt, Tree, TreeError, load};
use crate::id::ChunkId;
use crate::manifest::Totals;
use crate::page::{ChildRef, Page};
use crate::path;
use crate::record::Content;

/// One path that differs.
#[derive(Clone, Debug)]
pub enum Change {
    /// Only the new version has it.
    Added(RecordAt),
    /// Only the old version has it.
    Removed(RecordAt),
    /// Both have it, and its bytes, kind, target, mode or mtime differ.
    Changed {
        /// In the old version.
        old: RecordAt,
        /// In the new version.
        new: RecordAt,
    },
}

/// The changes in path order; see [`diff`]. It ends after its first error.
pub struct Diff<'a> {
    old: Side<'a>,
    new: Side<'a>,
}

/// What changed from `old` to `new`, in path order. Pages that both have are never read. Where a file's bytes lie is no
/// change: small files are compared by hash, others by their chunks.
pub fn diff<'a>(old: Option<Tree<'a>>, new: Tree<'a>) -> Diff<'a> {
    Diff { old: Side::new(old), new: Side::new(Some(new)) }
}

/// One of the two trees: what of it is still to come, the next on top.
struct Side<'a> {
    tree: Option<Tree<'a>>,
    ahead: Vec<Ahead>,
}

enum Ahead {
    Page { child: ChildRef, level: u8, before: Totals },
    Records { leaf: Leaf, next: usize },
}

impl<'a> Side<'a> {
    fn new(tree: Option<Tree<'a>>) -> Self {
        let root = tree.and_then(|tree| Some((tree.root?.clone(), tree.height)));
        let ahead = root.map(|(child, level)| Ahead::Page { child, level, before: Totals::default() });
        Self { tree, ahead: ahead.into_iter().collect() }
    }

    /// The path of what comes next.
    fn path(&self) -> Option<&[u8]> {
        self.ahead.last().map(|ahead| match ahead {
            Ahead::Page { child, .. } => child.first.as_slice(),
            Ahead::Records { leaf, next } => leaf.records[*next].path.as_slice(),
        })
    }

    /// Level and id of the page that comes next; none if it is a record.
    fn page(&self) -> Option<(u8, ChunkId)> {
        match self.ahead.last() {
            Some(Ahead::Page { child, level, .. }) => Some((*level, child.id)),
            _ => None,
        }
    }

    /// Reads the page that comes next, so that what is in it comes next.
    fn open(&mut self) -> Result<(), TreeError> {
        let (Some(tree), Some(Ahead::Page { child, level, before })) = (self.tree, self.ahead.pop()) else {
            unreachable!("only pages are opened")
        };
        if level == 0 {
            let leaf = tree.leaf(&LeafRef { child, before })?;
            self.ahead.push(Ahead::Records { leaf, next: 0 });
            return Ok(());
        }
        let page = load(tree.source, &child, level)?;
        let Page::Inner { children, .. } = &*page else { unreachable!("a page of level {level}") };
        let at = self.ahead.len();
        let mut before = before;
        for child in children {
            self.ahead.push(Ahead::Page { child: child.clone(), level: level - 1, before });
            before = before.and(child);
        }
        self.ahead[at..].reverse();
        Ok(())
    }

    /// Takes the record that comes next.
    fn take(&mut self) -> RecordAt {
        let Some(Ahead::Records { leaf, next }) = self.ahead.last_mut() else { unreachable!("only records are taken") };
        let record = RecordAt { leaf: leaf.clone(), index: *next };
        *next += 1;
        if *next == leaf.records.len() {
            self.ahead.pop();
        }
        record
    }
}

impl Diff<'_> {
    fn advance(&mut self) -> Result<Option<Change>, TreeError> {
        loop {
            let order = match (self.old.path(), self.new.path()) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => path::compare(old, new),
            };
            match (order, self.old.page(), self.new.page()) {
                (Ordering::Less, Some(_), _) => self.old.open()?,
                (Ordering::Less, None, _) => return Ok(Some(Change::Removed(self.old.take()))),
                (Ordering::Greater, _, Some(_)) => self.new.open()?,
                (Ordering::Greater, _, None) => return Ok(Some(Change::Added(self.new.take()))),
                (Ordering::Equal, Some(old), Some(new)) if old == new => {
                    self.old.ahead.pop();
                    self.new.ahead.pop();
                }
                (Ordering::Equal, old, new) if old.is_some() || new.is_some() => {
                    // The higher one is opened; a record is lower than any page.
                    let (old, new) = (old.map(|(level, _)| level), new.map(|(level, _)| level));
                    if old >= new {
                        self.old.open()?;
                    }
                    if new >= old {
                        self.new.open()?;
                    }
                }
                (Ordering::Equal, ..) => {
                    let (old, new) = (self.old.take(), self.new.take());
                    if !same(&old, &new)? {
                        return Ok(Some(Change::Changed { old, new }));
                    }
                }
            }
        }
    }
}

impl Iterator for Diff<'_> {
    type Item = Result<Change, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.advance().transpose();
        if matches!(found, Some(Err(_))) {
            self.old.ahead.clear();
            self.new.ahead.clear();
        }
        found
    }
}

/// Whether two records say the same, wherever the bytes lie.
fn same(old: &RecordAt, new: &RecordAt) -> Result<bool, TreeError> {
    let same_metadata = old.kind == new.kind
        && old.link_target == new.link_target
        && old.mode == new.mode
        && old.mtime_ns == new.mtime_ns
        && old.size == new.size;
    Ok(same_metadata && same_bytes(old, new)?)
}

fn same_bytes(old: &RecordAt, new: &RecordAt) -> Result<bool, TreeError> {
    Ok(match (&old.content, &new.content) {
        (Content::Empty, Content::Empty) => true,
        (Content::Shared { hash: old, .. }, Content::Shared { hash: new, .. })
        | (Content::Paged { root: old, .. }, Content::Paged { root: new, .. }) => old == new,
        (Content::Whole(olds), Content::Whole(news)) if olds.len() == news.len() => {
            for (old_extent, new_extent) in olds.iter().zip(news) {
                if chunk_of(&old.leaf, old_extent)? != chunk_of(&new.leaf, new_extent)? {
                    return Ok(false);
                }
            }
            true
        }
        _ => false,
    })
}
