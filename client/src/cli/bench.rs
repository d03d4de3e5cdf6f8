//! `bench`: how fast samples come, from the core's memory if they fit.

use std::time::Duration;

use headwater_host::config::HumanBytes;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::order::{Reading, Shuffle};
use serde_json::json;
use tokio::time::Instant;

use super::say;
use crate::{Client, Dataset};

/// What is to be measured.
pub(super) struct Load {
    pub(super) batch: u64,
    pub(super) ahead: usize,
    pub(super) seconds: u64,
    pub(super) in_order: bool,
}

/// What came.
#[derive(Default)]
struct Came {
    samples: u64,
    bytes: u64,
    took: Duration,
}

pub(super) async fn run(client: &Client, name: &str, load: &Load, json: bool) -> Result<(), CodedError> {
    if load.batch == 0 {
        return Err(CodedError::new(&codes::USAGE, "a batch has one sample at least"));
    }
    let dataset = client.dataset(name).await?;
    let limit = Duration::from_secs(load.seconds);
    let cold = epoch(&dataset, load, 0, limit).await?;
    let mut warm = Came::default();
    let mut number = 1;
    while warm.took < limit && !dataset.is_empty() {
        let more = epoch(&dataset, load, number, limit.saturating_sub(warm.took)).await?;
        warm =
            Came { samples: warm.samples + more.samples, bytes: warm.bytes + more.bytes, took: warm.took + more.took };
        number += 1;
    }
    for (what, came) in [("first pass", &cold), ("after it", &warm)] {
        let seconds = came.took.as_secs_f64().max(1e-9);
        let (samples_s, bytes_s) = (came.samples as f64 / seconds, came.bytes as f64 / seconds);
        let document = json!({
            "what": what, "samples": came.samples, "bytes": came.bytes, "seconds": seconds,
            "samples_per_s": samples_s, "bytes_per_s": bytes_s,
        });
        let said = format!("{what:<10}  {samples_s:>12.0} samples/s  {:>10}/s", HumanBytes(bytes_s as u64).to_string());
        say(json, &document, &said)?;
    }
    let stats = client.stats().await;
    let document = json!({ "transport": stats.transport, "mismatches": stats.mismatches });
    say(json, &document, &format!("over {}, {} mismatches", stats.transport.unwrap_or("none"), stats.mismatches))
}

async fn epoch(dataset: &Dataset, load: &Load, number: u64, limit: Duration) -> Result<Came, CodedError> {
    let shuffle = if load.in_order { Shuffle::None } else { Shuffle::Full };
    let batch = u32::try_from(load.batch).unwrap_or(u32::MAX);
    let reading = Reading { epoch: number, shuffle, batch, ..Reading::default() };
    let mut batches = dataset.read_in_order(&reading, load.ahead).await?;
    let mut came = Came::default();
    let began = Instant::now();
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        came.samples += batch.len() as u64;
        came.bytes += batch.bytes() as u64;
        if began.elapsed() >= limit {
            break;
        }
    }
    came.took = began.elapsed();
    Ok(came)
}
