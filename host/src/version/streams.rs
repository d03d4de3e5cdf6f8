//! Two of the streams that a merge joins: the walk, which runs ahead in its own thread, and the earlier version's records.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

use headwater_protocol::path::{self, RelPath};
use headwater_protocol::record::FileRecord;
use headwater_protocol::tree::{Leaf, LeafRef, RecordAt, Tree, TreeError};

use super::build::BuildVersionError;
use super::stamps::StampBook;
use crate::scan::Stamp;
use crate::scan::walk::{Walk, WalkError, WalkItem};

/// Paths that the walk is ahead, at most: batches times their size.
const WALK_BATCH_ITEMS: usize = 256;
const WALK_BATCHES_AHEAD_MAX: usize = 8;

/// A leaf of the earlier version with its stamps as they become known.
pub(super) struct OldLeaf {
    pub(super) leaf: Leaf,
    pub(super) stamps: Vec<Stamp>,
    pub(super) restamped: bool,
    pub(super) edited: bool,
}

#[derive(Clone)]
pub(super) struct OldRecord {
    pub(super) leaf: Rc<RefCell<OldLeaf>>,
    pub(super) at: RecordAt,
}

impl OldRecord {
    pub(super) fn stamp(&self) -> Stamp {
        self.leaf.borrow().stamps[self.at.index]
    }
}

/// The walk, running ahead in its own thread.
pub(super) struct WalkAhead {
    batches: Receiver<Result<Vec<WalkItem>, WalkError>>,
    batch: std::vec::IntoIter<WalkItem>,
    next: Option<WalkItem>,
}

impl WalkAhead {
    pub(super) fn start<'scope, 'env>(scope: &'scope Scope<'scope, 'env>, mut walk: Walk<'env>) -> Self {
        let (sender, batches) = sync_channel(WALK_BATCHES_AHEAD_MAX);
        scope.spawn(move || {
            let mut batch = Vec::with_capacity(WALK_BATCH_ITEMS);
            loop {
                let item = walk.advance();
                let is_end = !matches!(item, Ok(Some(_)));
                match item {
                    Ok(Some(item)) => batch.push(item),
                    Ok(None) => {}
                    Err(error) => {
                        let _ = sender.send(Err(error.into()));
                        return;
                    }
                }
                if is_end || batch.len() == WALK_BATCH_ITEMS {
                    let full = std::mem::replace(&mut batch, Vec::with_capacity(WALK_BATCH_ITEMS));
                    if sender.send(Ok(full)).is_err() || is_end {
                        return;
                    }
                }
            }
        });
        Self { batches, batch: Vec::new().into_iter(), next: None }
    }

    pub(super) fn peek(&mut self) -> Result<Option<&WalkItem>, WalkError> {
        while self.next.is_none() {
            self.next = self.batch.next();
            if self.next.is_none() {
                match self.batches.recv() {
                    Ok(batch) => self.batch = batch?.into_iter(),
                    Err(_) => return Ok(None),
                }
            }
        }
        Ok(self.next.as_ref())
    }

    pub(super) fn next(&mut self) -> Result<Option<WalkItem>, WalkError> {
        self.peek()?;
        Ok(self.next.take())
    }
}

/// The earlier version's records, one leaf at a time.
pub(super) struct OldRecords<'t> {
    tree: Option<Tree<'t>>,
    leaves: Option<Box<dyn Iterator<Item = Result<LeafRef, TreeError>> + 't>>,
    current: Option<OldRecord>,
    /// The leaf whose records were being taken.
    pub(super) last_leaf: Option<Rc<RefCell<OldLeaf>>>,
}

impl<'t> OldRecords<'t> {
    pub(super) fn new(tree: Option<Tree<'t>>) -> Self {
        Self { tree, leaves: tree.map(|tree| Box::new(tree.leaves()) as _), current: None, last_leaf: None }
    }

    pub(super) fn peek(&mut self, book: &RefCell<StampBook<'_>>) -> Result<Option<&FileRecord>, BuildVersionError> {
        if self.current.is_none()
            && let (Some(tree), Some(leaves)) = (&self.tree, &mut self.leaves)
            && let Some(next) = leaves.next()
        {
            let leaf = tree.leaf(&next?)?;
            let stamps = book.borrow_mut().of_leaf(&leaf.id, &leaf)?;
            let state = OldLeaf { leaf: leaf.clone(), stamps, restamped: false, edited: false };
            self.current = Some(OldRecord { leaf: Rc::new(RefCell::new(state)), at: RecordAt { leaf, index: 0 } });
        }
        Ok(self.current.as_ref().map(|current| current.at.record()))
    }

    pub(super) fn is_before(
        &mut self,
        path: &RelPath,
        book: &RefCell<StampBook<'_>>,
    ) -> Result<bool, BuildVersionError> {
        Ok(self.peek(book)?.is_some_and(|record| path::compare(&record.path, path.as_bytes()).is_lt()))
    }

    pub(super) fn at_leaf_start(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.at.index == 0)
    }

    /// The peeked record.
    pub(super) fn take(&mut self) -> OldRecord {
        let current = self.current.take().expect("a record was peeked");
        self.last_leaf = Some(current.leaf.clone());
        if current.at.index + 1 < current.at.leaf.records.len() {
            let mut next = current.clone();
            next.at.index += 1;
            self.current = Some(next);
        }
        current
    }
}
