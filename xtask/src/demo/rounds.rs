//! A federated run on the demo's devices: they train a model together on pictures that stay where they are. During a round the
//! core is killed and a device drops out.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::show::Table;
use crate::process::output;
use crate::world::{Core, Device, Programs, wait_for};

/// The model.
const MODEL: &str = "models/pictures";
/// Devices that train, if there are so many.
const DEVICES_MAX: usize = 3;
/// Rounds.
const ROUNDS: u64 = 5;
/// The round in which something happens.
const TROUBLE_IN: u64 = 3;
/// How long a round waits for a device that is gone: it has no reason to be longer here.
const DEADLINE: &str = "8s";
/// How long all rounds may take.
const ROUNDS_WITHIN: Duration = Duration::from_mins(3);
/// What the model tells right in the end; one of ten classes is right by chance.
const ACCURACY_MIN: f64 = 0.6;

/// The program that trains, and the settings that a device needs to run it.
pub(super) fn settings(programs: &Programs, dataset: &str) -> String {
    let program = programs.job.display();
    format!("[training]\ncommand = ['{program}', \"federated\"]\ndatasets = [\"{dataset}\"]\n")
}

/// How many of the demo's devices train.
pub(super) fn devices(all: usize) -> usize {
    all.min(DEVICES_MAX)
}

/// A run, and what has been said of it.
pub(super) struct Rounds<'a> {
    core: &'a mut Core,
    run: String,
    told: usize,
}

/// Trains the model; the last of `devices` drops out. Fails unless all rounds come to an end and the model proves to be what
/// its lineage says.
pub(super) fn train(
    programs: &Programs,
    core: &mut Core,
    devices: &mut [Device],
    pixels: usize,
    work: &Path,
    table: &mut Table,
) -> anyhow::Result<()> {
    let count = devices.len();
    println!("\n{count} devices train a model together; the pictures stay where they are");
    let file: PathBuf = work.join("model.safetensors");
    let mut init = std::process::Command::new(&programs.job);
    output(init.arg("init").arg(&file).args(["--pixels", &pixels.to_string()]))?;
    core.json(&["model", "publish", &file.to_string_lossy(), "--model", MODEL])?;
    let (rounds, least, goal) = (ROUNDS.to_string(), (count - 1).to_string(), count.to_string());
    let started = Instant::now();
    let begun = core.json(&[
        "federation",
        "start",
        "--model",
        MODEL,
        "--rounds",
        &rounds,
        "--min-updates",
        &least,
        "--goal",
        &goal,
        "--deadline",
        DEADLINE,
        "--evaluate-every",
        "1",
        "--set",
        "max_images=2000",
    ])?;
    let run = begun["run"].as_str().context("a run has a name")?.to_owned();
    let mut rounds = Rounds { core, run, told: 0 };
    rounds.until("round 3 to begin", |parts| round(parts, TROUBLE_IN, "train").is_some())?;
    let gone = devices.last_mut().context("a device")?;
    gone.kill()?;
    rounds.core.daemon()?.check_alive()?;
    rounds.core.kill()?;
    println!("  round {TROUBLE_IN}: {} drops out, and the core is killed with SIGKILL and started again", gone.name);
    rounds.core.run()?;
    let parts = rounds.until("all rounds to end", |parts| {
        matches!(parts[0]["state"].as_str(), Some("finished" | "failed" | "aborted"))
    })?;
    let took = started.elapsed();
    gone.run()?;
    let end = &parts[0];
    if end["state"] != "finished" {
        bail!("the run {} ended as {}: {}", rounds.run, end["state"], end["reason"]);
    }
    let accuracy = (1..=ROUNDS).map(|number| round(&parts, number, "evaluate").and_then(accuracy).unwrap_or_default());
    let accuracy: Vec<f64> = accuracy.collect();
    let last = accuracy.last().copied().unwrap_or_default();
    if last < ACCURACY_MIN {
        bail!("the model tells only {:.1} % right after {ROUNDS} rounds", last * 100.0);
    }
    let shown: Vec<_> = accuracy.iter().map(|accuracy| format!("{:.1}", accuracy * 100.0)).collect();
    let version = format!("{MODEL}@{}", end["number"]);
    let verified = rounds.core.json(&["model", "verify", &version])?;
    if verified["made"] != verified["stored"] || verified["made"].is_null() {
        bail!("{version} is not what its lineage says: {verified}");
    }
    println!("  {version} is made again from its updates: the same bytes");
    table.note(format!(
        "{count} devices trained a model in {ROUNDS} rounds in {:.1} s, over a killed core and a device that dropped out in round \
         {TROUBLE_IN}; of pictures that were not learnt from it tells right, round by round: {} %",
        took.as_secs_f64(),
        shown.join(", "),
    ));
    Ok(())
}

impl Rounds<'_> {
    /// Looks until `condition` holds of the parts of the run's status, and says what ended meanwhile.
    fn until(&mut self, what: &str, condition: impl Fn(&[Value]) -> bool) -> anyhow::Result<Vec<Value>> {
        let mut parts = Vec::new();
        wait_for(what, ROUNDS_WITHIN, || {
            self.core.daemon()?.check_alive()?;
            parts = self.core.json_lines(&["federation", "status", &self.run])?;
            let rounds = parts.iter().filter(|part| part["for_what"].is_string());
            let ended: Vec<_> = rounds.filter(|round| round["state"] != "runs").collect();
            for round in ended.iter().skip(self.told) {
                say(round);
            }
            self.told = self.told.max(ended.len());
            Ok(condition(&parts))
        })?;
        Ok(parts)
    }
}

fn round<'a>(parts: &'a [Value], number: u64, kind: &str) -> Option<&'a Value> {
    parts.iter().find(|part| part["round"] == number && part["for_what"] == kind)
}

fn accuracy(round: &Value) -> Option<f64> {
    round["metrics"]["accuracy"]["mean"].as_f64()
}

fn say(round: &Value) {
    let (number, updates, took) = (&round["round"], &round["updates"], round["took_ms"].as_f64().unwrap_or_default());
    let percent = accuracy(round).unwrap_or_default() * 100.0;
    if round["for_what"] == "evaluate" {
        println!("  round {number}: {percent:.1} % are told right, as {updates} devices judge");
    } else {
        let state = round["state"].as_str().unwrap_or_default();
        println!("  round {number}: {updates} updates, {state}, in {:.1} s", took / 1000.0);
    }
}
