//! The shell around the commit order: one writer thread that appends, syncs and enters chunks in groups, and verified reads.

use std::sync::Arc;

use bytes::Bytes;
use headwater_protocol::id::ChunkId;

use super::pack::{PackError, PackStore};
use crate::catalog::{Catalog, CatalogError, ChunkEntry, PackNumber, Principal, UnixMs};

/// Settings of a chunk store.
#[derive(Clone, Debug)]
pub struct ChunkStoreOptions {
    /// A pack of this many bytes is sealed and the next one begun.
    pub pack_bytes_max: u64,
    /// Most plain bytes that wait to be stored; more callers wait.
    pub queue_bytes_max: usize,
    /// Whether plain chunks are compressed where a sample says that it pays.
    pub compress: bool,
}

impl Default for ChunkStoreOptions {
    fn default() -> Self {
        Self { pack_bytes_max: 256 << 20, queue_bytes_max: 64 << 20, compress: true }
    }
}

/// A chunk to be stored. The caller has verified that `id` is the BLAKE3 of `plain`.
#[derive(Clone, Debug)]
pub struct NewChunk {
    /// Its name.
    pub id: ChunkId,
    /// Its bytes.
    pub plain: Bytes,
    /// A zstd frame of these bytes, if it came as one: it is stored as it came.
    pub frame: Option<Bytes>,
}

/// Chunks that become durable together.
#[derive(Clone, Debug)]
pub struct StoreBatch {
    /// Who uploaded them: a proof of it makes them visible to the uploader, and pins them from gc.
    pub uploader: Principal,
    /// When the proof ends.
    pub pin_until: UnixMs,
    /// The chunks.
    pub chunks: Vec<NewChunk>,
}

/// What storing a batch came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Chunks that were written.
    pub written_chunks: u64,
    /// Bytes that they took.
    pub written_bytes: u64,
    /// Chunks that were here already.
    pub known_chunks: u64,
}

/// Why a batch was not stored. Nothing that was stored before is affected; the batch may be stored again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no space left.
    #[error("there is no space left to store chunks")]
    Full,
    /// A chunk is empty or longer than chunks may be.
    #[error("chunk {} has {bytes} bytes", id.short())]
    Length {
        /// The chunk.
        id: ChunkId,
        /// Its bytes.
        bytes: usize,
    },
    /// Packs failed.
    #[error("chunks could not be written: {0}")]
    Packs(Arc<PackError>),
    /// The catalog failed.
    #[error("chunks could not be entered: {0}")]
    Catalog(Arc<CatalogError>),
    /// The store is closing.
    #[error("the store is closed")]
    Closed,
}

/// Why a chunk could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not stored.
    #[error("chunk {} is not stored", .0.short())]
    Missing(ChunkId),
    /// Its bytes are not what they should be. It was set aside, and can be stored again.
    #[error("chunk {} is damaged in pack {pack} at byte {offset}: {detail}", id.short())]
    Damaged {
        /// The chunk.
        id: ChunkId,
        /// The pack.
        pack: PackNumber,
        /// Where its record begins.
        offset: u64,
        /// What was found.
        detail: String,
    },
    /// Packs failed.
    #[error(transparent)]
    Packs(#[from] PackError),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// A pack was written by a newer release.
    #[error("pack {pack} has layout {found}, and this release knows layouts up to {known}")]
    Newer {
        /// The pack.
        pack: PackNumber,
        /// The layout in the file.
        found: u16,
        /// The newest that is known here.
        known: u16,
    },
    /// Packs failed.
    #[error(transparent)]
    Packs(#[from] PackError),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The writer thread could not be started.
    #[error("the writer thread could not be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// What opening a store found and mended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Records beyond the last catalog commit that were whole and were entered.
    pub adopted_chunks: u64,
    /// Bytes of torn tails that were cut.
    pub cut_bytes: u64,
    /// Packs that a gc had dropped and whose bytes are gone now.
    pub deleted_packs: u64,
    /// Entries that pointed beyond their pack, or into one that is gone: marked damaged. Zero unless files were lost.
    pub lost_chunks: u64,
}

/// A chunk as it rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredForm {
    /// Plain bytes.
    pub plain_bytes: u32,
    /// Its bytes.
    pub body: StoredBody,
}

/// The bytes of a chunk as it rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredBody {
    /// As they are.
    Plain(Bytes),
    /// As one zstd frame.
    Zstd(Bytes),
}

/// What the store did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StoreStats {
    /// Groups that were committed.
    pub groups: u64,
    /// Chunks that were written.
    pub written_chunks: u64,
    /// Bytes that they took.
    pub written_bytes: u64,
    /// Chunks that were here already.
    pub known_chunks: u64,
    /// Plain bytes of these.
    pub known_bytes: u64,
    /// Chunks that were read.
    pub read_chunks: u64,
    /// Chunks that were found damaged.
    pub damaged_chunks: u64,
}

/// Stores and reads chunks.
pub struct ChunkStore {
    catalog: Arc<dyn Catalog>,
    packs: Arc<dyn PackStore>,
}

impl ChunkStore {
    /// Opens the store: cuts torn tails, enters whole records that were not entered, and starts the writer thread.
    pub fn open(
        packs: Arc<dyn PackStore>,
        catalog: Arc<dyn Catalog>,
        options: ChunkStoreOptions,
    ) -> Result<(Self, RecoveryReport), OpenStoreError> {
        let _ = options;
        Ok((Self { catalog, packs }, RecoveryReport::default()))
    }

    /// The catalog that knows where chunks are.
    pub fn catalog(&self) -> &Arc<dyn Catalog> {
        &self.catalog
    }

    /// The packs that hold them.
    pub fn packs(&self) -> &Arc<dyn PackStore> {
        &self.packs
    }

    /// Stores a batch. When this resolves, all of it is durable, entered, and pinned for its uploader.
    pub async fn store(&self, batch: StoreBatch) -> Result<Stored, StoreError> {
        let _ = batch;
        todo!()
    }

    /// [`ChunkStore::store`] for a thread that may block.
    pub fn store_blocking(&self, batch: StoreBatch) -> Result<Stored, StoreError> {
        let _ = batch;
        todo!()
    }

    /// The plain bytes of a chunk, verified. Blocks.
    pub fn read(&self, id: &ChunkId) -> Result<Bytes, ReadError> {
        let _ = id;
        todo!()
    }

    /// A chunk as it rests, verified. Blocks.
    pub fn read_stored(&self, id: &ChunkId) -> Result<StoredForm, ReadError> {
        let _ = id;
        todo!()
    }

    /// The plain bytes of a chunk whose entry is known already. Blocks.
    pub fn read_entry(&self, entry: &ChunkEntry) -> Result<Bytes, ReadError> {
        let _ = entry;
        todo!()
    }

    /// What the store did since it was opened.
    pub fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
}
