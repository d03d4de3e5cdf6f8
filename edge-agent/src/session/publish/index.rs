//! Keeping the chunk index: which file holds which chunk, noted as pages are made or come.

use std::collections::HashSet;
use std::sync::Arc;

use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::page::Page;
use headwater_protocol::record::Content;
use headwater_protocol::tree::PageSource;

use crate::catalog::{Catalog, CatalogError, DatasetId, DatasetPages, NewHome, pages_below};

/// Entries that wait to be written together.
const BATCH: usize = 2000;

/// Writes the index of a version whose pages are all in the catalog and whose files are all on disk. Nothing below a page
/// in `known` is looked at: it was indexed before.
pub(crate) fn index_version(
    catalog: &Arc<Catalog>,
    dataset: DatasetId,
    manifest: &Manifest,
    known: &HashSet<ChunkId>,
) -> Result<(), CatalogError> {
    let pages = DatasetPages::new(Arc::clone(catalog), dataset);
    let mut indexer = ChunkIndexer::new(Arc::clone(catalog), dataset);
    let mut open: Vec<ChunkId> = manifest.root.iter().map(|root| root.id).collect();
    while let Some(id) = open.pop() {
        if known.contains(&id) {
            continue;
        }
        let page = pages.page(&id).map_err(|error| CatalogError::damaged(error.to_string()))?;
        indexer.page(id, &page);
        indexer.write_full()?;
        open.extend(pages_below(&page));
    }
    indexer.finish()
}

/// Takes the new pages of a version, children before parents, and writes the index.
pub(crate) struct ChunkIndexer {
    catalog: Arc<Catalog>,
    dataset: DatasetId,
    homes: Vec<NewHome>,
    extent_pages: HashSet<ChunkId>,
    long_files: Vec<(Vec<u8>, ChunkId)>,
}

impl ChunkIndexer {
    /// Writes the index of `dataset`.
    pub(crate) fn new(catalog: Arc<Catalog>, dataset: DatasetId) -> Self {
        Self { catalog, dataset, homes: Vec::new(), extent_pages: HashSet::new(), long_files: Vec::new() }
    }

    /// Takes a page.
    pub(crate) fn page(&mut self, id: ChunkId, page: &Page) {
        let leaf = match page {
            Page::Leaf(leaf) => leaf,
            Page::ExtentLeaf(_) | Page::ExtentInner { .. } => {
                self.extent_pages.insert(id);
                return;
            }
            Page::Inner { .. } => return,
        };
        let mut seen = vec![false; leaf.chunks.len()];
        let mut put = |index: u32, path: &[u8], offset: u64, homes: &mut Vec<_>| {
            let (Some(chunk), Some(seen)) = (leaf.chunks.get(index as usize), seen.get_mut(index as usize)) else {
                return;
            };
            if !std::mem::replace(seen, true) {
                homes.push(NewHome { chunk: chunk.id, page: id, path: path.to_vec(), file_offset: offset });
            }
        };
        for record in &leaf.records {
            match &record.content {
                Content::Empty => {}
                Content::Shared { extent, .. } => put(extent.chunk, &record.path, 0, &mut self.homes),
                Content::Whole(extents) => {
                    let mut offset = 0;
                    for extent in extents {
                        put(extent.chunk, &record.path, offset, &mut self.homes);
                        offset += u64::from(extent.length);
                    }
                }
                Content::Paged { root, .. } => self.long_files.push((record.path.clone(), *root)),
            }
        }
    }

    /// Whether much waits to be written.
    pub(crate) fn is_full(&self) -> bool {
        self.homes.len() >= BATCH
    }

    /// Writes what waits, if it is much. The pages that it was made of are in the catalog now: an entry must not outlive
    /// its page.
    pub(crate) fn write_full(&mut self) -> Result<(), CatalogError> {
        if self.is_full() { self.write() } else { Ok(()) }
    }

    /// Goes through the new extent pages of long files, and writes what waits. All pages are in the catalog now.
    pub(crate) fn finish(mut self) -> Result<(), CatalogError> {
        let pages = DatasetPages::new(Arc::clone(&self.catalog), self.dataset);
        for (path, root) in std::mem::take(&mut self.long_files) {
            let mut open = vec![(root, 0u64)];
            while let Some((id, offset)) = open.pop() {
                if !self.extent_pages.contains(&id) {
                    continue;
                }
                let page = pages.page(&id).map_err(|error| CatalogError::damaged(error.to_string()))?;
                let mut offset = offset;
                match &*page {
                    Page::ExtentInner { children, .. } => {
                        for child in children {
                            open.push((child.id, offset));
                            offset += child.bytes;
                        }
                    }
                    Page::ExtentLeaf(chunks) => {
                        for chunk in chunks {
                            let path = path.clone();
                            self.homes.push(NewHome { chunk: chunk.id, page: id, path, file_offset: offset });
                            offset += u64::from(chunk.length);
                        }
                    }
                    Page::Leaf(_) | Page::Inner { .. } => {}
                }
                self.write_full()?;
            }
        }
        self.write()
    }

    fn write(&mut self) -> Result<(), CatalogError> {
        if self.homes.is_empty() {
            return Ok(());
        }
        self.catalog.put_chunks(self.dataset, &std::mem::take(&mut self.homes))
    }
}
