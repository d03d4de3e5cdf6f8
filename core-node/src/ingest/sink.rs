//! What the core makes itself, on its way into the store.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use headwater_host::version::ChunkSink;
use headwater_protocol::id::ChunkId;
use headwater_protocol::page::Page;
use headwater_protocol::record::ChunkRef;
use headwater_protocol::tree::{PageSink, SinkError};

use crate::catalog::Principal;
use crate::core::Core;
use crate::store::{NewChunk, StoreBatch};

/// Bytes that are gathered before they are stored: one sync for so many.
const BATCH_BYTES: usize = 8 << 20;

/// Gathers chunks and pages, and stores them in batches under a proof of the core's own.
pub(crate) struct StoreSink<'a> {
    core: &'a Core,
    pending: Mutex<(Vec<NewChunk>, usize)>,
}

impl<'a> StoreSink<'a> {
    /// A sink into the store of `core`.
    pub(crate) fn new(core: &'a Core) -> Self {
        Self { core, pending: Mutex::default() }
    }

    fn put(&self, id: ChunkId, plain: Bytes) -> Result<(), SinkError> {
        let full = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.1 += plain.len();
            pending.0.push(NewChunk { id, plain, frame: None });
            if pending.1 < BATCH_BYTES {
                return Ok(());
            }
            std::mem::take(&mut *pending).0
        };
        self.store(full)
    }

    /// Stores the rest.
    pub(crate) fn flush(&self) -> Result<(), SinkError> {
        let rest = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner)).0;
        if rest.is_empty() { Ok(()) } else { self.store(rest) }
    }

    fn store(&self, chunks: Vec<NewChunk>) -> Result<(), SinkError> {
        let batch = StoreBatch { uploader: Principal::Core, pin_until: self.core.pin_until(), chunks };
        self.core.store.store_blocking(batch).map(|_| ()).map_err(SinkError::new)
    }
}

impl ChunkSink for StoreSink<'_> {
    fn put_chunk(&self, chunk: ChunkRef, bytes: &[u8]) -> Result<(), SinkError> {
        self.put(chunk.id, Bytes::copy_from_slice(bytes))
    }
}

impl PageSink for &StoreSink<'_> {
    fn put_page(&mut self, id: ChunkId, bytes: Vec<u8>, _page: &Page) -> Result<(), SinkError> {
        self.put(id, bytes.into())
    }
}
