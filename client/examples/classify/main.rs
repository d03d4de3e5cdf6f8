//! A training job in Rust: it reads images with labels from a core, and can be killed and resumed by any number of ranks.
//!
//! ```console
//! $ export HEADWATER_TOKEN_FILE=~/reader-token
//! $ cargo run --example classify -- read cameras@latest --state position.json
//! $ cargo run --example classify -- train cameras@latest --epochs 3
//! ```
//!
//! As the program of a device that takes part in federated runs it needs no core:
//!
//! ```toml
//! [training]
//! command = ["/opt/classify", "federated"]
//! datasets = ["pictures"]
//! ```
//!
//! A sample is a grey PNG file and a JSON file with the member `label`, which share a stem.

mod federated;
mod images;
mod model;
mod state;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use headwater_client::order::{Reading, Remainder};
use headwater_client::{Batch, Client, Dataset, Options};
use model::Model;
use serde_json::json;
use state::State;

/// Samples of a batch that is learnt from.
const BATCH: u32 = 128;
/// Batches that are under way at once.
const AHEAD: usize = 4;
/// Of so many samples in a row, the last [`HELD_OUT`] are not trained on, but tested with.
const STRETCH: u64 = 1000;
const HELD_OUT: u64 = 100;

#[derive(Parser)]
#[command(about = "Reads images with labels from a core, and learns to tell them apart")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Reads one rank's part of an epoch, in random order
    Read(Read),
    /// Trains a classifier, and says how well it does on samples that it was not trained on
    Train {
        /// Which version or collection, as `cameras@latest`
        dataset: String,
        /// How often each sample is read
        #[arg(long, default_value_t = 3)]
        epochs: u64,
    },
    /// Does a task of a federated run on this device, as a program of `edge-agent`
    Federated,
    /// Writes a model that knows nothing, for `core-node model publish`
    Init {
        /// The file
        file: PathBuf,
        /// Pixels of an image
        #[arg(long, default_value_t = 784)]
        pixels: usize,
    },
}

#[derive(Args)]
struct Read {
    /// Which version or collection, as `cameras@latest`
    dataset: String,
    /// Goes on where this file says, and without one at the beginning
    #[arg(long)]
    resume: Option<PathBuf>,
    /// After each batch, the position is written to this file
    #[arg(long)]
    state: Option<PathBuf>,
    /// The numbers of the samples that came go to this file, one a line
    #[arg(long)]
    seen: Option<PathBuf>,
    /// Samples of a batch
    #[arg(long, default_value_t = BATCH)]
    batch: u32,
    /// How long a step of training takes after each batch, in microseconds
    #[arg(long, default_value_t = 0)]
    step_us: u64,
    /// Which rank this is
    #[arg(long, default_value_t = 0)]
    rank: u64,
    /// How many ranks there are
    #[arg(long, default_value = "1")]
    world_size: NonZeroU64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let command = match Cli::parse().command {
        Command::Federated => return federated::run(),
        Command::Init { file, pixels } => return federated::init(pixels, &file),
        command => command,
    };
    let client = Client::connect(Options::from_environment()?).await?;
    match command {
        Command::Read(arguments) => read(&client, &arguments).await?,
        Command::Train { dataset, epochs } => train(&client, &dataset, epochs).await?,
        Command::Federated | Command::Init { .. } => {}
    }
    client.close().await;
    Ok(())
}

async fn read(client: &Client, arguments: &Read) -> anyhow::Result<()> {
    let dataset = client.dataset(&arguments.dataset).await?;
    let start = match &arguments.resume {
        Some(path) => State::load(path)?.position_in(&dataset)?,
        None => 0,
    };
    let reading = Reading {
        batch: arguments.batch,
        start,
        rank: arguments.rank,
        world_size: arguments.world_size,
        remainder: Remainder::Uneven,
        ..Reading::default()
    };
    let course = dataset.declare(&reading).await?;
    let mut batches = dataset.batches(course.clone().into_batches(), AHEAD);
    let mut seen = arguments.seen.as_ref().map(File::create).transpose()?.map(BufWriter::new);
    let mut received = 0;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        received += batch.len() as u64;
        if let Some(seen) = &mut seen {
            for number in batch.numbers() {
                writeln!(seen, "{number}")?;
            }
            seen.flush()?;
        }
        tokio::time::sleep(Duration::from_micros(arguments.step_us)).await;
        // Only now: what the state counts was received by whoever learns from it.
        if let Some(path) = &arguments.state {
            State::of(&dataset, course.resume_at(received)).save(path)?;
        }
    }
    let stats = client.stats().await;
    say(&json!({
        "samples": received,
        "bytes": stats.bytes,
        "transport": stats.transport,
        "why_not_rdma": stats.transport_reason,
    }))
}

async fn train(client: &Client, name: &str, epochs: u64) -> anyhow::Result<()> {
    let dataset = client.dataset(name).await?;
    let samples = dataset.len();
    let stretches = (0..samples).step_by(STRETCH as usize);
    let known = |start: u64| start..(start + STRETCH - HELD_OUT).min(samples);
    let unknown = |start: u64| known(start).end..(start + STRETCH).min(samples);
    let mut model: Option<Model> = None;
    for epoch in 0..epochs {
        let kept = stretches.clone().map(known).collect();
        let reading = Reading { epoch, kept, batch: BATCH, ..Reading::default() };
        let mut batches = dataset.read_in_order(&reading, AHEAD).await?;
        let rate = model::rate(epoch, epochs);
        while let Some(batch) = batches.next().await {
            let (pixels, labels) = decoded(&batch?)?;
            model.get_or_insert_with(|| Model::new(pixels.ncols())).learn(&pixels, &labels, rate);
        }
    }
    let model = model.context("there is nothing to learn from")?;
    let (right, tested) =
        test(&dataset, &model, stretches.map(unknown).filter(|run| !run.is_empty()).collect()).await?;
    say(&json!({ "accuracy": right as f64 / tested.max(1) as f64, "tested": tested, "epochs": epochs }))
}

async fn test(dataset: &Dataset, model: &Model, kept: Vec<std::ops::Range<u64>>) -> anyhow::Result<(usize, usize)> {
    let mut batches = dataset.read_in_order(&Reading { kept, batch: BATCH, ..Reading::default() }, AHEAD).await?;
    let (mut right, mut tested) = (0, 0);
    while let Some(batch) = batches.next().await {
        let (pixels, labels) = decoded(&batch?)?;
        tested += labels.len();
        right += model.answers(&pixels).iter().zip(&labels).filter(|(answer, label)| answer == label).count();
    }
    Ok((right, tested))
}

/// The images of a batch, a row each, and their labels.
fn decoded(batch: &Batch) -> anyhow::Result<(ndarray::Array2<f32>, Vec<usize>)> {
    let mut rows = Vec::new();
    let mut labels = Vec::with_capacity(batch.len());
    for sample in batch.samples() {
        let sample = sample?;
        let field = |name| sample.field(name).with_context(|| format!("sample {} has no `{name}`", sample.number()));
        images::pixels(field(".png")?.bytes, &mut rows)?;
        labels.push(images::label(field(".json")?.bytes)?);
    }
    let width = rows.len() / labels.len().max(1);
    let pixels = ndarray::Array2::from_shape_vec((labels.len(), width), rows).context("images of different sizes")?;
    Ok((pixels, labels))
}

fn say(document: &serde_json::Value) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{document}")?)
}
