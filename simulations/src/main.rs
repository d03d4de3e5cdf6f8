//! `cargo run -p simulations -- sync --seeds 1000`: plays seeds, prints what the checkers found, and how to replay it.
//! `cargo run -p simulations -- goodput bdp cubic`: what congestion controllers make of links, in virtual time.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]

use std::path::Path;
use std::process::ExitCode;

use headwater_quic::Congestion;
use simulations::goodput::scenarios;
use simulations::{goodput, sync};

const USAGE: &str = "usage: simulations sync [--seeds N] [--from S] [--trace]
       simulations goodput [CONTROLLER ...] [FILE ...]

  --seeds N  how many seeds to play (default 1000)
  --from S   the first of them (default 0)
  --trace    print everything that happens

  CONTROLLER cubic, newreno, bbr, bdp (default bdp and cubic)
  FILE       a recorded link: a time in milliseconds a line, at each of which 1500 bytes may cross";

/// What is to be played.
struct Arguments {
    seeds: u64,
    from: u64,
    trace: bool,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("goodput") {
        return goodput(std::env::args().skip(2));
    }
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

fn goodput(given: impl Iterator<Item = String>) -> ExitCode {
    let (mut controllers, mut links) = (Vec::new(), scenarios::all());
    for argument in given {
        match argument.parse::<Congestion>() {
            Ok(controller) => controllers.push(controller),
            Err(unknown) => match scenarios::recorded(Path::new(&argument)) {
                Ok(link) => links.push(link),
                Err(reason) => {
                    eprintln!("error: {unknown}, and {reason}\n{USAGE}");
                    return ExitCode::from(2);
                }
            },
        }
    }
    if controllers.is_empty() {
        controllers = vec![Congestion::Bdp, Congestion::Cubic];
    }
    println!("| link | controller | goodput | from the beginning | RTT, median | mean | of both flows |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for link in &links {
        for &controller in &controllers {
            let measured = goodput::run(link, controller, 1);
            let shared = link.rival.map_or_else(String::new, |_| format!("{:.0} %", 100.0 * measured.fairness));
            println!(
                "| {} | {controller:?} | {:.0} % | {:.0} % | {:.2} x | {:.2} x | {shared} |",
                link.name,
                100.0 * measured.share,
                100.0 * measured.share_in_all,
                measured.rtt_median,
                measured.rtt_mean,
            );
        }
    }
    ExitCode::SUCCESS
}
