//! What a training program is given and what it leaves: files, so that any language serves.
//!
//! `HEADWATER_TASK` names a folder with `model.safetensors` and `task.json`. There the program writes `update.safetensors`, unless
//! the task's kind is `evaluate`, and `metrics.json`; it ends with the exit status 0. Lines of JSON with a `step` on its standard
//! output say how far it is.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use headwater_protocol::federated::Task;
use serde::Serialize;
use serde_json::{Map, Value};

use super::place::{MODEL_FILE, Place, remove_folder};

/// What a program is told.
const TASK_FILE: &str = "task.json";
/// What it measured.
const METRICS_FILE: &str = "metrics.json";
/// What it made.
pub(super) const RESULT_FILE: &str = "update.safetensors";
/// The metric that says how many samples were used.
const SAMPLES: &str = "samples";
/// Longest file of metrics, in bytes.
const METRICS_BYTES_MAX: u64 = 1 << 20;
/// Most metrics.
const METRICS_MAX: usize = 64;

/// A dataset of this device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ShownDataset {
    /// Its name.
    pub(super) name: String,
    /// Its folder.
    pub(super) folder: PathBuf,
    /// Samples in its newest version.
    pub(super) samples: u64,
}

#[derive(Serialize)]
struct TaskFile<'a> {
    run: &'a str,
    round: u64,
    kind: &'a str,
    model: PathBuf,
    model_number: u64,
    config: Map<String, Value>,
    datasets: &'a [ShownDataset],
    state: PathBuf,
    seconds: Option<u64>,
}

/// Makes a task's folder anew. Blocks.
pub(super) fn prepare(place: &Place, task: &Task, datasets: &[ShownDataset]) -> io::Result<()> {
    let folder = place.task();
    remove_folder(&folder)?;
    fs::create_dir_all(&folder)?;
    fs::create_dir_all(place.state())?;
    let model = folder.join(MODEL_FILE);
    // A copy: what a program does to it must not reach the version that the next one is made of.
    fs::copy(place.model_file(), &model)?;
    let config: Value = serde_json::from_str(&task.config).map_err(io::Error::other)?;
    let told = TaskFile {
        run: &task.run,
        round: task.round,
        kind: task.kind.as_str(),
        model,
        model_number: task.model.number,
        config: config.as_object().cloned().unwrap_or_default(),
        datasets,
        state: place.state(),
        seconds: task.wait_ms.map(|wait| wait / 1000),
    };
    fs::write(folder.join(TASK_FILE), serde_json::to_vec_pretty(&told).map_err(io::Error::other)?)
}

/// What a program measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measured {
    /// Samples that it used.
    pub(super) samples: u64,
    /// Everything else.
    pub(super) metrics: BTreeMap<String, f64>,
}

/// Reads what a program measured; a program that says no number of samples used those that it was `shown`. Blocks.
pub(super) fn measured(folder: &Path, shown: u64) -> Result<Measured, String> {
    let path = folder.join(METRICS_FILE);
    let mut text = String::new();
    match fs::File::open(&path) {
        Ok(file) => {
            let read = file.take(METRICS_BYTES_MAX).read_to_string(&mut text);
            read.map_err(|error| format!("`{METRICS_FILE}` can't be read: {error}"))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => "{}".clone_into(&mut text),
        Err(error) => return Err(format!("`{METRICS_FILE}` can't be read: {error}")),
    }
    let said: BTreeMap<String, Value> = serde_json::from_str(&text)
        .map_err(|error| format!("`{METRICS_FILE}` is no JSON object of numbers: {error}"))?;
    let mut metrics = BTreeMap::new();
    for (name, value) in said {
        let number = value.as_f64().filter(|number| number.is_finite());
        let number = number.ok_or_else(|| format!("`{name}` in `{METRICS_FILE}` is no finite number"))?;
        metrics.insert(name, number);
    }
    let samples = match metrics.remove(SAMPLES) {
        None => shown,
        Some(number) if number.fract() == 0.0 && (1.0..1e15).contains(&number) => number as u64,
        Some(number) => return Err(format!("`{SAMPLES}` in `{METRICS_FILE}` is {number}, no number of samples")),
    };
    if samples == 0 {
        return Err(format!("the program said no `{SAMPLES}` in `{METRICS_FILE}`, and its datasets have none"));
    }
    if metrics.len() > METRICS_MAX {
        return Err(format!("`{METRICS_FILE}` has {} numbers, over {METRICS_MAX}", metrics.len()));
    }
    Ok(Measured { samples, metrics })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_numbers_and_samples_are_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(measured(folder.path(), 7).expect("shown").samples, 7);
        assert!(measured(folder.path(), 0).expect_err("none").contains("samples"));
        let with = |text: &str| {
            fs::write(folder.path().join(METRICS_FILE), text).expect("written");
            measured(folder.path(), 7)
        };
        let good = with(r#"{"samples": 12, "loss": 0.5}"#).expect("good");
        assert_eq!((good.samples, good.metrics["loss"], good.metrics.len()), (12, 0.5, 1));
        for bad in ["", "[]", r#"{"loss": "low"}"#, r#"{"samples": 0}"#, r#"{"samples": 1.5}"#, r#"{"samples": 1e300}"#]
        {
            assert!(with(bad).is_err(), "{bad}");
        }
    }
}
