//! What a bare quinn server needs for each connection that does nothing.

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::bare_quinn::{client, connect, server};

/// Opens `connections` connections from a child process' worth of endpoints and reads our own memory before and after.
///
/// Server and clients share this process; so the figure is that of both ends, and half of it is reported for one.
pub(crate) fn measure(connections: usize) -> anyhow::Result<Value> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (endpoint, address, config) = server()?;
        let accepted = tokio::spawn(async move {
            let mut held = Vec::new();
            while held.len() < connections {
                held.push(endpoint.accept().await.context("the endpoint is closed")?.await?);
            }
            anyhow::Ok((held, endpoint))
        });
        let client = client(config)?;
        let before = resident_bytes()?;
        let mut held = Vec::new();
        for _ in 0..connections {
            held.push(connect(&client, address).await?);
        }
        let _servers = accepted.await??;
        let bytes = resident_bytes()?.saturating_sub(before);
        Ok(json!({ "connections": connections, "bytes_both_ends": bytes, "bytes_per_end": bytes / (2 * connections as u64) }))
    })
}

/// Resident memory of this process.
fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS in /proc/self/status")?;
    let kibibytes: u64 = line.split_whitespace().nth(1).context("VmRSS has no value")?.parse()?;
    Ok(kibibytes * 1024)
}
