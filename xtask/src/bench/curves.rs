//! Learning curves on Fashion-MNIST: ten devices as real processes, some of them hostile, beside flwr's strategies with the same
//! model, seeds and split.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::federated::Fleet;
use super::report::{Measured, Report};
use super::{Bench, Scratch};
use crate::process::{cargo, output, root, run, target_dir};
use crate::python;
use crate::setup::FASHION_MNIST_DIR;

/// Where the plot goes.
const PLOT: &str = "docs/images/federated-curves.svg";
const DEVICES: usize = 10;
const IMAGES: u64 = 1000;
const ROUNDS: u64 = 10;
const SPLITS: [&str; 2] = ["iid", "dirichlet"];
/// Curves: their title, how images are dealt, what two of the devices do, and how updates are combined.
const CURVES: [(&str, &str, &str, &str); 10] = [
    ("alike", "iid", "none", "fedavg"),
    ("Dirichlet(0.5)", "dirichlet", "none", "fedavg"),
    ("2 send noise", "iid", "noise", "fedavg"),
    ("2 send noise", "iid", "noise", "median"),
    ("2 send noise", "iid", "noise", "trimmed-mean"),
    ("2 send noise", "iid", "noise", "multi-krum"),
    ("2 flip signs", "iid", "flip", "fedavg"),
    ("2 flip signs", "iid", "flip", "median"),
    ("2 flip signs", "iid", "flip", "trimmed-mean"),
    ("2 flip signs", "iid", "flip", "multi-krum"),
];
/// How far a last model may be from flwr's, in points.
const POINTS: f64 = 1.0;

/// Trains all curves, and draws them where the run is a whole one.
pub(super) fn curves(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let Some(python) = python::with(&["flwr", "matplotlib"]) else { return Ok(()) };
    let learning = Learning { python, scratch: bench.memory.folder("curves")? };
    let images = (IMAGES / bench.shrink).max(100).to_string();
    for split in SPLITS {
        let to = learning.path(split);
        learning.say(&[
            "prepare",
            "--source",
            FASHION_MNIST_DIR,
            "--split",
            split,
            "--images",
            &images,
            "--out",
            &to,
        ])?;
    }
    let begin = learning.path("model.safetensors");
    learning.say(&["init", &begin])?;
    let fleet = Fleet::new(bench, &learning.scratch, DEVICES, |number| learning.settings(number))?;
    let mut drawn = Vec::new();
    for (index, (group, split, attack, strategy)) in CURVES.into_iter().enumerate() {
        let model = format!("curve-{index}");
        fleet.publish(Path::new(&begin), &model)?;
        let said = learning.curve(&fleet, &model, (split, attack, strategy))?;
        let last = |whose: &str| {
            said[whose]
                .as_array()
                .and_then(|curve| curve.last()?.as_f64())
                .map(|right| 100.0 * right)
                .context("a curve")
        };
        let (ours, theirs) = (last("ours")?, last("flwr")?);
        let figure = format!("Fashion-MNIST, 10 devices, {group}, {strategy}, after {ROUNDS} rounds");
        report.add(Measured {
            figure: &figure,
            place: "loopback",
            ours: format!("{ours:.2} % right"),
            baseline: format!("flwr, same model, seeds and split: {theirs:.2} %"),
            bar: "within a point of flwr, or above",
            reached: Some(ours >= theirs - POINTS),
        });
        drawn.push(json!({ "group": group, "strategy": strategy, "ours": said["ours"], "flwr": said["flwr"] }));
    }
    let file = learning.path("curves.json");
    fs::write(&file, serde_json::to_vec(&drawn)?)?;
    let plot = if bench.writes { root().join(PLOT) } else { target_dir().join("federated-curves.svg") };
    learning.say(&["plot", "--out", &plot.to_string_lossy(), &file])?;
    println!("the plot is in {}", plot.display());
    Ok(())
}

/// The example in candle, built and trained by devices that hold images alike.
pub(super) fn convolutional(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let folder = root().join("edge-agent/examples/cnn");
    let target = target_dir().join("cnn");
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--quiet"]).current_dir(&folder);
    run(build.env("CARGO_TARGET_DIR", &target))?;
    let program = target.join("release/federated-cnn");
    let learning = Learning { python: "/usr/bin/python3".into(), scratch: bench.memory.folder("cnn")? };
    let (images, to) = ((IMAGES / bench.shrink).max(100).to_string(), learning.path("iid"));
    learning.say(&["prepare", "--source", FASHION_MNIST_DIR, "--split", "iid", "--images", &images, "--out", &to])?;
    let begin = learning.path("model.safetensors");
    run(Command::new(&program).args(["init", &begin]))?;
    let fleet = Fleet::new(bench, &learning.scratch, DEVICES, |number| {
        format!(
            "[[local]]\nfolder = '{to}/{number}'\ndataset = \"pictures\"\n[training]\ncommand = ['{}']\ndatasets = [\"pictures\"]\n",
            program.display()
        )
    })?;
    fleet.publish(Path::new(&begin), "cnn")?;
    let (rounds, devices) = (ROUNDS.to_string(), DEVICES.to_string());
    let arguments = ["--rounds", &rounds, "--min-updates", &devices, "--evaluate-every", &rounds];
    let (_, parts) = fleet.train("cnn", &arguments)?;
    let judged = parts.iter().rfind(|part| part["for_what"] == "evaluate").context("it was judged")?;
    let right = 100.0 * judged["metrics"]["accuracy"]["mean"].as_f64().context("an accuracy")?;
    report.add(Measured {
        figure: "Fashion-MNIST, 10 devices with a convolutional network in candle, after 10 rounds",
        place: "loopback",
        ours: format!("{right:.2} % right, on images that devices keep back"),
        baseline: "a model that knows nothing: 10 %".to_owned(),
        bar: "≥ 70 %",
        reached: Some(right >= 70.0),
    });
    Ok(())
}

/// The script, and where it works.
struct Learning {
    python: PathBuf,
    scratch: Scratch,
}

impl Learning {
    fn script() -> PathBuf {
        root().join("simulations/peers/learning.py")
    }

    fn path(&self, name: &str) -> String {
        self.scratch.path().join(name).to_string_lossy().into_owned()
    }

    fn say(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new(&self.python);
        let text = output(command.arg(Self::script()).args(arguments).stderr(Stdio::null()))?;
        serde_json::from_str(text.lines().last().unwrap_or_default()).context("the script says what it found")
    }

    fn settings(&self, number: usize) -> String {
        let local =
            |split: &str| format!("[[local]]\nfolder = '{}/{number}'\ndataset = \"{split}\"\n", self.path(split));
        let (python, script) = ("/usr/bin/python3", Self::script());
        format!(
            "{}[training]\ncommand = ['{python}', '{}']\ndatasets = [\"iid\", \"dirichlet\"]\n",
            SPLITS.map(local).concat(),
            script.display()
        )
    }

    /// Trains a model for all rounds, and judges what came of each.
    fn curve(
        &self,
        fleet: &Fleet,
        model: &str,
        (split, attack, strategy): (&str, &str, &str),
    ) -> anyhow::Result<Value> {
        let (rounds, devices) = (ROUNDS.to_string(), DEVICES.to_string());
        let ours = match strategy {
            "trimmed-mean" => "trimmed-mean:beta=0.2",
            "multi-krum" => "multi-krum:byzantine=2,keep=8",
            other => other,
        };
        let (split_set, attack_set) = (format!("split={split}"), format!("attack={attack}"));
        fleet.train(
            model,
            &[
                "--rounds",
                &rounds,
                "--min-updates",
                &devices,
                "--strategy",
                ours,
                "--set",
                &split_set,
                "--set",
                &attack_set,
            ],
        )?;
        let mut models = Vec::new();
        for number in 2..=ROUNDS + 1 {
            let (version, file) = (format!("{model}@{number}"), self.path(&format!("{model}-{number}")));
            fleet.core.json(&["model", "export", &version, &file])?;
            models.push(file);
        }
        let data = self.path(split);
        let judge = ["judge", "--data", &data, "--rounds", &rounds, "--strategy", strategy, "--attack", attack];
        self.say(&[&judge[..], &models.iter().map(String::as_str).collect::<Vec<_>>()].concat())
    }
}
