//! Checking that a version from outside is well formed, at the cost of what is new in it.
//!
//! Every page that is read is checked against the reference to it. What remains is what no single page shows: that the
//! records of neighbouring leaves are in order and share no stem group, and that the extent pages of a long file cover it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::extents;
use super::group::{STEM_GROUP_RECORDS_MAX, stem_groups};
use super::read::{Tree, TreeError, load, mismatch};
use super::source::PageSource;
use crate::id::ChunkId;
use crate::page::{ChildRef, ExtentChildRef, LeafPage, Page};
use crate::path::{self, RelPath, stem};
use crate::record::{Content, FileRecord};

/// Checks that `tree` is what it says: all records in path order across pages, every sum right, stem groups not split,
/// and the extent pages of every long file covering it exactly. What `verified` shares with it is not read again, so the
/// check of a version against its checked parent reads O(k + log n) pages.
///
/// Not checked: that each page could not have ended elsewhere, and that no file stands where a folder must (who writes
/// files out meets that anyway).
pub fn verify_shape(tree: Tree<'_>, verified: Option<Tree<'_>>) -> Result<(), TreeError> {
    let Some(root) = tree.root else { return Ok(()) };
    if verified.is_some_and(|verified| verified.height == tree.height && verified.root == Some(root)) {
        return Ok(());
    }
    Verifier { source: tree.source, verified, left: Left::Nothing }.page(root, tree.height)
}

struct Verifier<'a> {
    source: &'a dyn PageSource,
    verified: Option<Tree<'a>>,
    left: Left,
}

/// What stands directly before the page that is checked next.
enum Left {
    Nothing,
    /// A leaf that was read: its last path, and the records of its last stem group.
    Leaf(Vec<u8>, usize),
    /// A subtree that was not read, because it is known to be fine in itself.
    Known(ChildRef, u8),
}

impl Left {
    fn of(leaf: &LeafPage) -> Self {
        let last = leaf.records.last().map(|record| record.path.clone()).unwrap_or_default();
        Self::Leaf(last, stem_groups(&leaf.records).last().map_or(0, |group| group.len()))
    }
}

impl Verifier<'_> {
    /// Checks a page and all below it.
    fn page(&mut self, child: &ChildRef, level: u8) -> Result<(), TreeError> {
        let page = load(self.source, child, level)?;
        match &*page {
            Page::Leaf(leaf) => {
                self.border(child)?;
                for record in &leaf.records {
                    self.extents(child, record)?;
                }
                self.left = Left::of(leaf);
                Ok(())
            }
            Page::Inner { children, .. } => self.children(children, level - 1),
            Page::ExtentLeaf(_) | Page::ExtentInner { .. } => unreachable!("a page of records was loaded"),
        }
    }

    fn children(&mut self, children: &[ChildRef], level: u8) -> Result<(), TreeError> {
        let mut known = self.verified.map(|verified| Known { tree: verified, level, open: Vec::new() });
        let mut neighbour: Option<ChildRef> = None;
        for child in children {
            let found = match &mut known {
                Some(known) => known.find(&child.first)?.filter(|(found, _)| found == child),
                None => None,
            };
            let Some((_, next)) = found else {
                neighbour = None;
                self.page(child, level)?;
                continue;
            };
            if neighbour.as_ref() != Some(child) {
                self.border(child)?;
            }
            self.left = Left::Known(child.clone(), level);
            neighbour = next;
        }
        Ok(())
    }

    /// Checks that what stands on the left ends before `right` begins, and that no stem group goes on in it.
    fn border(&mut self, right: &ChildRef) -> Result<(), TreeError> {
        if let Left::Known(child, level) = &self.left {
            self.left = Left::of(&last_leaf(self.source, child.clone(), *level)?);
        }
        let Left::Leaf(last, group_records) = &self.left else { return Ok(()) };
        if path::compare(last, &right.first).is_ge() {
            return Err(mismatch(&right.id, "its records do not come after those of the page before it"));
        }
        if stem(last) == stem(&right.first) && *group_records < STEM_GROUP_RECORDS_MAX {
            return Err(mismatch(&right.id, "it splits a stem group from the page before it"));
        }
        Ok(())
    }

    /// Checks that the extent pages of a long file cover it, passing over those that the file had before.
    fn extents(&self, leaf: &ChildRef, record: &FileRecord) -> Result<(), TreeError> {
        let Content::Paged { root, chunks, height } = record.content else { return Ok(()) };
        let path = RelPath::new(record.path.clone()).map_err(|error| mismatch(&leaf.id, error.to_string()))?;
        let mut known = BTreeSet::new();
        if let Some(verified) = self.verified
            && let Some(before) = verified.find(&path)?
            && let Content::Paged { root, chunks, height } = before.content
        {
            if before.content == record.content && before.size == record.size {
                return Ok(());
            }
            collect_extents(
                verified.source,
                ExtentChildRef { id: root, bytes: before.size, chunks },
                height,
                &mut known,
            )?;
        }
        let top = ExtentChildRef { id: root, bytes: record.size, chunks };
        let mut open = vec![(top, extents::top_level(&top, height)?)];
        while let Some((child, level)) = open.pop() {
            // Noted as known at once: a list that repeats itself is no more work than what it repeats.
            if !known.insert(key(&child, level)) {
                continue;
            }
            let page = extents::load(self.source, &child, level)?;
            open.extend(extents::children(&page).iter().map(|&below| (below, level.saturating_sub(1))));
        }
        Ok(())
    }
}

fn key(child: &ExtentChildRef, level: u8) -> (u8, ChunkId, u64, u64) {
    (level, child.id, child.bytes, child.chunks)
}

/// All references below the topmost extent page, itself included; extent leaves are not read.
fn collect_extents(
    source: &dyn PageSource,
    top: ExtentChildRef,
    height: u8,
    known: &mut BTreeSet<(u8, ChunkId, u64, u64)>,
) -> Result<(), TreeError> {
    let mut open = vec![(top, extents::top_level(&top, height)?)];
    while let Some((child, level)) = open.pop() {
        if known.insert(key(&child, level)) && level > 0 {
            let page = extents::load(source, &child, level)?;
            open.extend(extents::children(&page).iter().map(|&below| (below, level - 1)));
        }
    }
    Ok(())
}

fn last_leaf(source: &dyn PageSource, mut child: ChildRef, mut level: u8) -> Result<LeafPage, TreeError> {
    loop {
        let page = load(source, &child, level)?;
        match &*page {
            Page::Leaf(leaf) => return Ok(leaf.clone()),
            Page::Inner { children, .. } => {
                child = children.last().expect("a loaded page has children").clone();
                level -= 1;
            }
            Page::ExtentLeaf(_) | Page::ExtentInner { .. } => unreachable!("a page of records was loaded"),
        }
    }
}

/// Finds references of one level in a verified tree by their first paths, which come in rising order.
struct Known<'a> {
    tree: Tree<'a>,
    level: u8,
    /// Inner pages from the root down, each with the first path after it.
    open: Vec<(Arc<Page>, Option<Vec<u8>>)>,
}

impl Known<'_> {
    /// The reference with the first path `first`, and the one directly after it where the same page holds it.
    fn find(&mut self, first: &[u8]) -> Result<Option<(ChildRef, Option<ChildRef>)>, TreeError> {
        while let Some((_, Some(until))) = self.open.last()
            && path::compare(until, first).is_le()
        {
            self.open.pop();
        }
        if self.open.is_empty() {
            let Some(root) = self.tree.root else { return Ok(None) };
            if self.tree.height == self.level {
                return Ok((root.first == first).then(|| (root.clone(), None)));
            }
            if self.tree.height < self.level {
                return Ok(None);
            }
            self.open.push((load(self.tree.source, root, self.tree.height)?, None));
        }
        loop {
            let (page, until) = self.open.last().expect("the root is open");
            let Page::Inner { level, children } = &**page else { unreachable!("only inner pages are opened") };
            let after = children.partition_point(|child| path::compare(&child.first, first).is_le());
            let Some(found) = after.checked_sub(1) else { return Ok(None) };
            let (child, next, below) = (&children[found], children.get(after), *level - 1);
            if below == self.level {
                return Ok((child.first == first).then(|| (child.clone(), next.cloned())));
            }
            let until = next.map(|next| next.first.clone()).or_else(|| until.clone());
            let page = load(self.tree.source, child, below)?;
            self.open.push((page, until));
        }
    }
}
