//! `audit`: what takes too long for every change: dependencies' licences and advisories, and fuzzing for a while.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::process::{cargo, root, run as run_command, succeeds, target_dir};

/// Longest input that is tried, in bytes; longer ones fail at the length caps.
const INPUT_BYTES_MAX: u32 = 64 << 10;

/// Where the fuzz targets are: each folder is a package of its own.
const FUZZ_FOLDERS: [&str; 2] = ["protocol/fuzz", "core-node/fuzz"];

/// Checks dependencies, then fuzzes each body for `seconds`; none at 0.
pub(crate) fn run(seconds: u32, only: &[String]) -> anyhow::Result<()> {
    if only.is_empty() {
        dependencies()?;
    }
    if seconds > 0 {
        fuzz(seconds, only)?;
    }
    Ok(())
}

fn dependencies() -> anyhow::Result<()> {
    println!("==> dependencies");
    ensure_tool("deny", "cargo-deny")?;
    // Advisories come from a repository on the network; everything else must be known without.
    run_command(cargo().args(["deny", "--workspace", "check", "licenses", "bans", "sources"]))?;
    if let Err(error) = run_command(cargo().args(["deny", "--workspace", "check", "advisories"])) {
        if advisories_reachable() {
            return Err(error);
        }
        println!("note: the advisory database can't be fetched from here; advisories were not checked");
    }
    Ok(())
}

/// Whether the advisory database is here or can be fetched.
fn advisories_reachable() -> bool {
    succeeds(cargo().args(["deny", "fetch", "db"]))
}

fn fuzz(seconds: u32, only: &[String]) -> anyhow::Result<()> {
    ensure_tool("fuzz", "cargo-fuzz")?;
    let targets = targets()?;
    if let Some(unknown) = only.iter().find(|name| targets.iter().all(|target| target.name != **name)) {
        let names: Vec<_> = targets.iter().map(|target| target.name.as_str()).collect();
        bail!("there is no fuzz target `{unknown}`; there are {}", names.join(", "));
    }
    let seeds = target_dir().join("fuzz-corpus");
    run_command(
        cargo()
            .args([
                "test",
                "--quiet",
                "--package",
                "headwater-protocol",
                "--test",
                "fuzz_bodies",
                "--",
                "--ignored",
                "write_seeds",
            ])
            .env("HEADWATER_FUZZ_SEEDS", &seeds),
    )?;
    for Target { folder, name } in targets.iter().filter(|target| only.is_empty() || only.contains(&target.name)) {
        println!("\n==> fuzzing {name} for {seconds} s");
        let found = seeds.join(name);
        fs::create_dir_all(&found)?;
        let committed = root().join(folder).join("corpus").join(name);
        let mut command = fuzz_command();
        command.args(["run", "--fuzz-dir", folder, name]).arg(&found);
        if committed.is_dir() {
            command.arg(committed);
        }
        command.arg("--").arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={INPUT_BYTES_MAX}"));
        command.args(["-rss_limit_mb=1024", "-timeout=10", "-print_final_stats=1"]);
        run_command(&mut command).with_context(|| {
            format!("fuzzing {name} found something; commit its input to {folder}/corpus/{name}/ with the fix")
        })?;
    }
    Ok(())
}

/// cargo-fuzz needs flags that only a nightly toolchain or this variable allows.
fn fuzz_command() -> Command {
    let mut command = cargo();
    command.arg("fuzz").env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", target_dir().join("fuzz"));
    command
}

/// A program that fuzzes one thing.
struct Target {
    folder: &'static str,
    name: String,
}

fn targets() -> anyhow::Result<Vec<Target>> {
    let mut targets = Vec::new();
    for folder in FUZZ_FOLDERS {
        let programs = root().join(folder).join("fuzz_targets");
        for entry in fs::read_dir(&programs).with_context(|| format!("{} can't be read", programs.display()))? {
            let name = entry?.path().file_stem().map(|stem| stem.to_string_lossy().into_owned());
            targets.extend(name.map(|name| Target { folder, name }));
        }
    }
    targets.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(targets)
}

/// Installs a cargo subcommand from the registry where it is missing.
fn ensure_tool(subcommand: &str, package: &str) -> anyhow::Result<()> {
    if succeeds(cargo().args([subcommand, "--version"])) {
        return Ok(());
    }
    println!("installing {package}");
    run_command(cargo().args(["install", "--locked", package]))
}
