//! Plain writes and one fdatasync: what storing can't beat on this disk.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::{Value, json};

const BUFFER_BYTES: usize = 1 << 20;

/// Writes the bytes of `file` into a new file `to`, and syncs it; reading them is not counted. The file is removed.
pub(crate) fn measure(file: &Path, to: &Path) -> anyhow::Result<Value> {
    let bytes = std::fs::read(file).with_context(|| format!("{} can't be read", file.display()))?;
    let start = Instant::now();
    let mut written = File::create_new(to).with_context(|| format!("{} can't be made", to.display()))?;
    for part in bytes.chunks(BUFFER_BYTES) {
        written.write_all(part)?;
    }
    written.sync_data()?;
    let seconds = start.elapsed().as_secs_f64();
    std::fs::remove_file(to)?;
    Ok(json!({ "bytes": bytes.len(), "seconds": seconds }))
}
