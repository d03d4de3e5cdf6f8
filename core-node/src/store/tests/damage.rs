//! Bytes that rot: found, set aside, named, and healed by storing them again.

use super::*;
use crate::catalog::{DatasetTable, PackNumber};

/// Flips a bit of the chunk's stored bytes.
fn rot(packs: &MemoryPacks, catalog: &dyn Catalog, id: &ChunkId) {
    let at = location(catalog, id);
    let byte = at.offset as usize + format_header_bytes() + at.stored_bytes as usize / 2;
    packs.with_bytes(at.pack, |bytes| bytes[byte] ^= 0x10).unwrap();
}

const fn format_header_bytes() -> usize {
    crate::store::format::RECORD_HEADER_BYTES
}

#[test]
fn a_damaged_chunk_is_set_aside_and_replaced() {
    let (packs, catalog, store) = in_memory(1 << 20);
    let chunks = [chunk(noise(1, 700)), chunk(vec![b'c'; 70_000])];
    store.store_blocking(batch(chunks.to_vec())).unwrap();
    for chunk in &chunks {
        rot(&packs, &*catalog, &chunk.id);
        assert!(matches!(store.read(&chunk.id), Err(ReadError::Damaged { id, .. }) if id == chunk.id));
        assert!(catalog.locate(&[chunk.id]).unwrap()[0].unwrap().damaged);
        assert!(matches!(store.read(&chunk.id), Err(ReadError::Damaged { .. })));
        let stored = store.store_blocking(batch(vec![chunk.clone()])).unwrap();
        assert_eq!(stored.written_chunks, 1, "a damaged chunk is written again");
        assert_eq!(store.read(&chunk.id).unwrap(), chunk.plain);
    }
    assert_eq!(store.stats().damaged_chunks, 2);
}

#[test]
fn verify_finds_every_damaged_byte() {
    let (packs, catalog, store) = in_memory(2_000);
    let chunks: Vec<_> = (0..6).map(|seed| chunk(noise(seed, 500))).collect();
    for chunk in &chunks {
        store.store_blocking(batch(vec![chunk.clone()])).unwrap();
    }
    let clean = store.verify(&mut |_| true).unwrap();
    assert_eq!((clean.chunks, clean.bytes, clean.damaged_count), (6, 3000, 0));
    let victim = location(&*catalog, &chunks[2].id);
    let record = victim.offset as usize..victim.offset as usize + format_header_bytes() + 500;
    for byte in record.step_by(13) {
        packs.with_bytes(victim.pack, |bytes| bytes[byte] ^= 0x01).unwrap();
        let found = store.verify(&mut |_| true).unwrap();
        let named: Vec<_> = found.damaged.iter().map(|chunk| chunk.id).collect();
        assert_eq!((found.damaged_count, named), (1, vec![chunks[2].id]), "byte {byte}");
        packs.with_bytes(victim.pack, |bytes| bytes[byte] ^= 0x01).unwrap();
        assert_eq!(store.verify(&mut |_| true).unwrap().healed, 1, "byte {byte}");
    }
    let stopped = store.verify(&mut |progress| progress.chunks < 2).unwrap();
    assert!(stopped.stopped);
    assert_eq!(stopped.chunks, 2);
    packs.with_bytes(PackNumber(1), |bytes| *bytes.last_mut().unwrap() ^= 1).unwrap();
    let found = store.verify(&mut |_| true).unwrap();
    assert_eq!((found.indexes_damaged, found.damaged_count), (vec![PackNumber(1)], 0));
}

#[test]
fn the_versions_that_miss_bytes_are_named() {
    let (packs, catalog, store) = in_memory(1 << 20);
    let datasets = super::collecting::Datasets::new(&store);
    let cam = datasets.dataset("cam");
    let files: Vec<_> = (0..40).map(|seed| noise(seed, 300)).collect();
    let first = datasets.commit(cam, &files[..30]);
    let second = datasets.commit(cam, &files);
    let other = datasets.dataset("other");
    datasets.commit(other, &files[..5]);
    let victim = ChunkId::of(&files[35]);
    rot(&packs, &*catalog, &victim);
    let report = store.verify(&mut |_| true).unwrap();
    let affected: Vec<_> = report
        .affected
        .iter()
        .map(|version| (version.dataset.as_str(), version.number, &version.damaged[..]))
        .collect();
    assert_eq!(affected, [("cam", 2, &[victim][..])]);
    assert_eq!(store.damaged_below(first).unwrap(), []);
    assert_eq!(store.damaged_below(second).unwrap(), [victim]);
    store.store_blocking(batch(vec![chunk(files[35].clone())])).unwrap();
    assert_eq!(store.damaged_below(second).unwrap(), []);
    assert_eq!(catalog.dataset("cam").unwrap().unwrap().head.unwrap().number, 2);

    rot(&packs, &*catalog, &first);
    let report = store.verify(&mut |_| true).unwrap();
    assert!(
        report.affected.iter().any(|version| version.number == 1 && version.damaged == [first]),
        "a page counts too"
    );
}
