//! Storing and reading: dedup, frames, rotation, full disks, many writers; and how fast it is.

use std::time::{Duration, Instant};

use super::super::chunk_store::block_on;
use super::*;
use crate::catalog::{SqliteCatalog, Upkeep};

#[test]
fn what_is_stored_is_read_back_and_stored_once() {
    let (_, catalog, store) = in_memory(1 << 20);
    let chunks = vec![chunk(noise(1, 5000)), chunk(vec![b'a'; 5000]), chunk(noise(1, 5000)), chunk(b"x".to_vec())];
    let stored = store.store_blocking(batch(chunks.clone())).unwrap();
    assert_eq!((stored.written_chunks, stored.known_chunks), (3, 1), "dedup within a batch");
    let again = store.store_blocking(batch(chunks.clone())).unwrap();
    assert_eq!((again.written_chunks, again.written_bytes, again.known_chunks), (0, 0, 4));
    for chunk in &chunks {
        assert_eq!(store.read(&chunk.id).unwrap(), chunk.plain);
    }
    let squeezed = store.read_stored(&chunks[1].id).unwrap();
    assert!(matches!(squeezed.body, StoredBody::Zstd(frame) if frame.len() < 100), "compressed where it pays");
    let plain = store.read_stored(&chunks[0].id).unwrap();
    assert_eq!(plain, StoredForm { plain_bytes: 5000, body: StoredBody::Plain(chunks[0].plain.clone()) });
    assert!(matches!(store.read(&ChunkId::of(b"never stored")), Err(ReadError::Missing(_))));
    assert_eq!(catalog.counts().unwrap().chunks.chunks, 3);
    assert_eq!(store.stats().written_chunks, 3);
}

#[test]
fn a_frame_is_stored_as_it_came() {
    let (_, _, store) = in_memory(1 << 20);
    let plain = vec![b'z'; 9000];
    let frame = Bytes::from(headwater_protocol::compress::compress(&plain, 19).unwrap());
    let sent = NewChunk { frame: Some(frame.clone()), ..chunk(plain.clone()) };
    store.store_blocking(batch(vec![sent.clone()])).unwrap();
    let rests = store.read_stored(&sent.id).unwrap();
    assert_eq!(rests, StoredForm { plain_bytes: 9000, body: StoredBody::Zstd(frame) });
    assert_eq!(store.read(&sent.id).unwrap(), plain);
}

#[test]
fn a_writer_that_broke_off_is_noticed() {
    let (_, _, store) = in_memory(1 << 20);
    assert!(store.is_writing());
    assert!(block_on(store.between_groups(|_| panic!("as a bug would"))).is_err());
    let begun = Instant::now();
    while store.is_writing() {
        assert!(begun.elapsed() < Duration::from_mins(1), "nobody notices");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(matches!(store.store_blocking(batch(vec![chunk(b"late".to_vec())])), Err(StoreError::Closed)));
}

#[test]
fn impossible_chunks_are_refused() {
    let (_, _, store) = in_memory(1 << 20);
    for bytes in [0, (1 << 20) + 1] {
        let refused = store.store_blocking(batch(vec![chunk(vec![1; bytes])]));
        assert!(matches!(refused, Err(StoreError::Length { .. })), "{bytes}");
    }
}

#[test]
fn full_packs_are_sealed_and_the_next_begun() {
    let (packs, catalog, store) = in_memory(20_000);
    let chunks: Vec<_> = (0..20).map(|seed| chunk(noise(seed, 3000))).collect();
    for chunk in &chunks {
        store.store_blocking(batch(vec![chunk.clone()])).unwrap();
    }
    drop(store);
    let records = catalog.packs().unwrap();
    assert_eq!(records.len(), 3);
    let sealed = |record: &crate::catalog::PackRecord| matches!(record.state, crate::catalog::PackState::Sealed(_));
    assert_eq!(records.iter().map(sealed).collect::<Vec<_>>(), [true, true, false]);
    let (store, report) = open(&packs, &catalog, 20_000);
    assert_eq!(report, RecoveryReport::default());
    for chunk in &chunks {
        assert_eq!(store.read(&chunk.id).unwrap(), chunk.plain);
    }
}

#[test]
fn a_full_disk_loses_nothing_and_passes() {
    let (packs, catalog, store) = in_memory(1 << 20);
    let before = chunk(noise(1, 4000));
    store.store_blocking(batch(vec![before.clone()])).unwrap();
    packs.set_capacity(Some(10_000));
    let too_much = vec![chunk(noise(2, 3000)), chunk(noise(3, 4000))];
    assert!(matches!(store.store_blocking(batch(too_much.clone())), Err(StoreError::Full)));
    assert_eq!(catalog.locate(&[too_much[0].id]).unwrap(), [None], "all of a batch or nothing");
    assert_eq!(store.read(&before.id).unwrap(), before.plain);
    let small = chunk(noise(4, 1000));
    store.store_blocking(batch(vec![small.clone()])).unwrap();
    packs.set_capacity(None);
    store.store_blocking(batch(too_much.clone())).unwrap();
    drop(store);
    let (store, report) = open(&packs, &catalog, 1 << 20);
    assert_eq!(report, RecoveryReport::default(), "no torn record was left behind");
    for chunk in too_much.iter().chain([&before, &small]) {
        assert_eq!(store.read(&chunk.id).unwrap(), chunk.plain);
    }
}

#[test]
fn a_failed_sync_costs_its_batch_and_its_pack() {
    let (packs, catalog, store) = in_memory(1 << 20);
    let first = chunk(noise(1, 1000));
    store.store_blocking(batch(vec![first.clone()])).unwrap();
    packs.fail_syncs(1);
    let second = chunk(noise(2, 1000));
    assert!(matches!(store.store_blocking(batch(vec![second.clone()])), Err(StoreError::Packs(_))));
    store.store_blocking(batch(vec![second.clone()])).unwrap();
    assert_ne!(location(&*catalog, &first.id).pack, location(&*catalog, &second.id).pack);
    drop(store);
    let survivors = Arc::new(packs.after_power_cut(|_, _| 0, |_| false));
    let store = open(&survivors, &catalog, 1 << 20).0;
    assert_eq!(store.read(&first.id).unwrap(), first.plain);
    assert_eq!(store.read(&second.id).unwrap(), second.plain);
}

#[test]
fn many_writers_share_groups() {
    let folder = tempfile::tempdir().unwrap();
    let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::open(&folder.path().join("catalog.sqlite")).unwrap());
    let packs = Arc::new(LocalPacks::open(&folder.path().join("packs")).unwrap());
    let store = Arc::new(ChunkStore::open(packs, Arc::clone(&catalog), options(300_000)).unwrap().0);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let mut writers = Vec::new();
        for writer in 0..20u64 {
            let store = Arc::clone(&store);
            writers.push(tokio::spawn(async move {
                for step in 0..10 {
                    // Every other chunk is everyone's.
                    let own = chunk(noise(1000 * (writer + 1) + step, 2000));
                    let shared = chunk(noise(step, 2000));
                    let ids = [own.id, shared.id];
                    store.store(batch(vec![own, shared])).await.unwrap();
                    let entries = store.catalog().locate(&ids).unwrap();
                    assert!(entries.iter().all(Option::is_some), "what is acknowledged is entered");
                }
            }));
        }
        for writer in writers {
            writer.await.unwrap();
        }
    });
    let stats = store.stats();
    assert_eq!((stats.written_chunks, stats.known_chunks), (210, 190));
    assert!(stats.groups < 200, "{} groups for 200 batches", stats.groups);
    let report = store.verify(&mut |_| true).unwrap();
    assert_eq!((report.chunks, report.damaged_count), (210, 0));
}

#[test]
#[ignore = "needs HEADWATER_SMALL_FOLDER, an empty file system of some 16 MiB; it is filled"]
fn a_small_file_system_fills_up_and_goes_on() {
    let folder = std::path::PathBuf::from(std::env::var_os("HEADWATER_SMALL_FOLDER").expect("it is named"));
    let open = || {
        let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::open(&folder.join("catalog.sqlite")).unwrap());
        let packs = Arc::new(LocalPacks::open(&folder.join("packs")).unwrap());
        ChunkStore::open(packs, catalog, options(4 << 20)).unwrap()
    };
    let ballast = folder.join("ballast");
    std::fs::write(&ballast, vec![1; 4 << 20]).unwrap();
    let (store, _) = open();
    let mut stored = Vec::new();
    let mut refused = 0;
    for seed in 0..2000 {
        // Small ones too, so that the catalog also meets the end.
        let new = chunk(noise(seed, if seed % 2 == 0 { 100_000 } else { 300 }));
        match store.store_blocking(batch(vec![new.clone()])) {
            Ok(_) => stored.push(new),
            Err(StoreError::Full) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 100 && stored.len() > 50, "{refused} refused, {} stored", stored.len());
    std::fs::remove_file(&ballast).unwrap();
    let late = chunk(noise(99_999, 100_000));
    store.store_blocking(batch(vec![late.clone()])).unwrap();
    stored.push(late);
    drop(store);
    let (store, report) = open();
    assert_eq!(report.lost_chunks, 0);
    for chunk in &stored {
        assert_eq!(store.read(&chunk.id).unwrap(), chunk.plain);
    }
}

#[test]
#[ignore = "measures throughput; run in release on a memory-backed folder"]
fn throughput() {
    let folder = std::env::var_os("HEADWATER_BENCH_FOLDER").map_or_else(|| "/dev/shm".into(), std::path::PathBuf::from);
    let folder = tempfile::tempdir_in(folder).unwrap();
    let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::open(&folder.path().join("catalog.sqlite")).unwrap());
    let packs = Arc::new(LocalPacks::open(&folder.path().join("packs")).unwrap());
    let (store, _) =
        ChunkStore::open(packs, catalog, ChunkStoreOptions { compress: false, ..Default::default() }).unwrap();
    // Few buffers that are used again and again, as in a session: the first touch of memory is slow.
    let noise = Arc::new(noise(1, 256 << 10));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let store = Arc::new(store);
    let started = Instant::now();
    runtime.block_on(async {
        let mut sessions = Vec::new();
        for session in 0..8u32 {
            let (store, noise) = (Arc::clone(&store), Arc::clone(&noise));
            sessions.push(tokio::spawn(async move {
                for round in 0..64u32 {
                    let chunks = (0..8u32).map(|number| {
                        let mut bytes = noise.to_vec();
                        bytes[..4].copy_from_slice(&((session * 64 + round) * 8 + number).to_le_bytes());
                        chunk(bytes)
                    });
                    store.store(batch(chunks.collect())).await.unwrap();
                }
            }));
        }
        for session in sessions {
            session.await.unwrap();
        }
    });
    let spent = started.elapsed().max(Duration::from_nanos(1));
    println!("{:.0} MB/s, {:?}", 1024.0 * 1.048_576 / spent.as_secs_f64(), store.stats());
}
