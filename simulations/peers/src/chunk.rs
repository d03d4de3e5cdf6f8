//! Cutting and hashing on one thread, in memory: what a scan can't beat per core.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use fastcdc::v2020::FastCDC;
use serde_json::{Value, json};

/// The same parameters as Headwater's defaults.
const MIN_BYTES: usize = 64 << 10;
const AVERAGE_BYTES: usize = 256 << 10;
const MAX_BYTES: usize = 1 << 20;

/// Cuts and hashes `file`'s bytes; reading them is not counted.
pub(crate) fn measure(file: &Path) -> anyhow::Result<Value> {
    let bytes = std::fs::read(file).with_context(|| format!("{} can't be read", file.display()))?;
    let start = Instant::now();
    let mut chunks = 0u64;
    let mut folded = 0u8;
    for chunk in FastCDC::new(&bytes, MIN_BYTES, AVERAGE_BYTES, MAX_BYTES) {
        let id = blake3::hash(&bytes[chunk.offset..chunk.offset + chunk.length]);
        folded ^= id.as_bytes()[0];
        chunks += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({ "bytes": bytes.len(), "chunks": chunks, "seconds": seconds, "folded": folded }))
}
