//! Tests of the store as a whole. Here is what they share; each file below has one subject.

mod collecting;
mod crashes;
mod damage;
mod format;
mod storing;

use std::sync::Arc;

use bytes::Bytes;
use headwater_protocol::id::{ChunkId, PublicKey};

use super::*;
use crate::catalog::{Catalog, ChunkTable, MemoryCatalog, Principal, UnixMs};

const UPLOADER: Principal = Principal::Device(PublicKey([7; 32]));
const NOW: UnixMs = UnixMs(1_000_000);
const PIN_UNTIL: UnixMs = UnixMs(2_000_000);

fn chunk(bytes: impl Into<Vec<u8>>) -> NewChunk {
    let plain = Bytes::from(bytes.into());
    NewChunk { id: ChunkId::of(&plain), plain, frame: None }
}

/// `bytes` bytes that don't compress and that only `seed` has.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new_derive_key("noise of store tests").update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn batch(chunks: Vec<NewChunk>) -> StoreBatch {
    StoreBatch { uploader: UPLOADER, pin_until: PIN_UNTIL, chunks }
}

fn options(pack_bytes_max: u64) -> ChunkStoreOptions {
    ChunkStoreOptions { pack_bytes_max, ..ChunkStoreOptions::default() }
}

fn open(packs: &Arc<MemoryPacks>, catalog: &Arc<MemoryCatalog>, pack_bytes_max: u64) -> (ChunkStore, RecoveryReport) {
    let (packs, catalog) = (Arc::clone(packs), Arc::clone(catalog));
    ChunkStore::open(packs, catalog, options(pack_bytes_max)).expect("it opens")
}

fn in_memory(pack_bytes_max: u64) -> (Arc<MemoryPacks>, Arc<MemoryCatalog>, ChunkStore) {
    let (packs, catalog) = (Arc::new(MemoryPacks::new()), Arc::new(MemoryCatalog::new()));
    let store = open(&packs, &catalog, pack_bytes_max).0;
    (packs, catalog, store)
}

fn location(catalog: &dyn Catalog, id: &ChunkId) -> crate::catalog::ChunkLocation {
    catalog.locate(&[*id]).unwrap()[0].expect("it is entered").location
}
