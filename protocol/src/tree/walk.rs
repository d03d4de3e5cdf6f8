//! Visiting every page below a root: what garbage collection marks, and what a copy has to take along.

use super::extents;
use super::read::{Tree, TreeError, load};
use crate::id::ChunkId;
use crate::page::{ChildRef, ExtentChildRef, Page};
use crate::record::{ChunkRef, Content};

enum Below {
    Page(ChildRef, u8),
    Extents(ExtentChildRef, u8),
}

impl Tree<'_> {
    /// Visits every page and every chunk name below the root, each page before those below it: `enter` gets a page's id
    /// and says whether to read it and go on below it, `chunk` gets every chunk of the leaves and extent leaves entered.
    /// A page may be named many times: an `enter` that lets none in twice bounds the work by the pages that there are.
    pub fn walk(
        &self,
        enter: &mut dyn FnMut(&ChunkId) -> bool,
        chunk: &mut dyn FnMut(&ChunkRef),
    ) -> Result<(), TreeError> {
        let mut open: Vec<_> = self.root.iter().map(|&root| Below::Page(root.clone(), self.height)).collect();
        while let Some(below) = open.pop() {
            let page = match below {
                Below::Page(child, level) if enter(&child.id) => load(self.source, &child, level)?,
                Below::Extents(child, level) if enter(&child.id) => extents::load(self.source, &child, level)?,
                Below::Page(..) | Below::Extents(..) => continue,
            };
            match &*page {
                Page::Leaf(leaf) => {
                    leaf.chunks.iter().for_each(&mut *chunk);
                    for record in leaf.records.iter().rev() {
                        if let Content::Paged { root, chunks, height } = record.content {
                            let child = ExtentChildRef { id: root, bytes: record.size, chunks };
                            let level = extents::top_level(&child, height)?;
                            open.push(Below::Extents(child, level));
                        }
                    }
                }
                Page::Inner { level, children } => {
                    open.extend(children.iter().rev().map(|child| Below::Page(child.clone(), level - 1)));
                }
                Page::ExtentLeaf(chunks) => chunks.iter().for_each(&mut *chunk),
                Page::ExtentInner { level, children } => {
                    open.extend(children.iter().rev().map(|child| Below::Extents(*child, level - 1)));
                }
            }
        }
        Ok(())
    }
}
