//! Where bytes rest: packs, the order in which they become durable, gc and verification.
//!
//! [`PackStore`] is the container (local files, memory, later S3), and [`ChunkStore`] is what everyone else uses.

mod chunk_store;
mod pack;

pub use chunk_store::{
    ChunkStore, ChunkStoreOptions, NewChunk, OpenStoreError, ReadError, RecoveryReport, StoreBatch, StoreError,
    StoreStats, Stored, StoredBody, StoredForm,
};
pub use pack::{PackError, PackInfo, PackStore};
