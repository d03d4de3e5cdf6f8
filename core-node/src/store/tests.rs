//! Tests of the store as a whole: durability, recovery, damage, full disks, many writers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater_protocol::id::{ChunkId, PublicKey};

use super::*;
use crate::catalog::{Catalog, Principal, SqliteCatalog, UnixMs};

fn chunk(bytes: impl Into<Vec<u8>>) -> NewChunk {
    let plain = Bytes::from(bytes.into());
    NewChunk { id: ChunkId::of(&plain), plain, frame: None }
}

fn batch(chunks: Vec<NewChunk>) -> StoreBatch {
    StoreBatch { uploader: Principal::Device(PublicKey([7; 32])), pin_until: UnixMs(1_000), chunks }
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
    let mut noise = vec![0u8; 256 << 10];
    let mut state = 1u64;
    for byte in &mut noise {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 33) as u8;
    }
    let batches: Vec<_> = (0..256u32)
        .map(|batch_number| {
            let chunks = (0..16u32).map(|number| {
                let mut bytes = noise.clone();
                bytes[..4].copy_from_slice(&(batch_number * 16 + number).to_le_bytes());
                chunk(bytes)
            });
            batch(chunks.collect())
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let store = Arc::new(store);
    let started = Instant::now();
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for batch in batches {
            let store = Arc::clone(&store);
            tasks.push(tokio::spawn(async move { store.store(batch).await.unwrap() }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    let spent = started.elapsed().max(Duration::from_nanos(1));
    println!("{:.0} MB/s, {:?}", 1024.0 * 1.048_576 / spent.as_secs_f64(), store.stats());
}
