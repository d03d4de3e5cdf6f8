//! A training program for `edge-agent` in Rust with candle: a small convolutional network on images in `.npy` files. The device
//! needs no Python, and this is one file.
//!
//! A dataset's folder has `images.npy` (u8, n × 28 × 28 or n × 784) and `labels.npy` (u8, n). One of ten images is never learnt from,
//! but judged with. In `agent.toml`:
//!
//! ```toml
//! [training]
//! command = ["/opt/federated-cnn"]
//! datasets = ["pictures"]
//! ```
//!
//! `federated-cnn init model.safetensors` writes a model that knows nothing, for `core-node model publish`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::{
    Conv2d, Conv2dConfig, Linear, Module, Optimizer, SGD, VarBuilder, VarMap, conv2d, linear, loss::cross_entropy,
};
use serde::Deserialize;
use serde_json::json;

/// Pixels along an edge of an image.
const EDGE: usize = 28;
const CLASSES: usize = 10;
/// Images of a step.
const BATCH: usize = 32;
/// Of so many images in a row the last is judged with.
const STRETCH: usize = 10;

/// What `task.json` says, as far as this program asks.
#[derive(Deserialize)]
struct Task {
    kind: String,
    round: u64,
    model: PathBuf,
    config: Config,
    datasets: Vec<Dataset>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default = "learning_rate", rename = "learning-rate")]
    learning_rate: f64,
}

fn learning_rate() -> f64 {
    0.05
}

#[derive(Deserialize)]
struct Dataset {
    folder: PathBuf,
}

/// Two convolutions and a layer that is connected to everything.
struct Network {
    first: Conv2d,
    second: Conv2d,
    last: Linear,
}

impl Network {
    fn new(variables: &VarMap) -> candle_core::Result<Self> {
        let of = VarBuilder::from_varmap(variables, DType::F32, &Device::Cpu);
        let halving = Conv2dConfig { padding: 1, stride: 2, ..Conv2dConfig::default() };
        Ok(Self {
            first: conv2d(1, 8, 3, halving, of.pp("first"))?,
            second: conv2d(8, 16, 3, halving, of.pp("second"))?,
            last: linear(16 * (EDGE / 4) * (EDGE / 4), CLASSES, of.pp("last"))?,
        })
    }

    fn scores(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let maps = self.second.forward(&self.first.forward(images)?.relu()?)?.relu()?;
        self.last.forward(&maps.flatten_from(1)?)
    }
}

/// Images of n × 1 × 28 × 28 from 0 to 1, and their classes.
struct Pictures {
    images: Tensor,
    labels: Tensor,
}

impl Pictures {
    fn open(task: &Task) -> anyhow::Result<Self> {
        ensure!(!task.datasets.is_empty(), "the task names no dataset: `datasets` in `[training]` of agent.toml");
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for dataset in &task.datasets {
            let read = |name: &str| {
                let file = dataset.folder.join(name);
                Tensor::read_npy(&file).with_context(|| file.display().to_string())
            };
            images.push(read("images.npy")?.reshape(((), 1, EDGE, EDGE))?);
            labels.push(read("labels.npy")?);
        }
        let images = (Tensor::cat(&images, 0)?.to_dtype(DType::F32)? / 255.0)?;
        Ok(Self { images, labels: Tensor::cat(&labels, 0)?.to_dtype(DType::U32)? })
    }

    fn len(&self) -> usize {
        self.labels.elem_count()
    }

    fn take(&self, indices: &[u32]) -> candle_core::Result<(Tensor, Tensor)> {
        let indices = Tensor::new(indices, &Device::Cpu)?;
        Ok((self.images.index_select(&indices, 0)?, self.labels.index_select(&indices, 0)?))
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => run(),
        ["init", file] => {
            let variables = VarMap::new();
            Network::new(&variables)?;
            Ok(variables.save(file)?)
        }
        _ => bail!("usage: federated-cnn [init FILE]; without an argument, as a program of `edge-agent`"),
    }
}

/// Does what the task asks for.
fn run() -> anyhow::Result<()> {
    let folder = PathBuf::from(env::var_os("HEADWATER_TASK").context("`edge-agent` sets HEADWATER_TASK")?);
    let task = fs::read(folder.join("task.json")).context("there is no task")?;
    let task: Task = serde_json::from_slice(&task).context("the task can't be read")?;
    let mut variables = VarMap::new();
    let network = Network::new(&variables)?;
    variables.load(&task.model).context("the model is another than this program's: begin with `init`")?;
    let pictures = Pictures::open(&task)?;
    let (unknown, known): (Vec<u32>, Vec<u32>) =
        (0..pictures.len() as u32).partition(|index| *index as usize % STRETCH == STRETCH - 1);
    let is_training = task.kind == "train";
    if is_training {
        train(&network, &variables, &pictures, &known, &task)?;
        variables.save(folder.join("update.safetensors"))?;
    }
    let used = if is_training { known.len() } else { unknown.len() };
    report(&folder, used, accuracy(&network, &pictures, &unknown)?)
}

/// One epoch of stochastic gradient descent, in an order that the round draws.
fn train(
    network: &Network,
    variables: &VarMap,
    pictures: &Pictures,
    known: &[u32],
    task: &Task,
) -> anyhow::Result<()> {
    let mut optimiser = SGD::new(variables.all_vars(), task.config.learning_rate)?;
    let order = shuffled(known, task.round);
    let steps = order.len().div_ceil(BATCH);
    for (step, batch) in order.chunks(BATCH).enumerate() {
        let (images, labels) = pictures.take(batch)?;
        optimiser.backward_step(&cross_entropy(&network.scores(&images)?, &labels)?)?;
        if step % 10 == 9 {
            println!("{}", json!({ "step": step + 1, "steps": steps }));
        }
    }
    Ok(())
}

/// Fisher and Yates' shuffle, with splitmix64.
fn shuffled(indices: &[u32], seed: u64) -> Vec<u32> {
    let (mut order, mut state) = (indices.to_vec(), seed);
    for left in (1..order.len()).rev() {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut drawn = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        order.swap(left, ((drawn ^ (drawn >> 31)) % (left as u64 + 1)) as usize);
    }
    order
}

/// How much of the images is told right; 0 of none.
fn accuracy(network: &Network, pictures: &Pictures, indices: &[u32]) -> anyhow::Result<f64> {
    let mut right = 0.0;
    for batch in indices.chunks(8 * BATCH) {
        let (images, labels) = pictures.take(batch)?;
        let answers = network.scores(&images)?.argmax(D::Minus1)?;
        right += f64::from(answers.eq(&labels)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?);
    }
    Ok(right / indices.len().max(1) as f64)
}

fn report(folder: &Path, samples: usize, accuracy: f64) -> anyhow::Result<()> {
    let metrics = json!({ "samples": samples, "accuracy": accuracy });
    Ok(fs::write(folder.join("metrics.json"), metrics.to_string())?)
}
