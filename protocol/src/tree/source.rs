//! Where pages come from and go to: the two traits that a store offers, and one store in memory.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use crate::codec::DecodeError;
use crate::id::ChunkId;
use crate::page::Page;

/// Why a page can't be had.
#[derive(Debug, thiserror::Error)]
pub enum PageSourceError {
    /// It is not here.
    #[error("page {} is not here", .0.short())]
    Missing(ChunkId),
    /// Its bytes are here, but they are no page.
    #[error("page {} is damaged: {source}", .id.short())]
    Invalid {
        /// The page.
        id: ChunkId,
        /// What its decoder found.
        source: DecodeError,
    },
    /// The store failed.
    #[error("the page store failed: {0}")]
    Io(#[source] Box<dyn Error + Send + Sync>),
}

/// Gives pages by id. What it gives has been decoded by [`Page::decode`] from bytes whose BLAKE3 is the id.
pub trait PageSource {
    /// The page that `id` names.
    fn page(&self, id: &ChunkId) -> Result<Arc<Page>, PageSourceError>;
}

/// Why a page or a chunk can't be stored, or a small file can't be read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SinkError(#[from] pub Box<dyn Error + Send + Sync>);

impl SinkError {
    /// Wraps what the store found.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// Takes the pages that a builder makes: children before the pages that name them, a page maybe more than once.
pub trait PageSink {
    /// Stores `page`, whose encoding is `bytes` and whose id is `id`.
    fn put_page(&mut self, id: ChunkId, bytes: Vec<u8>, page: &Page) -> Result<(), SinkError>;
}

impl<T: PageSource + ?Sized> PageSource for &T {
    fn page(&self, id: &ChunkId) -> Result<Arc<Page>, PageSourceError> {
        (**self).page(id)
    }
}

impl<T: PageSource + ?Sized> PageSource for Arc<T> {
    fn page(&self, id: &ChunkId) -> Result<Arc<Page>, PageSourceError> {
        (**self).page(id)
    }
}

/// Pages in memory: the store of tests, of the simulation and of catalogs that rest nowhere. Shared by reference.
#[derive(Debug, Default)]
pub struct MemoryPages {
    pages: Mutex<BTreeMap<ChunkId, Arc<Page>>>,
}

impl MemoryPages {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores `page` under its id, and gives the id.
    pub fn insert(&self, page: Page) -> ChunkId {
        let id = ChunkId::of(&page.encode());
        self.locked().insert(id, Arc::new(page));
        id
    }

    /// Decodes and stores the encoded page `bytes`, and gives its id.
    pub fn insert_encoded(&self, bytes: &[u8]) -> Result<ChunkId, DecodeError> {
        let page = Page::decode(bytes)?;
        let id = ChunkId::of(bytes);
        self.locked().insert(id, Arc::new(page));
        Ok(id)
    }

    /// Forgets a page.
    pub fn remove(&self, id: &ChunkId) -> Option<Arc<Page>> {
        self.locked().remove(id)
    }

    /// Whether the page is here.
    pub fn contains(&self, id: &ChunkId) -> bool {
        self.locked().contains_key(id)
    }

    /// Ids of all pages here, in order.
    pub fn ids(&self) -> Vec<ChunkId> {
        self.locked().keys().copied().collect()
    }

    /// How many pages are here.
    pub fn len(&self) -> usize {
        self.locked().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<ChunkId, Arc<Page>>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PageSource for MemoryPages {
    fn page(&self, id: &ChunkId) -> Result<Arc<Page>, PageSourceError> {
        self.locked().get(id).cloned().ok_or(PageSourceError::Missing(*id))
    }
}

impl PageSink for MemoryPages {
    fn put_page(&mut self, id: ChunkId, _bytes: Vec<u8>, page: &Page) -> Result<(), SinkError> {
        self.locked().entry(id).or_insert_with(|| Arc::new(page.clone()));
        Ok(())
    }
}

impl PageSink for &MemoryPages {
    fn put_page(&mut self, id: ChunkId, _bytes: Vec<u8>, page: &Page) -> Result<(), SinkError> {
        self.locked().entry(id).or_insert_with(|| Arc::new(page.clone()));
        Ok(())
    }
}
