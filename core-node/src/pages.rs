//! Decoded pages of versions, read from the chunk store and kept in a bounded cache.
//!
//! Lookups in a version walk the same few inner pages again and again, and a transfer asks for the chunks of a leaf one by
//! one; without the cache each would be a read, a hash and a decoding.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headwater_protocol::id::ChunkId;
use headwater_protocol::page::Page;
use headwater_protocol::tree::{PageSource, PageSourceError};

use crate::generations::Generations;
use crate::store::{ChunkStore, ReadError};

/// A decoded page takes about this many times the bytes of its encoding: its paths and tables are allocations of their own.
const DECODED_FACTOR: u64 = 2;

/// Pages from the chunk store.
pub struct StorePages {
    store: Arc<ChunkStore>,
    cache: Mutex<Generations<Arc<Page>>>,
}

impl StorePages {
    /// Pages of `store`, of which decoded ones up to `bytes_max` are kept.
    pub fn new(store: Arc<ChunkStore>, bytes_max: u64) -> Self {
        Self { store, cache: Mutex::new(Generations::new(bytes_max)) }
    }

    fn cache(&self) -> MutexGuard<'_, Generations<Arc<Page>>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PageSource for StorePages {
    fn page(&self, id: &ChunkId) -> Result<Arc<Page>, PageSourceError> {
        if let Some(page) = self.cache().get(id) {
            return Ok(page);
        }
        let bytes = self.store.read(id).map_err(|error| match error {
            ReadError::Missing(id) => PageSourceError::Missing(id),
            other => PageSourceError::Io(Box::new(other)),
        })?;
        let page = Arc::new(Page::decode(&bytes).map_err(|source| PageSourceError::Invalid { id: *id, source })?);
        let cost = bytes.len() as u64 * DECODED_FACTOR;
        self.cache().keep(*id, page.clone(), cost);
        Ok(page)
    }
}
