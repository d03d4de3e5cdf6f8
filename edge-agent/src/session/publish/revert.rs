//! Taking files back out of a version that could not be sent, because they changed or vanished meanwhile: each gets its
//! last committed record again, or leaves the version. Nothing else is read or hashed again, so a version of any size
//! waits for no file.

use std::collections::BTreeSet;
use std::sync::Arc;

use headwater_host::error::{CodedError, codes};
use headwater_host::scan::Stamp;
use headwater_host::version::{FolderShared, NoChunks};
use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::page::{LeafPage, Page};
use headwater_protocol::path::RelPath;
use headwater_protocol::record::{Content, FileRecord};
use headwater_protocol::tree::{BuildEntry, Edit, PageSink, SinkError, Tree, TreeBuilder, TreeError, Within, edit};
use headwater_quic::transfer::UnavailableChunk;

use super::build::{CatalogSink, is_hollow};
use crate::catalog::{Catalog, CatalogError, DatasetId, DatasetPages, DatasetRow, VersionRow};
use crate::storage::local_path;

/// Files that are taken back in one step; more follow in the next.
const FILES_MAX: usize = 10_000;

/// A file that was taken back out of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TakenBack {
    pub(super) path: RelPath,
    /// It is not there any more; otherwise it changed.
    pub(super) has_vanished: bool,
}

/// Builds the version again without the files behind these chunks, and gives those files. Blocking.
pub(super) fn revert(
    catalog: &Arc<Catalog>,
    row: &DatasetRow,
    version: &VersionRow,
    unavailable: &[UnavailableChunk],
) -> Result<Vec<TakenBack>, CodedError> {
    let pages = DatasetPages::new(Arc::clone(catalog), row.id);
    let manifest = version.decode_manifest()?;
    let tree = Tree::new(&manifest, &pages);
    let mut shared = FolderShared::open(&row.folder, &NoChunks).map_err(|error| {
        CodedError::io(&codes::FOLDER_MISSING, format!("`{}` can't be opened", row.folder.display()), error)
    })?;
    let bad = bad_files(&tree, &shared, unavailable).map_err(|error| unreadable(&error))?;
    if bad.is_empty() {
        return Ok(Vec::new());
    }
    let committed = catalog.committed(row.id)?;
    let committed_manifest = committed.as_ref().map(VersionRow::decode_manifest).transpose()?;
    let mut edits = Vec::with_capacity(bad.len());
    for path in &bad {
        let before = match &committed_manifest {
            Some(manifest) => Tree::new(manifest, &pages).find(path).map_err(|error| unreadable(&error))?,
            None => None,
        };
        edits.push(match before {
            Some(record) => Edit::Put(BuildEntry::pinned(&record).map_err(|error| failed(&error))?),
            None => Edit::Remove(path.clone()),
        });
    }
    let mut sink = RevertSink {
        inner: CatalogSink::new(catalog, row.id, true),
        catalog,
        dataset: row.id,
        tree,
        bad: &bad,
        stamps: Vec::new(),
    };
    let builder = TreeBuilder::new(manifest.chunker, manifest.grouping, &mut sink, &mut shared)
        .map_err(|error| failed(&error))?;
    let built = edit(Some(tree), edits, builder).map_err(|error| failed(&error))?;
    sink.finish()?;
    let manifest = Manifest { height: built.height, root: built.root, ..manifest.clone() };
    let body = manifest.encode();
    let is_committed = committed_manifest
        .is_some_and(|committed| committed.root == manifest.root && committed.height == manifest.height);
    // A first version that loses all its files is not sent either: the next scan finds those that are there by then.
    if is_committed || (committed.is_none() && is_hollow(&manifest, &pages)?) {
        catalog.supersede(row.id)?;
    } else {
        catalog.put_built(row.id, version.number, Manifest::id_of(&body), body)?;
    }
    let has_vanished =
        |path: &RelPath| local_path(&row.folder, path.as_bytes()).is_none_or(|path| path.symlink_metadata().is_err());
    Ok(bad.into_iter().map(|path| TakenBack { has_vanished: has_vanished(&path), path }).collect())
}

/// The files that no longer hold what the version says of the chunks that could not be sent.
fn bad_files(
    tree: &Tree<'_>,
    files: &FolderShared<'_>,
    unavailable: &[UnavailableChunk],
) -> Result<BTreeSet<RelPath>, TreeError> {
    let mut bad = BTreeSet::new();
    for chunk in unavailable {
        for ordinal in chunk.range.first..chunk.range.first.saturating_add(chunk.range.count) {
            let Some(place) = tree.chunk_at(ordinal)? else { break };
            let members: Vec<&FileRecord> = match place.within {
                Within::Extent { record, .. } => vec![&place.leaf.records[record]],
                Within::Table(index) => place.leaf.records.iter().filter(|record| names(record, index)).collect(),
            };
            for record in members {
                let still_good = match &record.content {
                    Content::Shared { hash, .. } => files.small(&record.path, hash).is_some(),
                    _ => false,
                };
                if !still_good && let Ok(path) = RelPath::new(record.path.clone()) {
                    bad.insert(path);
                }
            }
            if bad.len() >= FILES_MAX {
                return Ok(bad);
            }
        }
    }
    Ok(bad)
}

fn names(record: &FileRecord, index: usize) -> bool {
    match &record.content {
        Content::Shared { extent, .. } => extent.chunk as usize == index,
        Content::Whole(extents) => extents.iter().any(|extent| extent.chunk as usize == index),
        Content::Empty | Content::Paged { .. } => false,
    }
}

/// Keeps the new pages, and gives new leaves the stamps that their files had in the old ones.
struct RevertSink<'a> {
    inner: CatalogSink<'a>,
    catalog: &'a Catalog,
    dataset: DatasetId,
    tree: Tree<'a>,
    bad: &'a BTreeSet<RelPath>,
    stamps: Vec<(ChunkId, Vec<u8>)>,
}

impl RevertSink<'_> {
    fn stamps_of(&self, leaf: &LeafPage) -> Result<Vec<Stamp>, SinkError> {
        let mut known: Option<(ChunkId, Vec<Stamp>)> = None;
        let mut stamps = Vec::with_capacity(leaf.records.len());
        for record in &leaf.records {
            let path = RelPath::new(record.path.clone()).map_err(SinkError::new)?;
            let old = if self.bad.contains(&path) { None } else { self.tree.find(&path).map_err(SinkError::new)? };
            let Some(old) = old else {
                stamps.push(Stamp::NONE);
                continue;
            };
            if known.as_ref().is_none_or(|(id, _)| *id != old.leaf.id) {
                let read = self.catalog.stamps(self.dataset, &old.leaf.id).map_err(SinkError::new)?;
                let decoded = read.and_then(|bytes| Stamp::decode_all(&bytes)).unwrap_or_default();
                known = Some((old.leaf.id, decoded));
            }
            let stamp = known.as_ref().and_then(|(_, stamps)| stamps.get(old.index).copied());
            stamps.push(stamp.unwrap_or(Stamp::NONE));
        }
        Ok(stamps)
    }

    fn finish(mut self) -> Result<(), CatalogError> {
        self.catalog.put_stamps(self.dataset, &self.stamps)?;
        self.inner.finish()
    }
}

impl PageSink for RevertSink<'_> {
    fn put_page(&mut self, id: ChunkId, bytes: Vec<u8>, page: &Page) -> Result<(), SinkError> {
        if let Page::Leaf(leaf) = page {
            let stamps = self.stamps_of(leaf)?;
            self.stamps.push((id, Stamp::encode_all(&stamps)));
        }
        self.inner.put_page(id, bytes, page)
    }
}

fn unreadable(error: &TreeError) -> CodedError {
    CodedError::new(&codes::CATALOG_DAMAGED, error.to_string())
}

fn failed(error: &impl std::fmt::Display) -> CodedError {
    CodedError::new(&codes::CATALOG_FAILED, format!("a version can't be built without files that changed: {error}"))
}
