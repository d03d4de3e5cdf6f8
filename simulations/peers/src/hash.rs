//! Reading and hashing files on all cores: what whoever works on them can't beat.

use std::fs::File;
use std::io::Read as _;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::{Value, json};

/// Bytes that are read at once.
const PIECE_BYTES: usize = 1 << 20;

/// Reads and hashes `files`, each on one thread.
pub(crate) fn measure(files: &[PathBuf]) -> anyhow::Result<Value> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let work = || -> anyhow::Result<u64> {
        let mut bytes = 0;
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            bytes += hash(file).with_context(|| format!("{} can't be read", file.display()))?;
        }
        Ok(bytes)
    };
    let bytes = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().expect("reading does not panic")).sum::<anyhow::Result<u64>>()
    })?;
    Ok(json!({ "bytes": bytes, "seconds": start.elapsed().as_secs_f64(), "threads": threads }))
}

fn hash(file: &Path) -> anyhow::Result<u64> {
    let mut file = File::open(file)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut hasher = blake3::Hasher::new();
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.count()),
            count => hasher.update(&piece[..count]),
        };
    }
}
