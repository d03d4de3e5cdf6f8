//! `cargo run -p simulations -- sync --seeds 1000`: plays seeds of the world, prints what the checkers found, and how to
//! replay it.
//! `cargo run -p simulations -- machines --seeds 1000`: the same with the two machines that move versions alone.
//! `cargo run -p simulations -- goodput bdp cubic`: what congestion controllers make of links, in virtual time.
//! `cargo run -p simulations -- links`: what real daemons and rsync make of the same links, between network namespaces.
//! `cargo run -p simulations -- reconnect --devices 1000`: a fleet with backlogs comes back after the core was restarted.
//! `cargo run -p simulations -- kills --rounds 300`: kills real processes at random moments, under load.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headwater_quic::Congestion;
use simulations::goodput::scenarios;
use simulations::world::{self, BUGS, Bug, Plan};
use simulations::{goodput, kills, links, machines, reconnect};

const USAGE: &str = "usage: simulations sync [--seeds N] [--from S] [--plan FILE] [--bug NAME] [--threads N] [--trace]
       simulations machines [--seeds N] [--from S] [--trace]
       simulations goodput [--write] [CONTROLLER ...] [FILE ...]
       simulations links [--seconds N] [--sender bdp|cubic|rsync ...] [NAME ...] [FILE ...]

       simulations kills [--rounds N] [--seed S] [--between N]
       simulations reconnect [--devices N] [--backlog KIB] [--within SECONDS] [--seed S] [--write]

  --seeds N    how many seeds to play (default 1000)
  --from S     the first of them (default 0)
  --plan FILE  what runs are to be like (default simulations/plans/default.toml)
  --bug NAME   plant a mistake, to see that it is noticed: one of those in simulations/src/world/bugs.rs
  --threads N  threads that play them (default 1)
  --trace      print everything that happens
  --write      put the table into docs/benchmarks.md, and the plot into docs/images

  --seconds N  after which a sender is stopped (default 120)
  NAME         a part of a link's name

  --devices N  devices that come back (default 1000)
  --backlog N  KiB that each has gathered meanwhile (default 1024)
  --within N   seconds in which all knock (default 60)

  --rounds N   moments at which something is killed (default 300)
  --seed S     what draws them (default: the time); processes run as the machine lets them, so a seed is not repeated exactly
  --between N  rounds after which everything is left to converge and is compared (default 25)

  CONTROLLER   cubic, newreno, bbr, bdp (default bdp and cubic)
  FILE         a recorded link: a time in milliseconds a line, at each of which 1500 bytes may cross";

/// Where the tables stand in docs/benchmarks.md.
const GOODPUT_SECTION: &str =
    "<!-- goodput in virtual time: written by `cargo run -p simulations -- goodput --write` -->";
const RECONNECT_SECTION: &str =
    "<!-- a fleet that comes back: written by `cargo run --release -p simulations -- reconnect --write` -->";
const SECTION_END: &str = "<!-- end of figures -->";

/// What is to be played.
struct Arguments {
    seeds: u64,
    from: u64,
    plan: Option<PathBuf>,
    bug: Option<Bug>,
    threads: u64,
    trace: bool,
}

fn main() -> ExitCode {
    let mut given = std::env::args().skip(1);
    let result = match given.next().as_deref() {
        Some("goodput") => return goodput(given),
        Some("links") => real_links(given),
        Some("sync") => arguments(given).and_then(|arguments| sync(&arguments)),
        Some("reconnect") => come_back(given),
        Some("kills") => kill_processes(given).map(|()| true),
        Some("machines") => arguments(given).map(|arguments| play_machines(&arguments)),
        Some(other) => Err(format!("there is no simulation called `{other}`")),
        None => Err("which simulation?".into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("error: {reason}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { seeds: 1000, from: 0, plan: None, bug: None, threads: 1, trace: false };
    while let Some(option) = given.next() {
        let mut value = || given.next().ok_or(format!("`{option}` needs a value"));
        let number = |value: String| value.parse().map_err(|_| format!("`{value}` is no number"));
        match option.as_str() {
            "--seeds" => arguments.seeds = value().and_then(number)?,
            "--from" => arguments.from = value().and_then(number)?,
            "--threads" => arguments.threads = value().and_then(number)?,
            "--plan" => arguments.plan = Some(value()?.into()),
            "--bug" => {
                let name = value()?;
                let known = BUGS.iter().map(|(bug, _)| *bug).find(|bug| format!("{bug:?}") == name);
                arguments.bug = Some(known.ok_or(format!("there is no mistake called `{name}`"))?);
            }
            "--trace" => arguments.trace = true,
            _ => return Err(format!("there is no option `{option}`")),
        }
    }
    Ok(arguments)
}

/// Plays seeds of the world; whether all hold.
fn sync(arguments: &Arguments) -> Result<bool, String> {
    let plan = match &arguments.plan {
        Some(path) => Plan::load(path).map_err(|error| error.to_string())?,
        None => Plan::standard(),
    };
    let began = Instant::now();
    let threads = if arguments.trace { 1 } else { arguments.threads.max(1) };
    let seeds = arguments.from..arguments.from.saturating_add(arguments.seeds);
    let play_part = |part: u64| {
        let seeds = seeds.clone().skip(part as usize).step_by(threads as usize);
        seeds.map(|seed| play(seed, &plan, arguments)).collect::<Vec<_>>()
    };
    let mut outcomes: Vec<world::Outcome> = std::thread::scope(|scope| {
        let playing: Vec<_> = (0..threads).map(|part| scope.spawn(move || play_part(part))).collect();
        playing.into_iter().flat_map(|part| part.join().expect("findings are no panics")).collect()
    });
    outcomes.sort_unstable_by_key(|outcome| outcome.seed);
    let (mut played, mut hashes) = (world::Tally::default(), blake3::Hasher::new());
    for outcome in &outcomes {
        played.add(&outcome.tally);
        hashes.update(outcome.trace_hash.as_bytes());
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.problems.is_empty()).count();
    let (hash, seconds) = (&hashes.finalize().to_hex()[..16], began.elapsed().as_secs_f64());
    let Arguments { seeds, from, .. } = arguments;
    println!("{seeds} seeds from {from} in {seconds:.1} s, {failed} failed, traces {hash}: {played}");
    Ok(failed == 0)
}

fn play(seed: u64, plan: &Plan, arguments: &Arguments) -> world::Outcome {
    let sink = || Box::new(|line: &str| println!("{line}")) as world::TraceSink;
    let outcome = world::run(seed, plan, arguments.bug, arguments.trace.then(sink));
    if !outcome.problems.is_empty() {
        println!(
            "seed {seed} failed (trace {}):\n  {}\n  replay: {}",
            outcome.trace_hash,
            outcome.problems.join("\n  "),
            outcome.replay(arguments.plan.as_deref(), arguments.bug)
        );
    }
    outcome
}

/// Measures real daemons over links.
fn real_links(given: impl Iterator<Item = String>) -> Result<bool, String> {
    let given: Vec<String> = given.collect();
    if let Some(table) = links::command(&given)? {
        println!("{table}");
    }
    Ok(true)
}

/// Plays seeds of the two machines; whether all hold.
fn play_machines(arguments: &Arguments) -> bool {
    let mut failed = 0;
    let mut played = machines::Tally::default();
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        let mut print = |line: &str| println!("{line}");
        let trace: Option<machines::TraceSink<'_>> = if arguments.trace { Some(&mut print) } else { None };
        let outcome = machines::run(seed, None, trace);
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
    failed == 0
}

/// Kills real processes; what does not hold is a panic, with all logs.
fn kill_processes(mut given: impl Iterator<Item = String>) -> Result<(), String> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let mut options = kills::Options { seed: clock, rounds: 300, rounds_between: 25 };
    while let Some(option) = given.next() {
        let value = given.next().ok_or(format!("`{option}` needs a value"))?;
        let number: u64 = value.parse().map_err(|_| format!("`{value}` is no number"))?;
        match option.as_str() {
            "--rounds" => options.rounds = u32::try_from(number).unwrap_or(u32::MAX),
            "--between" => options.rounds_between = u32::try_from(number).unwrap_or(u32::MAX).max(1),
            "--seed" => options.seed = number,
            _ => return Err(format!("there is no option `{option}`")),
        }
    }
    println!("seed {}", options.seed);
    println!("{}", kills::run(options));
    Ok(())
}

fn goodput(given: impl Iterator<Item = String>) -> ExitCode {
    let (mut controllers, mut links, mut write) = (Vec::new(), scenarios::all(), false);
    for argument in given {
        if argument == "--write" {
            write = true;
            continue;
        }
        match argument.parse::<Congestion>() {
            Ok(controller) => controllers.push(controller),
            Err(unknown) => match scenarios::recorded(Path::new(&argument)) {
                Ok(recorded) => links.extend(recorded),
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
    let mut lines = Vec::new();
    for link in &links {
        for &congestion in &controllers {
            let figures = goodput::run(link, congestion, 1).figures;
            let sender = format!("{congestion:?}").to_lowercase();
            lines.push(goodput::Line { link: link.name.clone(), sender, bar: link.bar, figures });
        }
    }
    let table = goodput::table(&lines);
    println!("{table}");
    let written = if write { write_goodput(&table, &lines) } else { Ok(()) };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Lets a fleet come back; whether the core stayed as small as it should.
fn come_back(mut given: impl Iterator<Item = String>) -> Result<bool, String> {
    let mut options =
        reconnect::Options { devices: 1000, backlog_bytes: 1 << 20, within: Duration::from_mins(1), seed: 1 };
    let mut write = false;
    while let Some(option) = given.next() {
        if option == "--write" {
            write = true;
            continue;
        }
        let value = given.next().ok_or(format!("`{option}` needs a value"))?;
        let number: u64 = value.parse().map_err(|_| format!("`{value}` is no number"))?;
        match option.as_str() {
            "--devices" => options.devices = number.max(1) as usize,
            "--backlog" => options.backlog_bytes = (number as usize) << 10,
            "--within" => options.within = Duration::from_secs(number),
            "--seed" => options.seed = number,
            _ => return Err(format!("there is no option `{option}`")),
        }
    }
    let tally = reconnect::run(options);
    println!("{tally}");
    if write {
        let reconnect::Options { devices, backlog_bytes, within, seed } = options;
        let how = format!(
            "{}, commit {}, `cargo run{} -p simulations -- reconnect --devices {devices} --backlog {} --within {} --seed \
             {seed}`, {} cores:",
            said_by("date", &["-u", "+%F"])?,
            said_by("git", &["rev-parse", "--short=12", "HEAD"])?,
            if cfg!(debug_assertions) { "" } else { " --release" },
            backlog_bytes >> 10,
            within.as_secs(),
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        );
        put_on_page(RECONNECT_SECTION, &reconnect::figures(&tally, &how))?;
    }
    Ok(tally.core_peak_bytes <= reconnect::CORE_BYTES_MAX)
}

/// What a command prints.
fn said_by(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("`{program}` can't be run: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Puts the table of goodput into docs/benchmarks.md and the plot beside it.
fn write_goodput(table: &str, lines: &[goodput::Line]) -> Result<(), String> {
    let plot = goodput::plot(lines)?;
    put_on_page(GOODPUT_SECTION, &format!("{table}\n![The same as bars](images/goodput.svg)\n"))?;
    std::fs::write(docs().join("images/goodput.svg"), plot)
        .map_err(|error| format!("the plot can't be written: {error}"))
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs")
}

/// Puts figures into their section of docs/benchmarks.md.
fn put_on_page(section: &str, figures: &str) -> Result<(), String> {
    let page = docs().join("benchmarks.md");
    let text = std::fs::read_to_string(&page).map_err(|error| format!("{} can't be read: {error}", page.display()))?;
    let begin = text.find(section).map(|at| at + section.len());
    let end = begin.and_then(|begin| Some(begin + text[begin..].find(SECTION_END)?));
    let (Some(begin), Some(end)) = (begin, end) else {
        return Err(format!("{} has no place for these figures: `{section}`", page.display()));
    };
    let new = format!("{}\n\n{figures}\n{}", &text[..begin], &text[end..]);
    std::fs::write(&page, new).map_err(|error| format!("the figures can't be written: {error}"))
}
