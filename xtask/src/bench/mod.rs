//! `bench`: the figures that are promised, measured on the release programs, each against its baseline in the same run.
//!
//! A ratio is taken within one run on one machine; the absolute numbers beside it are orientation. Every figure is
//! measured in a memory-backed and in a disk-backed folder where that makes a difference.

mod corpus;
mod curves;
mod federated;
mod large;
mod memory;
pub(crate) mod report;
mod rsync;
mod small;
mod training;
mod usage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::process::{output, target_dir};
use crate::setup;
use crate::world::Programs;
use report::Report;

/// What to measure, and where.
pub(crate) struct Options {
    /// Figures; all if empty.
    pub(crate) names: Vec<String>,
    /// Divide all sizes by this, to see whether the benchmarks work; the report is not written then.
    pub(crate) shrink: u64,
    /// The disk-backed folder.
    pub(crate) disk: Option<PathBuf>,
}

/// A figure by name.
struct Figure {
    name: &'static str,
    measure: fn(&Bench, &mut Report) -> anyhow::Result<()>,
}

const FIGURES: [Figure; 22] = [
    Figure { name: "scan", measure: large::scan },
    Figure { name: "send", measure: large::send },
    Figure { name: "insert", measure: large::insert },
    Figure { name: "kill", measure: large::kill },
    Figure { name: "small", measure: small::all },
    Figure { name: "memory-send", measure: memory::send },
    Figure { name: "memory-files", measure: memory::files },
    Figure { name: "memory-core", measure: memory::core },
    Figure { name: "memory-idle", measure: memory::idle },
    Figure { name: "read-large", measure: training::large },
    Figure { name: "read-small", measure: training::small },
    Figure { name: "read-images", measure: training::images },
    Figure { name: "read-start", measure: training::start },
    Figure { name: "read-memory", measure: training::client_memory },
    Figure { name: "read-many", measure: training::many },
    Figure { name: "combine", measure: federated::mean },
    Figure { name: "combine-median", measure: federated::median },
    Figure { name: "round", measure: federated::round },
    Figure { name: "model-layer", measure: federated::layer },
    Figure { name: "int8", measure: federated::int8 },
    Figure { name: "curves", measure: curves::curves },
    Figure { name: "cnn", measure: curves::convolutional },
];

/// The programs, and where they are measured.
struct Bench {
    programs: Programs,
    peers: PathBuf,
    memory: Place,
    disk: Place,
    shrink: u64,
    /// Whether this run is the one that docs/benchmarks.md tells of.
    writes: bool,
}

/// A folder to measure in; its contents go with it.
pub(crate) struct Place {
    /// `memory` or `disk`.
    pub(crate) name: &'static str,
    path: PathBuf,
}

impl Place {
    fn make(name: &'static str, parent: &Path) -> anyhow::Result<Self> {
        let path = parent.join(format!("headwater-bench-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("{} can't be made", path.display()))?;
        Ok(Self { name, path })
    }

    /// A new folder in it that goes with its owner.
    pub(crate) fn folder(&self, name: &str) -> anyhow::Result<Scratch> {
        let path = self.path.join(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)?;
        Ok(Scratch { path })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What can't be removed is in the way of nothing but disk space, and says so by being there.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A folder that goes with its owner.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Bench {
    /// The places in which most figures are measured.
    fn places(&self) -> [&Place; 2] {
        [&self.memory, &self.disk]
    }

    /// Runs a baseline and gives what it says.
    fn peer(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = output(Command::new(&self.peers).args(arguments))?;
        serde_json::from_str(&text).with_context(|| format!("a baseline said `{}`", text.trim_end()))
    }

    /// `bytes`, or fewer in a trial run.
    fn size(&self, bytes: u64) -> u64 {
        (bytes / self.shrink).max(1 << 20)
    }

    /// `count`, or fewer in a trial run.
    fn count(&self, count: u64) -> u64 {
        (count / self.shrink).max(4)
    }
}

/// Measures, prints, and writes the report.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(unknown) = options.names.iter().find(|name| FIGURES.iter().all(|figure| figure.name != **name)) {
        let names = FIGURES.map(|figure| figure.name).join(", ");
        bail!("there is no figure `{unknown}`; there are {names}");
    }
    // A trial looks at whether the benchmarks work; for that the programs of the tests do.
    let release = options.shrink <= 1;
    setup::ensure(&[setup::C_COMPILER, setup::FASHION_MNIST, setup::RSYNC])?;
    println!("Building the programs");
    let programs = Programs::build(release)?;
    let bench = Bench {
        peers: programs.core.with_file_name("peers"),
        programs,
        memory: Place::make("memory", Path::new("/dev/shm"))?,
        disk: Place::make("disk", options.disk.as_deref().unwrap_or(&target_dir()))?,
        shrink: options.shrink.max(1),
        writes: release && options.names.is_empty(),
    };
    let mut report = Report::new()?;
    for figure in
        FIGURES.iter().filter(|figure| options.names.is_empty() || options.names.contains(&figure.name.to_owned()))
    {
        println!("\n==> {}", figure.name);
        if let Err(error) = (figure.measure)(&bench, &mut report) {
            println!("{error:#}");
            report.failed(figure.name, &error);
        }
    }
    println!("\n{}", report.text());
    if !release {
        println!("a trial with sizes divided by {} and unoptimised programs: none of these is a figure", bench.shrink);
    } else if bench.writes {
        report.write()?;
    } else {
        println!("docs/benchmarks.md is left as it is: it holds the figures of one whole run");
    }
    report.check()
}
