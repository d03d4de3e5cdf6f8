//! Building a version from entries in path order.

use super::entry::{BuildEntry, SharedSink};
use super::source::{PageSink, SinkError};
use crate::chunking::{ChunkerParams, GroupingParams, ParamsError};
use crate::page::ChildRef;
use crate::path::RelPath;

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
    #[error("the version's tree would have more than {} levels", crate::page::HEIGHT_MAX)]
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
pub struct TreeBuilder<'s> {
    _sink: &'s mut dyn PageSink,
    _shared: &'s mut dyn SharedSink,
}

impl<'s> TreeBuilder<'s> {
    /// A builder that gives its pages to `sink`, and its shared chunks to `shared`.
    pub fn new(
        _chunker: ChunkerParams,
        _grouping: GroupingParams,
        sink: &'s mut dyn PageSink,
        shared: &'s mut dyn SharedSink,
    ) -> Result<Self, BuildError> {
        Ok(Self { _sink: sink, _shared: shared })
    }

    /// Adds an entry; its path comes after all before it.
    pub fn push(&mut self, _entry: BuildEntry) -> Result<(), BuildError> {
        todo!()
    }

    /// Whether a page ends here, if the next path is `next`.
    pub fn at_boundary(&self, _next: &[u8]) -> bool {
        todo!()
    }

    /// Takes over a leaf page of an earlier version that was built with the same parameters, if a page ends here.
    /// `false`: none does, and the leaf's records have to be pushed one by one.
    pub fn reuse(&mut self, _leaf: &ChildRef) -> Result<bool, BuildError> {
        todo!()
    }

    /// Ends the last pages and gives the root.
    pub fn finish(self) -> Result<Built, BuildError> {
        todo!()
    }
}
