//! What federated rounds cost: combining updates beside reading them, beside flwr and numpy, and a round's own time.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::report::{Measured, Report};
use super::{Bench, Scratch, usage};
use crate::demo::deal_pictures;
use crate::process::{output, root};
use crate::python;
use crate::world::{Core, Device, wait_for};

/// Elements of the model whose updates are combined.
const ELEMENTS: u64 = 25_000_000;
/// Tensors of it.
const TENSORS: u64 = 10;
/// Updates of a mean.
const UPDATES: u64 = 100;
/// Of these flwr, which holds all of them in memory, is given so many.
const UPDATES_OF_FLWR: u64 = 20;
/// Updates of a median.
const UPDATES_OF_MEDIAN: u64 = 20;
/// Rounds of which the middle one counts.
const ROUNDS: u64 = 11;
/// Devices of a round.
const DEVICES: usize = 10;
/// How long a run may take.
const RUN_WITHIN: Duration = Duration::from_mins(5);
/// A program that does as little as a program can.
const EMPTY: &str = "cp \"$HEADWATER_TASK/model.safetensors\" \"$HEADWATER_TASK/update.safetensors\"; echo '{\"samples\": 1}' > \"$HEADWATER_TASK/metrics.json\"";

/// A model's file of small numbers; each layer has those of its `seed`.
fn write_model(path: &Path, elements: u64, seed: impl Fn(u64) -> u64) -> anyhow::Result<()> {
    let bytes = elements / TENSORS * 4;
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({ "headwater.update": "delta" }));
    for number in 0..TENSORS {
        let place = [number * bytes, (number + 1) * bytes];
        let tensor = json!({ "dtype": "F32", "shape": [elements / TENSORS], "data_offsets": place });
        header.insert(format!("layer-{number}"), tensor);
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for number in 0..TENSORS {
        let mut state = (seed(number) * TENSORS + number).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        for _ in 0..elements / TENSORS {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let noise = (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32;
            file.write_all(&(noise * 1e-9 - 8e-3).to_le_bytes())?;
        }
    }
    Ok(file.flush()?)
}

/// A base and updates in the memory-backed folder.
fn updates(bench: &Bench, count: u64) -> anyhow::Result<(Scratch, PathBuf, Vec<PathBuf>)> {
    let folder = bench.memory.folder("updates")?;
    let elements = bench.size(ELEMENTS * 4) / 4 / TENSORS * TENSORS;
    let base = folder.path().join("base");
    write_model(&base, elements, |_| 0)?;
    let mut paths = Vec::new();
    for number in 0..count {
        let path = folder.path().join(format!("update-{number}"));
        write_model(&path, elements, |_| number + 1)?;
        paths.push(path);
    }
    Ok((folder, base, paths))
}

fn aggregate(bench: &Bench, strategy: &str, base: &Path, updates: &[PathBuf]) -> anyhow::Result<usage::Finished> {
    let mut command = Command::new(&bench.programs.core);
    command.args(["model", "aggregate", "--strategy", strategy, "--base"]).arg(base);
    command.arg("--out").arg(base.with_extension("new"));
    for (index, update) in updates.iter().enumerate() {
        command.arg("--update").arg(format!("{}={}", update.display(), index + 1));
    }
    usage::watched(&mut command)
}

fn script(python: &Path, baseline: &str, base: &Path, updates: &[PathBuf]) -> anyhow::Result<f64> {
    let mut command = Command::new(python);
    command.arg(root().join("simulations/peers/federated.py")).args(["speed", baseline, "--out"]);
    let text = output(command.arg(base.with_extension("theirs")).args(updates).stderr(Stdio::null()))?;
    let said: Value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
    said["seconds"].as_f64().context("the script says how long it took")
}

/// The mean of many updates, from files to a file.
pub(super) fn mean(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let (_folder, base, paths) = updates(bench, bench.count(UPDATES))?;
    let bytes: u64 = paths.iter().map(|path| fs::metadata(path).map_or(0, |metadata| metadata.len())).sum();
    let texts: Vec<_> = paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let mut arguments = vec!["hash"];
    arguments.extend(texts.iter().map(String::as_str));
    let hashing = bench.peer(&arguments)?["seconds"].as_f64().context("seconds")?;
    let ours = aggregate(bench, "fedavg", &base, &paths)?;
    let took = ours.took.as_secs_f64();
    let rate = |bytes: f64, seconds: f64| format!("{:.2} GB/s", bytes / seconds / 1e9);
    report.add(Measured {
        figure: "FedAvg of 100 updates of 25 M parameters, from files to the new file",
        place: bench.memory.name,
        ours: format!("{} ({:.2} ×)", rate(bytes as f64, took), hashing / took),
        baseline: format!("reading and BLAKE3 on all cores: {}", rate(bytes as f64, hashing)),
        bar: "≥ 0.5 ×",
        reached: Some(hashing / took >= 0.5),
    });
    let model = fs::metadata(&base)?.len();
    report.add(Measured {
        figure: "peak memory of that",
        place: bench.memory.name,
        ours: format!("{:.2} × the model", ours.peak_bytes as f64 / model as f64),
        baseline: format!("the model: {} MB", model / 1_000_000),
        bar: "≤ 6 ×",
        reached: Some(ours.peak_bytes <= 6 * model),
    });
    let Some(python) = python::with(&["flwr"]) else { return Ok(()) };
    let few = &paths[..paths.len().min(UPDATES_OF_FLWR as usize)];
    let ours = aggregate(bench, "fedavg", &base, few)?.took.as_secs_f64();
    let theirs = script(&python, "flwr-fedavg", &base, few)?;
    report.add(Measured {
        figure: "the same of 20 of them",
        place: bench.memory.name,
        ours: format!("{ours:.2} s ({:.2} × as fast)", theirs / ours),
        baseline: format!("flwr's FedAvg, all in memory: {theirs:.2} s"),
        bar: "≥ 1 ×",
        reached: Some(theirs >= ours),
    });
    Ok(())
}

/// The median of some updates.
pub(super) fn median(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let (_folder, base, paths) = updates(bench, bench.count(UPDATES_OF_MEDIAN))?;
    let ours = aggregate(bench, "median", &base, &paths)?;
    let took = ours.took.as_secs_f64();
    let theirs = script(Path::new("/usr/bin/python3"), "numpy-median", &base, &paths)?;
    report.add(Measured {
        figure: "median of 20 updates of 25 M parameters",
        place: bench.memory.name,
        ours: format!("{took:.2} s ({:.1} × as fast), {} MB of memory", theirs / took, ours.peak_bytes / 1_000_000),
        baseline: format!("numpy: {theirs:.2} s"),
        bar: "≥ 2 ×, memory ≤ 64 MB",
        reached: Some(theirs / took >= 2.0 && ours.peak_bytes <= 64_000_000),
    });
    Ok(())
}

/// A core with a model, and devices.
pub(super) struct Fleet {
    pub(super) core: Core,
    devices: Vec<Device>,
}

impl Fleet {
    pub(super) fn new(
        bench: &Bench,
        scratch: &Scratch,
        count: usize,
        settings: impl Fn(usize) -> String,
    ) -> anyhow::Result<Self> {
        let core = Core::start(&bench.programs, scratch.path())?;
        let token = core.token(count)?;
        let mut devices = Vec::new();
        for number in 0..count {
            let mut device = Device::join(&bench.programs, scratch.path(), &format!("dev-{number}"), &token)?;
            device.set(&settings(number))?;
            device.run()?;
            devices.push(device);
        }
        Ok(Self { core, devices })
    }

    /// Runs rounds to their end; the parts of the run's status.
    pub(super) fn train(&self, model: &str, arguments: &[&str]) -> anyhow::Result<(String, Vec<Value>)> {
        let begun = self.core.json(&[&["federation", "start", "--model", model], arguments].concat())?;
        let run = begun["run"].as_str().context("a run has a name")?.to_owned();
        let mut parts = Vec::new();
        wait_for("the run to end", RUN_WITHIN, || {
            parts = self.core.json_lines(&["federation", "status", &run])?;
            Ok(matches!(parts[0]["state"].as_str(), Some("finished" | "failed" | "aborted")))
        })?;
        if parts[0]["state"] != "finished" {
            bail!("the run ended as {}: {}", parts[0]["state"], parts[0]["reason"]);
        }
        Ok((run, parts))
    }

    pub(super) fn publish(&self, file: &Path, model: &str) -> anyhow::Result<()> {
        self.core.json(&["model", "publish", &file.to_string_lossy(), "--model", model]).map(drop)
    }
}

/// A round in which nothing is done.
pub(super) fn round(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let scratch = bench.memory.folder("round")?;
    let fleet =
        Fleet::new(bench, &scratch, DEVICES, |_| format!("[training]\ncommand = [\"sh\", \"-c\", '''{EMPTY}''']\n"))?;
    let file = scratch.path().join("model");
    write_model(&file, TENSORS * 10, |_| 1)?;
    fleet.publish(&file, "tiny")?;
    let (rounds, count) = (ROUNDS.to_string(), DEVICES.to_string());
    let (_, parts) = fleet.train("tiny", &["--rounds", &rounds, "--min-updates", &count])?;
    let mut took: Vec<u64> = parts.iter().filter_map(|part| part["took_ms"].as_u64()).collect();
    took.sort_unstable();
    let middle = took[took.len() / 2];
    report.add(Measured {
        figure: "an empty round with 10 devices, from its beginning to its last update",
        place: "loopback",
        ours: format!("{middle} ms, the middle of {ROUNDS}"),
        baseline: "programs of a shell that copy a file".to_owned(),
        bar: "≤ 100 ms",
        reached: Some(middle <= 100),
    });
    drop(fleet.devices);
    Ok(())
}

/// A model of which one of ten layers changed, downloaded again.
pub(super) fn layer(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let scratch = bench.memory.folder("layer")?;
    let fleet = Fleet::new(bench, &scratch, 1, |_| String::new())?;
    let elements = bench.size(100_000_000) / 4 / TENSORS * TENSORS;
    let (file, copies) = (scratch.path().join("model"), scratch.path().join("copies"));
    let device = &fleet.devices[0];
    device.output(&["subscribe", "large", "--to", &copies.to_string_lossy()])?;
    let mut wire = Vec::new();
    for change in 0..2 {
        let before = received(device)?;
        write_model(&file, elements, |layer| if layer == 4 { change } else { 0 })?;
        fleet.publish(&file, "large")?;
        let current = copies.join("current/model.safetensors");
        let wanted = fs::read(&file)?;
        wait_for("the model to come", RUN_WITHIN, || {
            device.output(&["sync", "--once"])?;
            Ok(fs::read(&current).is_ok_and(|bytes| bytes == wanted))
        })?;
        wire.push(received(device)? - before);
    }
    let ratio = wire[1] as f64 / wire[0] as f64;
    report.add(Measured {
        figure: "second download of a model of which one of ten layers changed, on the wire",
        place: "loopback",
        ours: format!("{} kB ({ratio:.3} ×)", wire[1] / 1000),
        baseline: format!("the first: {} kB", wire[0] / 1000),
        bar: "≤ 0.12 ×",
        reached: Some(ratio <= 0.12),
    });
    Ok(())
}

/// Bytes that a device received.
fn received(device: &Device) -> anyhow::Result<u64> {
    let status = device.json(&["status"])?;
    let reasons = status["wire_bytes"].as_array().context("reasons")?;
    let found = reasons.iter().find(|reason| reason[0] == "received");
    Ok(found.and_then(|reason| reason[1].as_u64()).unwrap_or(0))
}

/// Updates of a byte for each number, beside whole ones: bytes, and what the model learns.
pub(super) fn int8(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    const TRAINERS: usize = 3;
    let scratch = bench.memory.folder("int8")?;
    let folders: Vec<_> = (0..TRAINERS).map(|number| scratch.path().join(format!("pictures-{number}"))).collect();
    for folder in &folders {
        fs::create_dir_all(folder)?;
    }
    deal_pictures(&folders)?;
    let fleet = Fleet::new(bench, &scratch, TRAINERS, |number| {
        let (folder, program) = (folders[number].display(), bench.programs.job.display());
        format!(
            "[[local]]\nfolder = '{folder}'\ndataset = \"pictures\"\n[training]\ncommand = ['{program}', \"federated\"]\ndatasets = [\"pictures\"]\n"
        )
    })?;
    let file = scratch.path().join("model.safetensors");
    output(Command::new(&bench.programs.job).arg("init").arg(&file))?;
    let mut found = Vec::new();
    for encoding in ["full", "int8"] {
        let model = format!("pictures-{encoding}");
        fleet.publish(&file, &model)?;
        let arguments = [
            "--rounds",
            "10",
            "--min-updates",
            "3",
            "--evaluate-every",
            "10",
            "--encoding",
            encoding,
            "--set",
            "max_images=4000",
        ];
        let (run, parts) = fleet.train(&model, &arguments)?;
        let judged = parts.iter().rfind(|part| part["for_what"] == "evaluate").context("it was judged")?;
        let accuracy = judged["metrics"]["accuracy"]["mean"].as_f64().context("an accuracy")?;
        let log = fleet.core.json_lines(&["federation", "log", &run])?;
        let counted = log.iter().map(|event| &event["entry"]).filter(|entry| entry["kind"] == "train");
        let bytes: u64 = counted.filter_map(|entry| entry["bytes"].as_u64()).sum();
        found.push((accuracy, bytes));
    }
    let [(whole, whole_bytes), (small, small_bytes)] = found[..] else { bail!("two runs") };
    let (ratio, points) = (small_bytes as f64 / whole_bytes as f64, 100.0 * (small - whole));
    report.add(Measured {
        figure: "updates in int8 with error feedback, Fashion-MNIST, 3 devices, 10 rounds",
        place: "loopback",
        ours: format!("{ratio:.3} × the bytes, {:.2} % right ({points:+.2} points)", 100.0 * small),
        baseline: format!("f32: {:.2} % right", 100.0 * whole),
        bar: "≤ 0.27 ×, within 0.5 points",
        reached: Some(ratio <= 0.27 && points >= -0.5),
    });
    Ok(())
}
