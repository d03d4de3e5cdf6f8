//! Changing a version: only the leaves that a change touches are read and built.

use super::build::{BuildError, Built, TreeBuilder};
use super::entry::BuildEntry;
use super::read::{Tree, TreeError};
use crate::path::RelPath;

/// One change of a version.
#[derive(Clone, Debug)]
pub enum Edit {
    /// The path has this entry from now on.
    Put(BuildEntry),
    /// The path is gone. That there is none is fine.
    Remove(RelPath),
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

/// Builds the version that `changes`, in path order, make of `old`. The builder has the parameters that `old` was built with.
pub fn edit(
    _old: Option<Tree<'_>>,
    _changes: impl IntoIterator<Item = Edit>,
    _builder: TreeBuilder<'_>,
) -> Result<Built, EditError> {
    todo!()
}
