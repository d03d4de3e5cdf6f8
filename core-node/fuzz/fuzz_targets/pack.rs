//! Fuzzes a pack: whatever its file holds, a store opens over it or says why not, and what it gives is what it should be.

#![no_main]

use std::sync::Arc;

use core_node::catalog::{Catalog, MemoryCatalog, PackNumber};
use core_node::store::{ChunkStore, ChunkStoreOptions, MemoryPacks, PackStore};
use headwater_protocol::id::ChunkId;

/// Entries that are looked at.
const ENTRIES_MAX: usize = 100;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let pack = PackNumber(7);
    let packs = Arc::new(MemoryPacks::new());
    packs.create(pack).expect("memory takes it");
    packs.append(pack, 0, &[bytes.to_vec().into()]).expect("memory takes it");
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
});
