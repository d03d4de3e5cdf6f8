//! What must hold for any bytes that a core's disk may hold, one function a structure.
//!
//! This file is compiled twice: into the fuzz targets, and into a test that runs it over the committed corpus and over
//! mutations of it, so that a body can't rot between two fuzzing runs.

use std::sync::Arc;

use bytes::Bytes;
use core_node::catalog::{Catalog, ChunkTable, MemoryCatalog, PackNumber};
use core_node::store::{ChunkStore, ChunkStoreOptions, MemoryPacks, PackStore};
use headwater_host::scan::Stamp;
use headwater_host::version::stamp_file::{decode, seal};
use headwater_protocol::id::ChunkId;

/// Entries of a pack that are looked at.
const ENTRIES_MAX: usize = 100;

/// The file of a pack: a store opens over it or says why not, and what it gives is what it should be.
#[allow(dead_code, reason = "each target uses one body")]
pub(crate) fn pack(bytes: &[u8]) {
    let pack = PackNumber(7);
    let packs = Arc::new(MemoryPacks::new());
    packs.create(pack).expect("memory takes it");
    packs.append(pack, 0, &[Bytes::copy_from_slice(bytes)]).expect("memory takes it");
    packs.sync(pack).expect("memory takes it");
    packs.sync_folder().expect("memory takes it");
    let catalog = Arc::new(MemoryCatalog::new());
    let known: Arc<dyn Catalog> = catalog.clone();
    let Ok((store, _)) = ChunkStore::open(packs, known, ChunkStoreOptions::default()) else { return };
    for entry in catalog.chunks_in_pack(pack, 0, ENTRIES_MAX).expect("memory answers") {
        if let Ok(plain) = store.read(&entry.id) {
            assert_eq!(ChunkId::of(&plain), entry.id);
        }
    }
    store.verify(&mut |_| true).expect("memory answers");
}

/// The stamps of an imported folder, before and behind their checksum.
#[allow(dead_code, reason = "each target uses one body")]
pub(crate) fn stamps(bytes: &[u8]) {
    let folder = [7; 32];
    assert!(decode(bytes, &folder).is_none(), "no sum of these bytes stands in them");
    for kept in decode(&seal(&folder, bytes), &folder).unwrap_or_default().values() {
        let _ = Stamp::decode_all(kept);
    }
}
