//! The cache over a real store: what waits for packs keeps nobody waiting who needs none of it.

use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::catalog::Principal;
use crate::config::Config;
use crate::core::Core;
use crate::daemon::{InitOptions, init, open};
use crate::store::{NewChunk, StoreBatch};

/// A core with chunks of these bytes.
fn core_with(folder: &std::path::Path, chunks: &[Bytes]) -> Arc<Core> {
    let options = InitOptions {
        folder: folder.join("data"),
        config_file: folder.join("core.toml"),
        name: "core".to_owned(),
        settings: Vec::new(),
    };
    init(&options).expect("made");
    let core = open(options.folder, Config::default()).expect("opened");
    let new = |plain: &Bytes| NewChunk { id: ChunkId::of(plain), plain: plain.clone(), frame: None };
    let chunks = chunks.iter().map(new).collect();
    let batch = StoreBatch { uploader: Principal::Core, pin_until: core.pin_until(), chunks };
    core.store.store_blocking(batch).expect("stored");
    core
}

#[test]
fn who_waits_for_packs_keeps_nobody_waiting_who_needs_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let all: Vec<Bytes> = (0..4u8).map(|number| Bytes::from(vec![number; 1000])).collect();
    let ids: Vec<ChunkId> = all.iter().map(|bytes| ChunkId::of(bytes)).collect();
    let core = core_with(folder.path(), &all);
    let cache = ResidentCache::new(core.store.clone(), 8 * BLOCK_BYTES as u64);
    runtime.block_on(async {
        cache.load(ids[0], 0..1, 1).await.expect("read");
        // Somebody reads as much as may be read at once.
        let busy = cache.reads.acquire_many(READS_MAX as u32).await.expect("open");
        let mut missed = Box::pin(cache.load(ids[1], 1..2, 2));
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut missed).await.is_err(), "it waits for its turn");
        let found = cache.look_up(&[(ids[0], 0..1), (ids[1], 1..2)], 1);
        assert!(found[0].is_some() && found[1].is_none());
        assert!(
            cache.load(ids[0], 0..1, 1).now_or_never().is_some_and(|loaded| loaded.is_ok()),
            "a hit waits for nothing"
        );
        drop(busy);
        missed.await.expect("read in its turn");
        // Reading ahead waits behind its own few, and leaves the others to misses.
        let ahead = cache.ahead.acquire_many(AHEAD_READS_MAX as u32).await.expect("open");
        let mut early = Box::pin(cache.load_ahead(ids[2], 2..3, 1, 1));
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut early).await.is_err());
        cache.load(ids[3], 3..4, 2).await.expect("a miss waits for nothing that is read ahead");
        drop(ahead);
        assert!(early.await && cache.knows(&ids[2]));
        assert_eq!(cache.stats(), CacheStats { hits: 1, misses: 1, ahead: 1 });
    });
}
