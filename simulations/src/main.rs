//! `cargo run -p simulations -- sync --seeds 1000`: plays seeds, prints what the checkers found, and how to replay it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]

use std::process::ExitCode;

use simulations::sync;

const USAGE: &str = "usage: simulations sync [--seeds N] [--from S] [--trace]

  --seeds N  how many seeds to play (default 1000)
  --from S   the first of them (default 0)
  --trace    print everything that happens";

/// What is to be played.
struct Arguments {
    seeds: u64,
    from: u64,
    trace: bool,
}

fn main() -> ExitCode {
    match arguments(std::env::args().skip(1)) {
        Ok(arguments) => play(&arguments),
        Err(reason) => {
            eprintln!("error: {reason}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Arguments, String> {
    match given.next().as_deref() {
        Some("sync") => {}
        Some(other) => return Err(format!("there is no simulation called `{other}`")),
        None => return Err("which simulation?".into()),
    }
    let mut arguments = Arguments { seeds: 1000, from: 0, trace: false };
    while let Some(option) = given.next() {
        let mut number = || {
            let value = given.next().ok_or(format!("`{option}` needs a number"))?;
            value.parse().map_err(|_| format!("`{value}` is no number"))
        };
        match option.as_str() {
            "--seeds" => arguments.seeds = number()?,
            "--from" => arguments.from = number()?,
            "--trace" => arguments.trace = true,
            _ => return Err(format!("there is no option `{option}`")),
        }
    }
    Ok(arguments)
}

fn play(arguments: &Arguments) -> ExitCode {
    let mut failed = 0;
    let mut played = sync::Tally::default();
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        let mut print = |line: &str| println!("{line}");
        let trace: Option<sync::TraceSink<'_>> = if arguments.trace { Some(&mut print) } else { None };
        let outcome = sync::run(seed, None, trace);
        played.add(&outcome.tally);
        if !outcome.problems.is_empty() {
            failed += 1;
            println!("seed {seed} failed (trace {}):", outcome.trace_hash);
            for problem in &outcome.problems {
                println!("  {problem}");
            }
            println!("  replay: {}", outcome.replay());
        } else if arguments.seeds == 1 {
            println!("seed {seed} holds (trace {})", outcome.trace_hash);
        }
    }
    println!("{} seeds from {}, {failed} failed: {played}", arguments.seeds, arguments.from);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
