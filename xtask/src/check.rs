//! `test`: every check of the repository, in the order in which a failure is cheapest to learn.
//!
//! Each step runs even where an earlier one failed, and the last line says how many tests passed and failed. A step that
//! fails without naming a test (formatting, a lint, a crate that doesn't compile) counts as one failure. Tests that could
//! not test what they are for are named too.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::process::{cargo, line_of, run as run_command, target_dir};
use crate::world::Programs;
use crate::{lab, setup, tidy};

/// What the tests of one step came to.
#[derive(Clone, Copy, Default)]
struct Tally {
    passed: u64,
    failed: u64,
}

struct StepResult {
    name: &'static str,
    took: Duration,
    tally: Tally,
    error: Option<anyhow::Error>,
}

/// Runs all steps; fails if one does.
pub(crate) fn run() -> anyhow::Result<()> {
    println!("==> setup");
    setup::ensure(&[setup::C_COMPILER, setup::RUSTFMT, setup::CLIPPY])?;
    setup::ensure(&setup::LAB)?;
    setup::ensure(&setup::RDMA)?;
    setup::ensure(&setup::PYTHON)?;
    let skipped = Skipped::new();
    let results = [
        step("fmt", || plain(cargo().args(["fmt", "--all", "--", "--check"]))),
        step("tidy", || tidy::run().map(|()| Tally::default())),
        step("clippy", || {
            plain(cargo().args(CLIPPY_ARGS).args(lab::rdma_features()).args(["--", "--deny", "warnings"]))
        }),
        step("tests", || tests(&skipped)),
        step("lab", || in_lab(&skipped)),
        step("rdma", || over_rdma(&skipped)),
    ];

    println!("\n==> summary");
    let mut total = Tally::default();
    for result in &results {
        let outcome = result.error.as_ref().map_or_else(|| "ok".to_owned(), |error| format!("FAILED: {error:#}"));
        println!("{:<8} {:>6.1} s  {outcome}", result.name, result.took.as_secs_f64());
        total.passed += result.tally.passed;
        total.failed += result.tally.failed.max(u64::from(result.error.is_some()));
    }
    for line in skipped.lines() {
        println!("skipped: {line}");
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if results.iter().any(|result| result.error.is_some()) {
        bail!("a check failed");
    }
    Ok(())
}

const CLIPPY_ARGS: [&str; 5] = ["clippy", "--workspace", "--all-targets", "--locked", "--quiet"];

fn step(name: &'static str, body: impl FnOnce() -> anyhow::Result<Tally>) -> StepResult {
    println!("\n==> {name}");
    let _ = std::io::stdout().flush();
    let start = Instant::now();
    match body() {
        Ok(tally) => {
            let error = (tally.failed > 0).then(|| anyhow::anyhow!("{} tests failed", tally.failed));
            StepResult { name, took: start.elapsed(), tally, error }
        }
        Err(error) => {
            println!("{error:#}");
            StepResult { name, took: start.elapsed(), tally: Tally::default(), error: Some(error) }
        }
    }
}

fn plain(command: &mut std::process::Command) -> anyhow::Result<Tally> {
    run_command(command).map(|()| Tally::default())
}

/// All tests and doc tests, shown as they run and summed from the lines in which each test binary says what it came to.
fn tests(skipped: &Skipped) -> anyhow::Result<Tally> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(lab::rdma_features());
    let line = line_of(&command);
    let mut child = command
        .env(Skipped::VARIABLE, &skipped.path)
        // Cargo has built the programs before it runs the first test; asked again from within, it would build them once more,
        // with the features that they alone need.
        .env("HEADWATER_TEST_PROGRAMS", Programs::tested_folder())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{line}` can't be started"))?;
    let mut tally = Tally::default();
    for output in BufReader::new(child.stdout.take().expect("stdout is piped")).split(b'\n') {
        let output = output?;
        let output = String::from_utf8_lossy(&output);
        println!("{output}");
        if let Some(more) = tally_of(&output) {
            tally.passed += more.passed;
            tally.failed += more.failed;
        }
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        bail!("`{line}` failed: {status}");
    }
    Ok(tally)
}

/// The short form of the lab: one sync of real daemons over a lossy link.
fn in_lab(skipped: &Skipped) -> anyhow::Result<Tally> {
    if let Some(reason) = lab::lacking() {
        println!("skipped: {reason}");
        skipped.note(&format!("`cargo xtask lab short`: {reason}"))?;
        return Ok(Tally::default());
    }
    lab::short(&Programs::tested())?;
    Ok(Tally { passed: 1, failed: 0 })
}

/// Training jobs over a verbs device in the lab.
fn over_rdma(skipped: &Skipped) -> anyhow::Result<Tally> {
    if let Some(reason) = lab::lacking_rdma() {
        println!("skipped: {reason}");
        skipped.note(&format!("`cargo xtask lab rdma`: {reason}"))?;
        return Ok(Tally::default());
    }
    lab::rdma_short()?;
    Ok(Tally { passed: 1, failed: 0 })
}

/// The list of tests that could not test what they are for, which they write themselves.
struct Skipped {
    path: PathBuf,
}

impl Skipped {
    const VARIABLE: &str = "HEADWATER_TEST_SKIPPED";

    fn new() -> Self {
        Self { path: target_dir().join(format!("skipped-{}", std::process::id())) }
    }

    fn note(&self, line: &str) -> anyhow::Result<()> {
        let mut file = File::options().create(true).append(true).open(&self.path)?;
        Ok(writeln!(file, "{line}")?)
    }

    fn lines(&self) -> Vec<String> {
        // Without a file, nothing was skipped.
        std::fs::read_to_string(&self.path).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for Skipped {
    fn drop(&mut self) {
        // It is there only if something was skipped.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The counts in a line as `test result: ok. 12 passed; 0 failed; 1 ignored; ...`.
fn tally_of(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count =
        |what: &str| counts.split(';').find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok());
    Some(Tally { passed: count("passed")?, failed: count("failed")? })
}

#[cfg(test)]
mod tests {
    use super::tally_of;

    #[test]
    fn sums_are_read_from_result_lines_only() {
        let tally =
            tally_of("test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; in 0.01s");
        assert_eq!(tally.map(|tally| (tally.passed, tally.failed)), Some((12, 3)));
        assert!(tally_of("test sync::resumes ... ok").is_none());
    }
}
