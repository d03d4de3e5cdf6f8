//! The pages of the versions that an import deals with, encoded and in memory: some hundred bytes for each file.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use headwater_host::version::EncodedPages;
use headwater_protocol::id::ChunkId;
use headwater_protocol::page::Page;
use headwater_protocol::tree::{PageSink, PageSource, PageSourceError, SinkError};

/// Pages by id.
#[derive(Debug, Default)]
pub(super) struct Pages(Mutex<BTreeMap<ChunkId, Bytes>>);

impl Pages {
    /// Keeps the encoded page `bytes`, whose id is `id`.
    pub(super) fn keep(&self, id: ChunkId, bytes: Bytes) {
        self.pages().entry(id).or_insert(bytes);
    }

    /// The encoded bytes of a page.
    pub(super) fn find(&self, id: &ChunkId) -> Option<Bytes> {
        self.pages().get(id).cloned()
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.pages().len() as u64
    }

    fn pages(&self) -> MutexGuard<'_, BTreeMap<ChunkId, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PageSource for Pages {
    fn page(&self, id: &ChunkId) -> Result<Arc<Page>, PageSourceError> {
        let bytes = self.find(id).ok_or(PageSourceError::Missing(*id))?;
        Page::decode(&bytes).map(Arc::new).map_err(|source| PageSourceError::Invalid { id: *id, source })
    }
}

impl EncodedPages for Pages {
    fn encoded(&self, id: &ChunkId) -> Result<Option<Bytes>, PageSourceError> {
        Ok(self.find(id))
    }
}

impl PageSink for &Pages {
    fn put_page(&mut self, id: ChunkId, bytes: Vec<u8>, _page: &Page) -> Result<(), SinkError> {
        self.keep(id, bytes.into());
        Ok(())
    }
}
