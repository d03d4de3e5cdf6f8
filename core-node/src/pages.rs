//! Decoded pages of versions, read from the chunk store and kept in a bounded cache.
//!
//! Lookups in a version walk the same few inner pages again and again, and a transfer asks for the chunks of a leaf one by
//! one; without the cache each would be a read, a hash and a decoding.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use headwater_protocol::id::ChunkId;
use headwater_protocol::page::Page;
use headwater_protocol::tree::{PageSource, PageSourceError};

use crate::store::{ChunkStore, ReadError};

/// A decoded page takes about this many times the bytes of its encoding: its paths and tables are allocations of their own.
const DECODED_FACTOR: u64 = 2;

/// Pages from the chunk store. Two generations make the cache: what is used moves to the young one, and when that is half
/// the budget, the old one goes.
pub struct StorePages {
    store: Arc<ChunkStore>,
    generation_bytes_max: u64,
    cache: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashMap<ChunkId, (Arc<Page>, u64)>,
    young_bytes: u64,
    old: HashMap<ChunkId, (Arc<Page>, u64)>,
}

impl StorePages {
    /// Pages of `store`, of which decoded ones up to `bytes_max` are kept.
    pub fn new(store: Arc<ChunkStore>, bytes_max: u64) -> Self {
        Self { store, generation_bytes_max: bytes_max / 2, cache: Mutex::default() }
    }

    fn cached(&self, id: &ChunkId) -> Option<Arc<Page>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((page, _)) = cache.young.get(id) {
            return Some(page.clone());
        }
        let (page, bytes) = cache.old.remove(id)?;
        cache.keep(*id, page.clone(), bytes, self.generation_bytes_max);
        Some(page)
    }
}

impl Generations {
    fn keep(&mut self, id: ChunkId, page: Arc<Page>, bytes: u64, generation_bytes_max: u64) {
        if self.young_bytes + bytes > generation_bytes_max {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(id, (page, bytes));
    }
}

impl PageSource for StorePages {
    fn page(&self, id: &ChunkId) -> Result<Arc<Page>, PageSourceError> {
        if let Some(page) = self.cached(id) {
            return Ok(page);
        }
        let bytes = self.store.read(id).map_err(|error| match error {
            ReadError::Missing(id) => PageSourceError::Missing(id),
            other => PageSourceError::Io(Box::new(other)),
        })?;
        let page = Arc::new(Page::decode(&bytes).map_err(|source| PageSourceError::Invalid { id: *id, source })?);
        let cost = bytes.len() as u64 * DECODED_FACTOR;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.keep(*id, page.clone(), cost, self.generation_bytes_max);
        Ok(page)
    }
}
