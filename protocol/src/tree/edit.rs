//! Changing a version: only the leaves that a change touches are read and built.

use std::iter::Peekable;

use super::build::{BuildError, Built, TreeBuilder};
use super::entry::BuildEntry;
use super::read::{RecordAt, Tree, TreeError};
use crate::path::{self, RelPath};

/// One change of a version.
#[derive(Clone, Debug)]
pub enum Edit {
    /// The path has this entry from now on.
    Put(BuildEntry),
    /// The path is gone. That there is none is fine.
    Remove(RelPath),
}

impl Edit {
    /// The path that changes.
    pub fn path(&self) -> &RelPath {
        match self {
            Self::Put(entry) => &entry.path,
            Self::Remove(path) => path,
        }
    }
}

/// Why a version can't be changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The old version can't be read.
    #[error("the earlier version can't be read: {0}")]
    Read(#[from] TreeError),
    /// The new version can't be built.
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// Builds the version that `changes`, in path order, make of `old`, which was built with the builder's parameters.
///
/// The result is the same as if all entries had been pushed one by one. A leaf into which no change falls is taken over
/// unread; the leaf after a change is read too where the pages do not fall into step again, and the leaf before a removed
/// first record.
pub fn edit(
    old: Option<Tree<'_>>,
    changes: impl IntoIterator<Item = Edit>,
    mut builder: TreeBuilder<'_>,
) -> Result<Built, EditError> {
    let mut changes = Changes { ahead: changes.into_iter().peekable(), last: None };
    if let Some(tree) = old {
        let mut leaves = tree.leaves();
        let mut next = leaves.next().transpose()?;
        while let Some(at) = next {
            next = leaves.next().transpose()?;
            let until = next.as_ref().map(|next| next.child.first.as_slice());
            // Where the leaf after this one loses its head, this one's last stem group may go on in what follows.
            let is_untouched = !changes.falls_before(until) && !changes.removes(until);
            if is_untouched && builder.reuse(&at.child)? {
                continue;
            }
            let leaf = tree.leaf(&at)?;
            for index in 0..leaf.records.len() {
                let record = RecordAt { leaf: leaf.clone(), index };
                changes.apply_before(Some(&record.path), &mut builder)?;
                if !changes.apply_at(&record.path, &mut builder)? {
                    builder.push(BuildEntry::unchanged(&record)?)?;
                }
            }
            changes.apply_before(until, &mut builder)?;
        }
    }
    changes.apply_before(None, &mut builder)?;
    Ok(builder.finish()?)
}

struct Changes<I: Iterator<Item = Edit>> {
    ahead: Peekable<I>,
    last: Option<RelPath>,
}

impl<I: Iterator<Item = Edit>> Changes<I> {
    /// Whether the next change is of a path before `until`; all are before `None`.
    fn falls_before(&mut self, until: Option<&[u8]>) -> bool {
        let Some(change) = self.ahead.peek() else { return false };
        until.is_none_or(|until| path::compare(change.path().as_bytes(), until).is_lt())
    }

    /// Whether the next change removes `path`.
    fn removes(&mut self, path: Option<&[u8]>) -> bool {
        matches!((self.ahead.peek(), path), (Some(Edit::Remove(removed)), Some(path)) if removed.as_bytes() == path)
    }

    /// Makes the changes of paths before `until`, at which nothing stood.
    fn apply_before(&mut self, until: Option<&[u8]>, builder: &mut TreeBuilder<'_>) -> Result<(), BuildError> {
        while self.falls_before(until) {
            self.apply(builder)?;
        }
        Ok(())
    }

    /// Makes the change at `path`; `false` if there is none.
    fn apply_at(&mut self, path: &[u8], builder: &mut TreeBuilder<'_>) -> Result<bool, BuildError> {
        let found = self.ahead.peek().is_some_and(|change| change.path().as_bytes() == path);
        if found {
            self.apply(builder)?;
        }
        Ok(found)
    }

    fn apply(&mut self, builder: &mut TreeBuilder<'_>) -> Result<(), BuildError> {
        let Some(change) = self.ahead.next() else { return Ok(()) };
        if self.last.as_ref().is_some_and(|last| last >= change.path()) {
            return Err(BuildError::OutOfOrder(change.path().clone()));
        }
        self.last = Some(change.path().clone());
        match change {
            Edit::Put(entry) => builder.push(entry),
            Edit::Remove(_) => Ok(()),
        }
    }
}
