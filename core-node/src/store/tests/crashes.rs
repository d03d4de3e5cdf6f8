//! What a crash or a power cut leaves, at every point.

use std::collections::BTreeMap;

use super::*;
use crate::catalog::{ChunkLocation, PackNumber, PackRecord, PackState, SqliteCatalog};
use crate::store::format::{PACK_HEADER_BYTES, RECORD_HEADER_BYTES};

#[test]
fn a_tail_cut_at_any_byte_is_mended() {
    let (packs, catalog, store) = in_memory(1 << 20);
    let first = chunk(noise(1, 150));
    store.store_blocking(batch(vec![first.clone()])).unwrap();
    let committed = catalog.snapshot();
    let tail = [chunk(noise(2, 90)), chunk(vec![b'y'; 200])];
    store.store_blocking(batch(tail.to_vec())).unwrap();
    drop(store);
    // The catalog's last commit is lost, and the pack's tail in part: as if it crashed between write and commit.
    let whole = packs.list().unwrap()[0].bytes;
    let tail_start = (PACK_HEADER_BYTES + RECORD_HEADER_BYTES + 150) as u64;
    let second_end = tail_start + (RECORD_HEADER_BYTES + 90) as u64;
    for end in tail_start..=whole {
        let catalog = Arc::new(committed.snapshot());
        let cut = Arc::new(packs.after_power_cut(|_, _| 0, |_| false));
        cut.with_bytes(PackNumber(1), |bytes| bytes.truncate(end as usize)).unwrap();
        let (store, report) = open(&cut, &catalog, 1 << 20);
        let adopted = u64::from(end >= second_end) + u64::from(end == whole);
        assert_eq!((report.adopted_chunks, report.lost_chunks), (adopted, 0), "cut at byte {end}");
        assert_eq!(store.read(&first.id).unwrap(), first.plain);
        let stored = store.store_blocking(batch(tail.to_vec())).unwrap();
        assert_eq!((stored.known_chunks, stored.written_chunks), (adopted, 2 - adopted), "cut at byte {end}");
        for chunk in &tail {
            assert_eq!(store.read(&chunk.id).unwrap(), chunk.plain, "cut at byte {end}");
        }
        drop(store);
        assert_eq!(open(&cut, &catalog, 1 << 20).1, RecoveryReport::default(), "the second start finds nothing to do");
    }
}

#[test]
fn a_full_disk_keeps_no_store_from_opening() {
    let (packs, catalog, store) = in_memory(3_000);
    let chunks: Vec<_> = (0..6).map(|seed| chunk(noise(seed, 1000))).collect();
    let mut snapshots = Vec::new();
    for chunk in &chunks {
        store.store_blocking(batch(vec![chunk.clone()])).unwrap();
        snapshots.push((catalog.snapshot(), packs.after_power_cut(|_, unsynced| unsynced, |_| false)));
    }
    drop(store);
    for (done, (catalog, packs)) in snapshots.into_iter().enumerate() {
        // Killed before any pack was sealed.
        let (catalog, packs) = (Arc::new(catalog), Arc::new(packs));
        for record in catalog.packs().unwrap() {
            packs.with_bytes(record.number, |bytes| bytes.truncate(unsealed_end(&catalog, record.number))).unwrap();
            catalog.put_pack(&PackRecord { state: PackState::Open, ..record }).unwrap();
        }
        packs.set_capacity(Some(0));
        let (store, _) = open(&packs, &catalog, 3_000);
        for chunk in &chunks[..=done] {
            assert_eq!(store.read(&chunk.id).unwrap(), chunk.plain, "after {done}");
        }
        drop(store);
        packs.set_capacity(None);
        let (store, report) = open(&packs, &catalog, 3_000);
        assert_eq!(report.lost_chunks, 0);
        store.store_blocking(batch(chunks.clone())).unwrap();
        for chunk in &chunks {
            assert_eq!(store.read(&chunk.id).unwrap(), chunk.plain, "after {done}");
        }
        drop(store);
        let open_packs = catalog.packs().unwrap().into_iter().filter(|record| record.state == PackState::Open).count();
        assert!(open_packs <= 1, "those that were left are sealed once there is room");
    }
}

fn unsealed_end(catalog: &MemoryCatalog, pack: PackNumber) -> usize {
    let entries = catalog.chunks_in_pack(pack, 0, usize::MAX).unwrap();
    let end = |at: &ChunkLocation| at.offset + RECORD_HEADER_BYTES as u64 + u64::from(at.stored_bytes);
    entries.last().map_or(PACK_HEADER_BYTES as u64, |entry| end(&entry.location)) as usize
}

#[test]
fn garbage_after_the_last_commit_is_cut() {
    let (packs, catalog, store) = in_memory(1 << 20);
    let first = chunk(noise(1, 150));
    store.store_blocking(batch(vec![first.clone()])).unwrap();
    drop(store);
    packs.with_bytes(PackNumber(1), |bytes| bytes.extend_from_slice(&noise(9, 333))).unwrap();
    let (store, report) = open(&packs, &catalog, 1 << 20);
    assert_eq!((report.cut_bytes, report.adopted_chunks), (333, 0));
    assert_eq!(store.read(&first.id).unwrap(), first.plain);
}

#[test]
fn a_power_cut_between_any_two_batches_keeps_what_was_acknowledged() {
    for kept in [0usize, 1, 63, 64, 100, usize::MAX] {
        let (packs, catalog, store) = in_memory(3_000);
        let mut acknowledged: BTreeMap<ChunkId, Bytes> = BTreeMap::new();
        for seed in 0..25 {
            let new = chunk(noise(seed, 100 + 37 * seed as usize));
            store.store_blocking(batch(vec![new.clone()])).unwrap();
            acknowledged.insert(new.id, new.plain);
            let survivors = Arc::new(packs.after_power_cut(|_, unsynced| kept.min(unsynced), |_| false));
            let catalog = Arc::new(catalog.snapshot());
            let (after, report) = open(&survivors, &catalog, 3_000);
            assert_eq!(report.lost_chunks, 0);
            for (id, plain) in &acknowledged {
                assert_eq!(after.read(id).unwrap(), *plain);
            }
        }
    }
}

#[test]
fn a_lost_catalog_is_rebuilt_from_packs() {
    let (packs, _, store) = in_memory(10_000);
    let chunks: Vec<_> = (0..12).map(|seed| chunk(noise(seed, 2500))).collect();
    for chunk in &chunks {
        store.store_blocking(batch(vec![chunk.clone()])).unwrap();
    }
    drop(store);
    let empty = Arc::new(MemoryCatalog::new());
    let (store, report) = open(&packs, &empty, 10_000);
    assert_eq!(report.adopted_chunks, 12);
    for chunk in &chunks {
        assert_eq!(store.read(&chunk.id).unwrap(), chunk.plain);
    }
    let report = store.verify(&mut |_| true).unwrap();
    assert_eq!((report.chunks, report.damaged_count, report.packs), (12, 0, 3));
}

#[test]
fn a_lost_catalog_knows_every_chunk_again() {
    let folder = tempfile::tempdir().unwrap();
    let packs = Arc::new(LocalPacks::open(&folder.path().join("packs")).unwrap());
    let open = |name: &str| {
        let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::open(&folder.path().join(name)).unwrap());
        ChunkStore::open(packs.clone(), catalog, options(10_000)).unwrap()
    };
    let chunks: Vec<_> = (0..12).map(|seed| chunk(noise(seed, 2500))).collect();
    let (store, _) = open("first");
    for chunk in &chunks {
        store.store_blocking(batch(vec![chunk.clone()])).unwrap();
    }
    let counted = store.catalog().counts().unwrap().chunks;
    drop(store);
    let (store, report) = open("second");
    assert_eq!((report.adopted_chunks, report.cut_bytes, report.lost_chunks), (12, 0, 0));
    assert_eq!(store.catalog().counts().unwrap().chunks, counted);
    for chunk in &chunks {
        assert_eq!(store.read(&chunk.id).unwrap(), chunk.plain);
    }
}

#[test]
fn an_index_that_was_written_but_not_entered_is_entered() {
    let (packs, catalog, store) = in_memory(3_000);
    let chunks: Vec<_> = (0..4).map(|seed| chunk(noise(seed, 1000))).collect();
    store.store_blocking(batch(chunks[..1].to_vec())).unwrap();
    let before_seal = catalog.snapshot();
    store.store_blocking(batch(chunks[1..].to_vec())).unwrap();
    drop(store);
    assert!(matches!(catalog.packs().unwrap()[0].state, PackState::Sealed(_)));
    let catalog = Arc::new(before_seal);
    let (store, report) = open(&packs, &catalog, 3_000);
    assert_eq!(report.adopted_chunks, 3);
    assert!(matches!(catalog.packs().unwrap()[0].state, PackState::Sealed(_)));
    for chunk in &chunks {
        assert_eq!(store.read(&chunk.id).unwrap(), chunk.plain);
    }
}

#[test]
fn a_pack_of_a_newer_release_is_refused() {
    let (packs, catalog, store) = in_memory(1 << 20);
    store.store_blocking(batch(vec![chunk(noise(1, 10))])).unwrap();
    drop(store);
    packs.with_bytes(PackNumber(1), |bytes| bytes[4] = 9).unwrap();
    let opened = ChunkStore::open(packs, catalog, options(1 << 20));
    assert!(matches!(opened.err(), Some(OpenStoreError::Newer { found: 9, known: 1, .. })));
}

#[test]
fn files_that_were_lost_are_noticed() {
    let (packs, catalog, store) = in_memory(1 << 20);
    let chunks = [chunk(noise(1, 500)), chunk(noise(2, 500))];
    store.store_blocking(batch(chunks.to_vec())).unwrap();
    drop(store);
    packs.with_bytes(PackNumber(1), |bytes| bytes.truncate(700)).unwrap();
    let (store, report) = open(&packs, &catalog, 1 << 20);
    assert_eq!(report.lost_chunks, 1);
    assert_eq!(store.read(&chunks[0].id).unwrap(), chunks[0].plain);
    assert!(matches!(store.read(&chunks[1].id), Err(ReadError::Damaged { .. })));
    store.store_blocking(batch(chunks.to_vec())).unwrap();
    assert_eq!(store.read(&chunks[1].id).unwrap(), chunks[1].plain);
    drop(store);
    packs.delete(PackNumber(1)).unwrap();
    packs.sync_folder().unwrap();
    let (store, report) = open(&packs, &catalog, 1 << 20);
    assert_eq!(report.lost_chunks, 1, "the other one had been stored again elsewhere");
    store.store_blocking(batch(chunks.to_vec())).unwrap();
    assert_eq!(store.read(&chunks[0].id).unwrap(), chunks[0].plain);
}

/// A lost catalog, and a flipped bit at `byte` of the only pack: what is entered of `chunks`.
fn rebuilt_with_a_flipped_bit(packs: &MemoryPacks, chunks: &[NewChunk], byte: usize) -> (RecoveryReport, Vec<bool>) {
    let packs = Arc::new(packs.after_power_cut(|_, unsynced| unsynced, |_| true));
    packs.with_bytes(PackNumber(1), |bytes| bytes[byte] ^= 0x40).unwrap();
    let catalog = Arc::new(MemoryCatalog::new());
    let (store, report) = open(&packs, &catalog, 1 << 20);
    let whole: Vec<_> =
        chunks.iter().map(|chunk| store.read(&chunk.id).is_ok_and(|read| read == chunk.plain)).collect();
    store.store_blocking(batch(chunks.to_vec())).unwrap();
    for chunk in chunks {
        assert_eq!(store.read(&chunk.id).unwrap(), chunk.plain, "byte {byte}");
    }
    drop(store);
    let again = open(&packs, &catalog, 1 << 20).1;
    assert_eq!(again, RecoveryReport::default(), "byte {byte}: the second start finds nothing to do");
    (report, whole)
}

#[test]
fn a_damaged_byte_costs_no_chunk_but_its_own_when_the_catalog_is_lost() {
    let (packs, _, store) = in_memory(1 << 20);
    // The third chunk is a copy of a record, as a published pack would be.
    let inner = packs_of(&chunk(noise(7, 80)));
    let mut chunks: Vec<_> = (0..6).map(|seed| chunk(noise(seed, 90))).collect();
    chunks[2] = chunk(inner);
    store.store_blocking(batch(chunks.clone())).unwrap();
    drop(store);
    let whole_bytes = packs.list().unwrap()[0].bytes;
    let mut start = PACK_HEADER_BYTES;
    for (damaged, of) in chunks.iter().enumerate() {
        let end = start + RECORD_HEADER_BYTES + of.plain.len();
        for byte in start..end {
            let (report, whole) = rebuilt_with_a_flipped_bit(&packs, &chunks, byte);
            for (at, whole) in whole.into_iter().enumerate() {
                assert_eq!(whole, at != damaged, "chunk {at} with byte {byte} flipped");
            }
            let last = damaged + 1 == chunks.len();
            assert_eq!(report.cut_bytes, if last { (end - start) as u64 } else { 0 }, "byte {byte}");
            assert_eq!(report.damaged_bytes > 0, !last, "byte {byte}");
        }
        start = end;
    }
    assert_eq!(start as u64, whole_bytes);
    for byte in (0..PACK_HEADER_BYTES).filter(|byte| !(4..6).contains(byte)) {
        let (report, whole) = rebuilt_with_a_flipped_bit(&packs, &chunks, byte);
        assert!(whole.into_iter().all(|whole| whole), "byte {byte} of the pack's header");
        assert_eq!((report.cut_bytes, report.deleted_packs), (0, 0));
    }
}

/// The bytes of a pack that holds `chunk`.
fn packs_of(chunk: &NewChunk) -> Vec<u8> {
    let (packs, _, store) = in_memory(1 << 20);
    store.store_blocking(batch(vec![chunk.clone()])).unwrap();
    drop(store);
    let mut held = Vec::new();
    packs.with_bytes(PackNumber(1), |bytes| held.clone_from(bytes)).unwrap();
    held
}

#[test]
fn whole_records_behind_a_damaged_tail_are_kept_when_the_catalog_knows_less() {
    let (packs, catalog, store) = in_memory(1 << 20);
    let chunks: Vec<_> = (0..4).map(|seed| chunk(noise(seed, 300))).collect();
    store.store_blocking(batch(chunks[..1].to_vec())).unwrap();
    let before = Arc::new(catalog.snapshot());
    store.store_blocking(batch(chunks[1..].to_vec())).unwrap();
    drop(store);
    rot_header(&packs, location(&*catalog, &chunks[1].id).offset);
    let (store, report) = open(&packs, &before, 1 << 20);
    assert_eq!((report.adopted_chunks, report.cut_bytes, report.damaged_bytes), (2, 0, 364));
    for chunk in &chunks[2..] {
        assert_eq!(store.read(&chunk.id).unwrap(), chunk.plain);
    }
}

fn rot_header(packs: &MemoryPacks, record: u64) {
    packs.with_bytes(PackNumber(1), |bytes| bytes[record as usize + 20] ^= 0x01).unwrap();
}
