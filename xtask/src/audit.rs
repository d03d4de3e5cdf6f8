//! `audit`: what takes too long for every change: dependencies' licences and advisories, and fuzzing for a while.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::process::{cargo, root, run as run_command, succeeds, target_dir};

/// Longest input that is tried, in bytes; longer ones fail at the length caps.
const INPUT_BYTES_MAX: u32 = 64 << 10;

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
    if let Some(unknown) = only.iter().find(|name| !targets.contains(name)) {
        bail!("there is no fuzz target `{unknown}`; there are {}", targets.join(", "));
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
    for target in targets.iter().filter(|target| only.is_empty() || only.contains(target)) {
        println!("\n==> fuzzing {target} for {seconds} s");
        let found = seeds.join(target);
        fs::create_dir_all(&found)?;
        let committed = root().join("protocol/fuzz/corpus").join(target);
        let mut command = fuzz_command();
        command.args(["run", "--fuzz-dir", "protocol/fuzz", target]).arg(&found);
        if committed.is_dir() {
            command.arg(committed);
        }
        command.arg("--").arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={INPUT_BYTES_MAX}"));
        command.args(["-rss_limit_mb=1024", "-timeout=10", "-print_final_stats=1"]);
        run_command(&mut command).with_context(|| {
            format!("fuzzing {target} found something; commit its input to protocol/fuzz/corpus/{target}/ with the fix")
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

fn targets() -> anyhow::Result<Vec<String>> {
    let folder = root().join("protocol/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("{} can't be read", folder.display()))? {
        names.extend(entry?.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Installs a cargo subcommand from the registry where it is missing.
fn ensure_tool(subcommand: &str, package: &str) -> anyhow::Result<()> {
    if succeeds(cargo().args([subcommand, "--version"])) {
        return Ok(());
    }
    println!("installing {package}");
    run_command(cargo().args(["install", "--locked", package]))
}
