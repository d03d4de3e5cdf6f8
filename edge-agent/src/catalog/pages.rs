//! Pages of versions, and the stat stamps of leaf pages.
//!
//! A page is checked against its id whenever it is read, so a flipped bit is damage that is noticed, not a wrong version.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use headwater_host::version::EncodedPages;
use headwater_protocol::id::ChunkId;
use headwater_protocol::page::{ExtentChildRef, Page};
use headwater_protocol::record::{Content, FileRecord};
use headwater_protocol::tree::{PageSource, PageSourceError};
use rusqlite::{Connection, OptionalExtension, params};

use super::chunks::drop_homes_of_page;
use super::{Catalog, CatalogError, DatasetId, sum_of};

/// Decoded pages that a [`DatasetPages`] remembers: the path from the root to a leaf, its extents, and some neighbours.
const PAGES_CACHED: usize = 24;
/// Pages that are dropped in one step, so that others can use the catalog in between.
const PRUNED_AT_ONCE: usize = 256;

impl Catalog {
    /// Keeps pages of a dataset; those that are there already stay.
    pub fn put_pages(&self, dataset: DatasetId, pages: &[(ChunkId, bool, Vec<u8>)]) -> Result<(), CatalogError> {
        let failed = |source| CatalogError::sql("keep pages", source);
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(failed)?;
        {
            let mut statement = transaction
                .prepare_cached("INSERT OR REPLACE INTO pages (dataset, id, paged, bytes) VALUES (?1, ?2, ?3, ?4)")
                .map_err(failed)?;
            for (id, paged, bytes) in pages {
                statement.execute(params![dataset.0, id.as_bytes().as_slice(), paged, bytes]).map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)
    }

    /// The encoded bytes of a page, checked against its id.
    pub fn page(&self, dataset: DatasetId, id: &ChunkId) -> Result<Option<Vec<u8>>, CatalogError> {
        let failed = |source| CatalogError::sql("read a page", source);
        let bytes: Option<Vec<u8>> = self
            .lock()
            .prepare_cached("SELECT bytes FROM pages WHERE dataset = ?1 AND id = ?2")
            .and_then(|mut statement| {
                statement.query_row(params![dataset.0, id.as_bytes().as_slice()], |row| row.get(0)).optional()
            })
            .map_err(failed)?;
        match bytes {
            Some(bytes) if ChunkId::of(&bytes) != *id => {
                Err(CatalogError::damaged(format!("page {} does not match its id", id.short())))
            }
            other => Ok(other),
        }
    }

    /// The encoded bytes of a page that any published or subscribed dataset has, of those that are `meant`.
    pub fn page_of_any(
        &self,
        id: &ChunkId,
        meant: impl Fn(&super::DatasetRow) -> bool,
    ) -> Result<Option<Vec<u8>>, CatalogError> {
        for dataset in self.datasets()? {
            if dataset.role != super::Role::Local
                && meant(&dataset)
                && let Some(bytes) = self.page(dataset.id, id)?
            {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Keeps the stat stamps of leaf pages.
    pub fn put_stamps(&self, dataset: DatasetId, stamps: &[(ChunkId, Vec<u8>)]) -> Result<(), CatalogError> {
        let failed = |source| CatalogError::sql("keep stat stamps", source);
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(failed)?;
        {
            let mut statement = transaction
                .prepare_cached("INSERT OR REPLACE INTO stamps (dataset, leaf, sum, stamps) VALUES (?1, ?2, ?3, ?4)")
                .map_err(failed)?;
            for (leaf, bytes) in stamps {
                let sum = sum_of(&[&dataset.0.to_le_bytes(), leaf.as_bytes(), bytes]);
                statement
                    .execute(params![dataset.0, leaf.as_bytes().as_slice(), sum.as_slice(), bytes])
                    .map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)
    }

    /// The stat stamps of a leaf page.
    pub fn stamps(&self, dataset: DatasetId, leaf: &ChunkId) -> Result<Option<Vec<u8>>, CatalogError> {
        let failed = |source| CatalogError::sql("read stat stamps", source);
        let found: Option<(Vec<u8>, Vec<u8>)> = self
            .lock()
            .prepare_cached("SELECT sum, stamps FROM stamps WHERE dataset = ?1 AND leaf = ?2")
            .and_then(|mut statement| {
                statement
                    .query_row(params![dataset.0, leaf.as_bytes().as_slice()], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()
            })
            .map_err(failed)?;
        match found {
            Some((sum, bytes)) if sum_of(&[&dataset.0.to_le_bytes(), leaf.as_bytes(), &bytes]).as_slice() != sum => {
                Err(CatalogError::damaged(format!("the stamps of page {} do not match their sum", leaf.short())))
            }
            other => Ok(other.map(|(_, bytes)| bytes)),
        }
    }

    /// The ids of all pages of a version.
    pub fn reachable_pages(
        &self,
        dataset: DatasetId,
        version: &super::VersionRow,
    ) -> Result<HashSet<ChunkId>, CatalogError> {
        let mut reachable = HashSet::new();
        if let Some(root) = version.decode_manifest()?.root {
            self.mark(dataset, root.id, &mut reachable)?;
        }
        Ok(reachable)
    }

    /// Drops what no version of a dataset reaches: pages, with their stamps and what they put into the index of chunks.
    /// Returns how many pages went.
    pub fn prune_pages(&self, dataset: DatasetId) -> Result<usize, CatalogError> {
        let mut reachable = HashSet::new();
        for version in self.versions(dataset)? {
            if let Some(root) = version.decode_manifest()?.root {
                self.mark(dataset, root.id, &mut reachable)?;
            }
        }
        let failed = |source| CatalogError::sql("drop pages that no version needs", source);
        let mut dead: Vec<Vec<u8>> = Vec::new();
        {
            let connection = self.lock();
            let mut statement = connection.prepare_cached("SELECT id FROM pages WHERE dataset = ?1").map_err(failed)?;
            let mut rows = statement.query([dataset.0]).map_err(failed)?;
            while let Some(row) = rows.next().map_err(failed)? {
                let id: Vec<u8> = row.get(0).map_err(failed)?;
                if !ChunkId::from_slice(&id).is_some_and(|id| reachable.contains(&id)) {
                    dead.push(id);
                }
            }
        }
        for batch in dead.chunks(PRUNED_AT_ONCE) {
            let mut connection = self.lock();
            let transaction = connection.transaction().map_err(failed)?;
            batch.iter().try_for_each(|id| drop_page(&transaction, dataset, id)).map_err(failed)?;
            transaction.commit().map_err(failed)?;
        }
        Ok(dead.len())
    }

    /// Adds `root` and all pages below it to `reachable`. Leaves without long files are not read.
    fn mark(&self, dataset: DatasetId, root: ChunkId, reachable: &mut HashSet<ChunkId>) -> Result<(), CatalogError> {
        let mut open = vec![root];
        while let Some(id) = open.pop() {
            if !reachable.insert(id) || self.is_plain_leaf(dataset, &id)? {
                continue;
            }
            let Some(bytes) = self.page(dataset, &id)? else { continue };
            open.extend(pages_below(&decode(&id, &bytes)?));
        }
        Ok(())
    }

    fn is_plain_leaf(&self, dataset: DatasetId, id: &ChunkId) -> Result<bool, CatalogError> {
        let failed = |source| CatalogError::sql("look up a page", source);
        let paged: Option<i64> = self
            .lock()
            .prepare_cached("SELECT paged FROM pages WHERE dataset = ?1 AND id = ?2")
            .and_then(|mut statement| {
                statement.query_row(params![dataset.0, id.as_bytes().as_slice()], |row| row.get(0)).optional()
            })
            .map_err(failed)?;
        Ok(paged == Some(0))
    }
}

/// Drops a page with all that was made of it.
fn drop_page(connection: &Connection, dataset: DatasetId, id: &[u8]) -> rusqlite::Result<()> {
    let bytes: Vec<u8> = connection
        .prepare_cached("DELETE FROM pages WHERE dataset = ?1 AND id = ?2 RETURNING bytes")?
        .query_row(params![dataset.0, id], |row| row.get(0))?;
    connection
        .prepare_cached("DELETE FROM stamps WHERE dataset = ?1 AND leaf = ?2")?
        .execute(params![dataset.0, id])?;
    // A page that nobody needs any more may be damaged: no entry can be made of it then, and none is looked for.
    match (ChunkId::from_slice(id), Page::decode(&bytes)) {
        (Some(id), Ok(page)) => drop_homes_of_page(connection, dataset, &id, &page),
        _ => Ok(()),
    }
}

/// Whether a page refers to further pages, so that marking must read it.
pub(crate) fn refers_to_pages(page: &Page) -> bool {
    match page {
        Page::Leaf(leaf) => leaf.records.iter().any(|record| matches!(record.content, Content::Paged { .. })),
        Page::Inner { .. } | Page::ExtentInner { .. } => true,
        Page::ExtentLeaf(_) => false,
    }
}

/// The pages that a page refers to.
pub(crate) fn pages_below(page: &Page) -> Vec<ChunkId> {
    match page {
        Page::Inner { children, .. } => children.iter().map(|child| child.id).collect(),
        Page::ExtentInner { children, .. } => children.iter().map(|child: &ExtentChildRef| child.id).collect(),
        Page::Leaf(leaf) => {
            let root = |record: &FileRecord| match &record.content {
                Content::Paged { root, .. } => Some(*root),
                _ => None,
            };
            leaf.records.iter().filter_map(root).collect()
        }
        Page::ExtentLeaf(_) => Vec::new(),
    }
}

fn decode(id: &ChunkId, bytes: &[u8]) -> Result<Page, CatalogError> {
    Page::decode(bytes).map_err(|error| CatalogError::damaged(format!("page {}: {error}", id.short())))
}

/// The pages of one dataset, decoded and with a small cache, as the tree reads them.
pub struct DatasetPages {
    catalog: Arc<Catalog>,
    dataset: DatasetId,
    /// The version that is read may be replaced, and its pages dropped, meanwhile.
    may_go: bool,
    cache: Mutex<PageCache>,
}

#[derive(Default)]
struct PageCache {
    pages: HashMap<ChunkId, Arc<Page>>,
    order: VecDeque<ChunkId>,
}

impl DatasetPages {
    /// The pages of `dataset`.
    pub fn new(catalog: Arc<Catalog>, dataset: DatasetId) -> Self {
        Self { catalog, dataset, may_go: false, cache: Mutex::default() }
    }

    /// The same for a reader that doesn't keep others from the dataset: that a page is gone says nothing then.
    pub fn of_passing_version(catalog: Arc<Catalog>, dataset: DatasetId) -> Self {
        Self { may_go: true, ..Self::new(catalog, dataset) }
    }

    fn cached(&self, id: &ChunkId) -> Option<Arc<Page>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let page = cache.pages.get(id).cloned()?;
        // Used again: to the back of the queue, so that roots outlive leaves that were read once.
        if let Some(at) = cache.order.iter().position(|cached| cached == id) {
            cache.order.remove(at);
            cache.order.push_back(*id);
        }
        Some(page)
    }

    fn remember(&self, id: ChunkId, page: &Arc<Page>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.pages.insert(id, Arc::clone(page)).is_none() {
            cache.order.push_back(id);
        }
        while cache.order.len() > PAGES_CACHED {
            if let Some(oldest) = cache.order.pop_front() {
                cache.pages.remove(&oldest);
            }
        }
    }
}

impl EncodedPages for DatasetPages {
    fn encoded(&self, id: &ChunkId) -> Result<Option<Bytes>, PageSourceError> {
        let bytes = self.catalog.page(self.dataset, id).map_err(|error| PageSourceError::Io(Box::new(error)))?;
        Ok(bytes.map(Bytes::from))
    }
}

impl PageSource for DatasetPages {
    fn page(&self, id: &ChunkId) -> Result<Arc<Page>, PageSourceError> {
        if let Some(page) = self.cached(id) {
            return Ok(page);
        }
        let read = self.catalog.page(self.dataset, id).and_then(|bytes| match bytes {
            Some(bytes) => decode(id, &bytes).map(|page| Some(Arc::new(page))),
            None => Ok(None),
        });
        match read {
            Ok(Some(page)) => {
                self.remember(*id, &page);
                Ok(page)
            }
            // Only versions that are complete here are read through this, so a page that is gone is damage too, unless the
            // version may be gone as well.
            Ok(None) => {
                if !self.may_go {
                    self.catalog.suspect();
                }
                Err(PageSourceError::Missing(*id))
            }
            Err(error) => {
                if error.is_damage() {
                    self.catalog.suspect();
                }
                Err(PageSourceError::Io(Box::new(error)))
            }
        }
    }
}
