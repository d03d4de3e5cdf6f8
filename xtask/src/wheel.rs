//! The wheel of the Python package, for this machine's architecture.
//!
//! One wheel serves every Python from 3.11 on. It holds the native module twice: as it runs anywhere, and with RDMA, which only loads
//! where libibverbs is; the package takes the second where it can.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::lab;
use crate::process::{cargo, root, run as run_command, target_dir};

/// What builds wheels, from the package index.
const TOOLS: [&str; 2] = ["maturin>=1.9,<2", "wheel"];

/// Builds the wheel into `out`, and gives its path.
pub(crate) fn build(out: &Path) -> anyhow::Result<PathBuf> {
    let python = tools()?;
    let built = target_dir().join("wheel");
    if built.exists() {
        fs::remove_dir_all(&built)?;
    }
    let mut maturin = Command::new(&python);
    maturin.args(["-m", "maturin", "build", "--release", "--locked", "--quiet", "--strip", "--out"]).arg(&built);
    maturin.arg("--manifest-path").arg(root().join("client/python/Cargo.toml")).arg("--target-dir").arg(target_dir());
    run_command(&mut maturin)?;
    let wheel = only(&built, "whl")?;
    if lab::rdma_features().is_empty() {
        println!("the wheel has no RDMA: this machine lacks what builds it (`cargo xtask setup`)");
    } else {
        add_rdma(&python, &wheel, &built)?;
    }
    let place = out.join(wheel.file_name().context("a wheel has a name")?);
    fs::copy(&wheel, &place)?;
    Ok(place)
}

/// Adds the module with RDMA, and writes the list of what is in the wheel anew.
fn add_rdma(python: &Path, wheel: &Path, built: &Path) -> anyhow::Result<()> {
    let mut command = cargo();
    command.args(["build", "--locked", "--release", "--package", "headwater-python", "--features", "rdma"]);
    run_command(command.env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"))?;
    let tree = built.join("tree");
    fs::create_dir_all(&tree)?;
    run_command(Command::new(python).args(["-m", "wheel", "unpack", "--dest"]).arg(&tree).arg(wheel))?;
    let unpacked = fs::read_dir(&tree)?.next().context("the wheel is empty")??.path();
    let module = target_dir().join("release/libheadwater_native.so");
    fs::copy(module, unpacked.join("headwater/_native_rdma.abi3.so"))?;
    run_command(Command::new(python).args(["-m", "wheel", "pack", "--dest-dir"]).arg(built).arg(&unpacked))
}

/// The interpreter of an environment that has the tools.
fn tools() -> anyhow::Result<PathBuf> {
    let environment = target_dir().join("python-tools");
    let python = environment.join("bin/python");
    if !python.is_file() {
        run_command(Command::new("python3").args(["-m", "venv"]).arg(&environment))
            .context("a wheel needs Python with venv: on Debian and Ubuntu, the package python3-venv")?;
    }
    run_command(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(TOOLS))?;
    Ok(python)
}

fn only(folder: &Path, extension: &str) -> anyhow::Result<PathBuf> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    let mut found = entries.into_iter().filter(|path| path.extension().is_some_and(|other| other == extension));
    match (found.next(), found.next()) {
        (Some(path), None) => Ok(path),
        _ => bail!("{} should hold one file of .{extension}", folder.display()),
    }
}
