//! `bench`: how fast samples come, from the core's memory if they fit.

use std::time::Duration;

use headwater_host::config::HumanBytes;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::order::{Reading, Shuffle};
use headwater_quic::work;
use serde_json::json;
use tokio::time::Instant;

use super::{line, say, transport};
use crate::{Client, Dataset};

/// What is to be measured.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) sessions: u16,
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

impl Came {
    fn rate(&self, of: fn(&Self) -> u64) -> f64 {
        of(self) as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

pub(super) async fn run(client: &Client, name: &str, load: &Load, json: bool) -> Result<(), CodedError> {
    if load.batch == 0 {
        return Err(CodedError::new(&codes::USAGE, "a batch has one sample at least"));
    }
    let mut sessions = Vec::new();
    for number in 0..load.sessions {
        let client = if number == 0 { client.clone() } else { client.another().await? };
        sessions.push((client.dataset(name).await?, client));
    }
    let cold = at_once(&sessions, load, Pass::First).await?;
    let warm = at_once(&sessions, load, Pass::After).await?;
    for (what, came) in [("first pass", &cold), ("after it", &warm)] {
        let rate = |of: fn(&Came) -> u64| came.iter().map(|one| one.rate(of)).sum::<f64>();
        let (samples_s, bytes_s) = (rate(|came| came.samples), rate(|came| came.bytes));
        let of_sessions: Vec<_> = came.iter().map(|one| one.rate(|came| came.bytes)).collect();
        let document = json!({
            "what": what, "samples": came.iter().map(|came| came.samples).sum::<u64>(),
            "bytes": came.iter().map(|came| came.bytes).sum::<u64>(), "samples_per_s": samples_s,
            "bytes_per_s": bytes_s, "bytes_per_s_of_sessions": of_sessions,
        });
        let slowest = of_sessions.iter().copied().fold(f64::INFINITY, f64::min);
        let spread = match came.len() {
            0 | 1 => String::new(),
            sessions => format!("  the slowest of {sessions}: {}/s", HumanBytes(slowest as u64)),
        };
        let bytes = HumanBytes(bytes_s as u64).to_string();
        say(json, &document, &format!("{what:<10}  {samples_s:>12.0} samples/s  {bytes:>10}/s{spread}"))?;
    }
    let stats = client.stats().await;
    let document = json!({
        "transport": stats.transport, "transport_reason": stats.transport_reason, "mismatches": stats.mismatches,
    });
    let said = format!("over {}, {} mismatches", transport(&stats), stats.mismatches);
    say(json, &document, &said)?;
    if let (Some("rdma"), Ok(device)) = (stats.transport, client.rdma()) {
        let bytes_s = warm.iter().map(|one| one.rate(|came| came.bytes)).sum();
        line::compare(&device, bytes_s, json).await?;
    }
    Ok(())
}

/// Which reads are measured.
#[derive(Clone, Copy)]
enum Pass {
    /// Those of an epoch, or as much of it as there is time for.
    First,
    /// Those of the epochs after it.
    After,
}

/// What came to each session while all of them read.
async fn at_once(sessions: &[(Dataset, Client)], load: &Load, pass: Pass) -> Result<Vec<Came>, CodedError> {
    let tasks: Vec<_> = sessions
        .iter()
        .enumerate()
        .map(|(seed, (dataset, _))| work::spawn(one(dataset.clone(), load.clone(), pass, seed as u64)))
        .collect();
    let mut came = Vec::new();
    for task in tasks {
        let broken = |error| CodedError::new(&codes::INTERNAL, "a session broke off").with_source(error);
        came.push(task.await.map_err(broken)??);
    }
    Ok(came)
}

async fn one(dataset: Dataset, load: Load, pass: Pass, seed: u64) -> Result<Came, CodedError> {
    let limit = Duration::from_secs(load.seconds);
    if matches!(pass, Pass::First) {
        return epoch(&dataset, &load, seed, 0, limit).await;
    }
    let mut all = Came::default();
    let mut number = 1;
    while all.took < limit && !dataset.is_empty() {
        let more = epoch(&dataset, &load, seed, number, limit.saturating_sub(all.took)).await?;
        all = Came { samples: all.samples + more.samples, bytes: all.bytes + more.bytes, took: all.took + more.took };
        number += 1;
    }
    Ok(all)
}

async fn epoch(dataset: &Dataset, load: &Load, seed: u64, number: u64, limit: Duration) -> Result<Came, CodedError> {
    let shuffle = if load.in_order { Shuffle::None } else { Shuffle::Full };
    let batch = u32::try_from(load.batch).unwrap_or(u32::MAX);
    let reading = Reading { seed, epoch: number, shuffle, batch, ..Reading::default() };
    let mut came = Came::default();
    let began = Instant::now();
    let mut batches = dataset.read_in_order(&reading, load.ahead).await?;
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
