//! What changed between two versions, without reading a page that both have.

use super::read::{RecordAt, Tree, TreeError};

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

/// The changes in path order; see [`diff`].
pub struct Diff<'a> {
    _old: Option<Tree<'a>>,
    _new: Tree<'a>,
}

/// What changed from `old` to `new`, in path order. Pages that both have are never read.
pub fn diff<'a>(old: Option<Tree<'a>>, new: Tree<'a>) -> Diff<'a> {
    Diff { _old: old, _new: new }
}

impl Iterator for Diff<'_> {
    type Item = Result<Change, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
