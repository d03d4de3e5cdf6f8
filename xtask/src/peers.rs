//! `peers`: results held against programs that nobody here wrote.

use std::process::Command;

use anyhow::bail;

use crate::process::{root, run as run_command};
use crate::python;
use crate::world::Programs;

/// Combines random updates with each strategy, and compares with flwr's and numpy's results.
pub(crate) fn run(seeds: u32) -> anyhow::Result<()> {
    let programs = Programs::build(false)?;
    let Some(python) = python::with(&["flwr"]) else { bail!("without flwr there is nothing to compare with") };
    let mut command = Command::new(python);
    command.arg(root().join("simulations/peers/federated.py")).args(["check", "--flwr", "--core"]).arg(programs.core);
    run_command(command.args(["--seeds", &seeds.to_string()]))
}
