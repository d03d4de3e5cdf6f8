//! Where bytes rest: packs, the order in which they become durable, gc and verification.
//!
//! [`PackStore`] is the container (local files, memory, later S3), [`format`] is what stands in it, [`commit_order`] says in
//! which order a group of chunks becomes durable, and [`ChunkStore`] is the shell that everyone else uses.

mod chunk_store;
pub mod commit_order;
pub mod format;
mod gc;
mod local;
mod marks;
mod memory;
mod pack;
mod recovery;
mod retention;
mod scan;
mod verify;
mod walk;
mod writer;

pub use chunk_store::{
    ChunkStore, ChunkStoreOptions, NewChunk, ReadError, StoreBatch, StoreError, StoreStats, Stored, StoredBody,
    StoredForm,
};
pub use gc::{GcError, GcOptions, GcProgress, GcReport};
pub use local::LocalPacks;
pub use memory::MemoryPacks;
pub use pack::{PackError, PackInfo, PackStore};
pub use recovery::{OpenStoreError, RecoveryReport};
pub use verify::{AffectedVersion, DamagedChunk, VerifyError, VerifyProgress, VerifyReport};
pub use walk::WalkError;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
