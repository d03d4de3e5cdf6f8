//! `peers`: results held against programs that nobody here wrote, and against the same program compiled in other ways.

use std::process::Command;

use anyhow::bail;

use crate::process::{cargo, root, run as run_command, target_dir};
use crate::python;
use crate::world::Programs;

/// What a compiler may make of the same arithmetic: a name, and its flags.
const WAYS: [(&str, &str); 2] =
    [("scalar", "-C no-vectorize-loops -C no-vectorize-slp"), ("native", "-C target-cpu=native")];
/// The test that knows what bytes models have.
const BYTES_TEST: &str = "the_same_updates_give_the_same_bytes";

/// Combines random updates with each strategy, and compares with flwr's and numpy's results; then looks whether all vector
/// instructions of this processor, and none at all, give the same bytes.
pub(crate) fn run(seeds: u32) -> anyhow::Result<()> {
    let programs = Programs::build(false)?;
    let Some(python) = python::with(&["flwr"]) else { bail!("without flwr there is nothing to compare with") };
    let mut command = Command::new(python);
    command.arg(root().join("simulations/peers/federated.py")).args(["check", "--flwr", "--core"]).arg(programs.core);
    run_command(command.args(["--seeds", &seeds.to_string()]))?;
    for (way, flags) in WAYS {
        println!("the same updates, compiled with {flags}");
        let mut command = cargo();
        command.args(["test", "--quiet", "--locked", "--package", "headwater-aggregate", "--lib", BYTES_TEST]);
        run_command(command.env("RUSTFLAGS", flags).env("CARGO_TARGET_DIR", target_dir().join("ways").join(way)))?;
    }
    Ok(())
}
