//! Building the index of a version: its files are read once, from the store, and every record becomes an entry of a tree.

use std::collections::BTreeSet;

use headwater_protocol::chunking::{ChunkerParams, GroupingParams};
use headwater_protocol::id::VersionId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::path::{RelPath, is_below};
use headwater_protocol::record::FileKind;
use headwater_protocol::samples::{Rule, SplitError, Splitter};
use headwater_protocol::tree::{
    BuildEntry, BuildError, Change, NoSharedSink, RecordAt, SinkError, Tree, TreeBuilder, TreeError, diff,
};

use super::parts::{At, Parts};
use crate::core::Core;
use crate::ingest::StoreSink;
use crate::store::ReadError;

/// Key of the rule among the metadata of an index.
const RULE_KEY: &str = "samples";

/// Why a version has no index.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    /// A file does not hold what it should.
    #[error("`{path}`, {source}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: SplitError,
    },
    /// A record can't have its name.
    #[error("`{path}`: {reason}")]
    Name {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A page of the version can't be read.
    #[error("a page of the version can't be read: {0}")]
    Tree(#[from] TreeError),
    /// A chunk of the version can't be read.
    #[error("`{path}` can't be read: {source}")]
    Chunk {
        /// The file.
        path: String,
        /// Why not.
        source: ReadError,
    },
    /// The index can't be put together.
    #[error("the index can't be built: {0}")]
    Build(#[from] BuildError),
    /// The index can't be stored.
    #[error("the index can't be stored: {0}")]
    Store(#[source] SinkError),
}

impl IndexError {
    /// Whether it is the version's own, and will be the same another time.
    pub(crate) const fn stays(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Name { .. })
    }
}

/// An earlier version with its index: what of it is the same needs no reading.
pub(super) struct Earlier {
    pub(super) version: Manifest,
    pub(super) index: Manifest,
}

/// Builds the index of `version` by `rule`; its pages are stored when this returns. Blocks.
pub(super) fn build(
    core: &Core,
    rule: &Rule,
    id: VersionId,
    version: &Manifest,
    earlier: Option<&Earlier>,
) -> Result<Manifest, IndexError> {
    let tree = Tree::new(version, &core.pages);
    let mut changed = BTreeSet::new();
    if let Some(earlier) = earlier {
        for change in diff(Some(Tree::new(&earlier.version, &core.pages)), tree) {
            if let Change::Added(record) | Change::Changed { new: record, .. } = change? {
                changed.insert(record.path.clone());
            }
        }
    }
    let (sink, mut shared) = (StoreSink::new(core), NoSharedSink);
    let mut pages = &sink;
    let (chunker, grouping) = (ChunkerParams::default(), GroupingParams::default());
    let mut builder = TreeBuilder::new(chunker, grouping, &mut pages, &mut shared)?;
    for record in tree.records() {
        let record = record?;
        if record.kind != FileKind::File {
            continue;
        }
        let path = String::from_utf8_lossy(&record.path).into_owned();
        let failed = |source| IndexError::File { path: path.clone(), source };
        let Some(splitter) = rule.splitter(&record.path, record.size).map_err(failed)? else { continue };
        match earlier.filter(|_| !changed.contains(&record.path)) {
            Some(earlier) => take_over(core, &earlier.index, &record, &mut builder)?,
            None => read(core, &tree, &record, splitter, &mut builder)?,
        }
    }
    let built = builder.finish()?;
    sink.flush().map_err(IndexError::Store)?;
    Ok(Manifest {
        chunker,
        grouping,
        parent: Some(id),
        origin: String::new(),
        metadata: vec![(RULE_KEY.to_owned(), rule.to_string())],
        height: built.height,
        root: built.root,
    })
}

/// Takes the records of a file from an earlier index.
fn take_over(core: &Core, index: &Manifest, file: &RecordAt, builder: &mut TreeBuilder<'_>) -> Result<(), IndexError> {
    let index = Tree::new(index, &core.pages);
    let Ok(path) = RelPath::new(file.path.clone()) else { return Ok(()) };
    for record in index.records_from(&path) {
        let record = record?;
        if !is_below(&record.path, &file.path) {
            break;
        }
        builder.push(BuildEntry::pinned(&record)?)?;
    }
    Ok(())
}

/// Finds the records of a file in its bytes.
fn read(
    core: &Core,
    tree: &Tree<'_>,
    file: &RecordAt,
    mut splitter: Box<dyn Splitter>,
    builder: &mut TreeBuilder<'_>,
) -> Result<(), IndexError> {
    let path = String::from_utf8_lossy(&file.path).into_owned();
    let failed = |source| IndexError::File { path: path.clone(), source };
    let misnamed = |reason| IndexError::Name { path: path.clone(), reason };
    let mut parts = Parts::new(&file.path);
    for stretch in tree.stretches(file) {
        let stretch = stretch?;
        let bytes = core.store.read(&stretch.chunk.id);
        let bytes = bytes.map_err(|source| IndexError::Chunk { path: path.clone(), source })?;
        let from = stretch.offset as usize;
        let Some(bytes) = bytes.get(from..from + stretch.length as usize) else {
            return Err(misnamed(format!("chunk {} is shorter than it should be", stretch.chunk.id.short())));
        };
        parts.lie_at(At { chunk: stretch.chunk, offset: stretch.offset, file_offset: stretch.file_offset });
        splitter.push(bytes, &mut parts).map_err(failed)?;
        for entry in parts.take(false).map_err(misnamed)? {
            builder.push(entry)?;
        }
    }
    splitter.finish(&mut parts).map_err(failed)?;
    for entry in parts.take(true).map_err(misnamed)? {
        builder.push(entry)?;
    }
    Ok(())
}
