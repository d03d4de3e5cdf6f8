//! The same classifier, trained where its images are: a program for `edge-agent`'s `[training]`.
//!
//! It finds a model and a task in the folder that `HEADWATER_TASK` names, learns from the images of the datasets that the task
//! names, and leaves the model there; or it judges the model, where that is what it is asked for. One of ten images is never
//! learnt from, but judged with.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use headwater_protocol::tensors::{Dtype, Layout, Tensor};
use ndarray::Array2;
use serde::Deserialize;
use serde_json::json;

use crate::images;
use crate::model::{self, Layer, Model};

/// Images of a step.
const BATCH: usize = 32;
/// Of so many images in a row the last is judged with.
const STRETCH: usize = 10;

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
    /// Most images that are learnt from.
    #[serde(default = "max_images")]
    max_images: usize,
    #[serde(default = "epochs")]
    epochs: u64,
}

fn max_images() -> usize {
    2000
}

fn epochs() -> u64 {
    2
}

#[derive(Deserialize)]
struct Dataset {
    folder: PathBuf,
}

/// Does what the task asks for.
pub(crate) fn run() -> anyhow::Result<()> {
    let folder = PathBuf::from(std::env::var_os("HEADWATER_TASK").context("`edge-agent` sets HEADWATER_TASK")?);
    let task = fs::read(folder.join("task.json")).context("there is no task")?;
    let task: Task = serde_json::from_slice(&task).context("the task can't be read")?;
    let mut network = load(&task.model)?;
    let (known, unknown) = images_of(&task)?;
    if task.kind == "train" {
        let steps = task.config.epochs * known.labels.len().div_ceil(BATCH) as u64;
        let mut step = 0;
        for epoch in 0..task.config.epochs {
            for batch in known.batches(task.round * task.config.epochs + epoch) {
                let (pixels, labels) = known.take(&batch)?;
                network.learn(&pixels, &labels, model::RATE / 4.0);
                step += 1;
            }
            writeln!(std::io::stdout(), "{}", json!({ "step": step, "steps": steps }))?;
        }
        save(&network, &folder.join("update.safetensors"))?;
    }
    let all: Vec<usize> = (0..unknown.labels.len()).collect();
    let (pixels, labels) = unknown.take(&all)?;
    let right = network.answers(&pixels).iter().zip(&labels).filter(|(answer, label)| answer == label).count();
    let samples = if task.kind == "train" { known.labels.len() } else { labels.len() };
    let metrics = json!({ "samples": samples, "accuracy": right as f64 / labels.len().max(1) as f64 });
    Ok(fs::write(folder.join("metrics.json"), metrics.to_string())?)
}

/// Writes a model that knows nothing.
pub(crate) fn init(pixels: usize, path: &Path) -> anyhow::Result<()> {
    save(&Model::new(pixels), path)
}

/// Images and their labels.
#[derive(Default)]
struct Images {
    pixels: Vec<f32>,
    labels: Vec<usize>,
}

impl Images {
    fn add(&mut self, image: &Path, label: &Path) -> anyhow::Result<()> {
        images::pixels(&fs::read(image)?, &mut self.pixels)?;
        self.labels.push(images::label(&fs::read(label)?)?);
        Ok(())
    }

    /// All images in an order that `seed` draws, by the batch.
    fn batches(&self, seed: u64) -> Vec<Vec<usize>> {
        let lot = |index: usize| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&seed.to_le_bytes()).update(&(index as u64).to_le_bytes());
            *hasher.finalize().as_bytes()
        };
        let mut order: Vec<usize> = (0..self.labels.len()).collect();
        order.sort_by_cached_key(|index| lot(*index));
        order.chunks(BATCH).map(<[usize]>::to_vec).collect()
    }

    fn take(&self, indices: &[usize]) -> anyhow::Result<(Array2<f32>, Vec<usize>)> {
        let width = self.pixels.len() / self.labels.len().max(1);
        let rows = indices.iter().flat_map(|index| &self.pixels[index * width..(index + 1) * width]).copied().collect();
        let labels = indices.iter().map(|index| self.labels[*index]).collect();
        Ok((Array2::from_shape_vec((indices.len(), width), rows).context("images of different sizes")?, labels))
    }
}

/// Images to learn from and images to judge with: as many as there may be, spread over all that there are.
fn images_of(task: &Task) -> anyhow::Result<(Images, Images)> {
    let mut pairs = Vec::new();
    for dataset in &task.datasets {
        find(&dataset.folder, &mut pairs)?;
    }
    pairs.sort();
    if pairs.is_empty() {
        bail!("the datasets have no PNG image with a JSON label beside it");
    }
    let every = pairs.len().div_ceil(task.config.max_images.max(1)).max(1);
    let (mut known, mut unknown) = (Images::default(), Images::default());
    for (index, (image, label)) in pairs.iter().step_by(every).enumerate() {
        let to = if index % STRETCH == STRETCH - 1 { &mut unknown } else { &mut known };
        to.add(image, label).with_context(|| image.display().to_string())?;
    }
    Ok((known, unknown))
}

fn find(folder: &Path, pairs: &mut Vec<(PathBuf, PathBuf)>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let label = path.with_extension("json");
        if path.is_dir() {
            find(&path, pairs)?;
        } else if path.extension().is_some_and(|extension| extension == "png") && label.exists() {
            pairs.push((path, label));
        }
    }
    Ok(())
}

const TENSORS: [&str; 4] = ["first.bias", "first.weight", "second.bias", "second.weight"];

fn load(path: &Path) -> anyhow::Result<Model> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let layout = Layout::of(&bytes)?;
    let tensor = |name: &str| -> anyhow::Result<(Vec<usize>, Vec<f32>)> {
        let tensor = layout.find(name).with_context(|| format!("the model has no tensor `{name}`"))?;
        let range = layout.place(tensor, 0..tensor.elements());
        let mut values = vec![0.0; tensor.elements() as usize];
        tensor.dtype.floats(&bytes[range.start as usize..range.end as usize], &mut values);
        Ok((tensor.shape.iter().map(|dimension| *dimension as usize).collect(), values))
    };
    let layer = |bias: &str, weight: &str| -> anyhow::Result<Layer> {
        let ((_, bias), (shape, weights)) = (tensor(bias)?, tensor(weight)?);
        let [inputs, outputs] = shape[..] else { bail!("`{weight}` is no matrix") };
        Ok(Layer::of(Array2::from_shape_vec((inputs, outputs), weights)?, bias.into()))
    };
    let [first_bias, first_weight, second_bias, second_weight] = TENSORS;
    Ok(Model { first: layer(first_bias, first_weight)?, second: layer(second_bias, second_weight)? })
}

fn save(model: &Model, path: &Path) -> anyhow::Result<()> {
    let parts = [
        (vec![model.first.bias.len() as u64], model.first.bias.iter().copied().collect::<Vec<f32>>()),
        (shape(&model.first.weights), model.first.weights.iter().copied().collect()),
        (vec![model.second.bias.len() as u64], model.second.bias.iter().copied().collect()),
        (shape(&model.second.weights), model.second.weights.iter().copied().collect()),
    ];
    let tensor = |(name, (shape, _)): (&&str, &(Vec<u64>, Vec<f32>))| Tensor {
        name: (*name).to_owned(),
        dtype: Dtype::F32,
        shape: shape.clone(),
        range: 0..0,
    };
    let layout = Layout::build(TENSORS.iter().zip(&parts).map(tensor).collect(), BTreeMap::new())?;
    let mut bytes = layout.encode_header();
    // In the order of their names, as the layout has them.
    for (_, values) in parts {
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    Ok(fs::write(path, bytes)?)
}

fn shape(weights: &Array2<f32>) -> Vec<u64> {
    vec![weights.nrows() as u64, weights.ncols() as u64]
}
