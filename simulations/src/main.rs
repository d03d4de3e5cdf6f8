//! `cargo run -p simulations -- sync --seeds 1000`: plays seeds of the world, prints what the checkers found, and how to
//! replay it.
//! `cargo run -p simulations -- machines --seeds 1000`: the same with the two machines that move versions alone.
//! `cargo run -p simulations -- rounds --seeds 1000`: the same with the two machines of federated rounds.
//! `cargo run -p simulations -- idle`: what a device costs that has nothing to do, and how soon an update gets through.
//! `cargo run -p simulations -- goodput bdp cubic`: what congestion controllers make of links, in virtual time.
//! `cargo run -p simulations -- links`: what real daemons and rsync make of the same links, between network namespaces.
//! `cargo run -p simulations -- reconnect --devices 1000`: a fleet with backlogs comes back after the core was restarted.
//! `cargo run -p simulations -- kills --rounds 300`: kills real processes at random moments, under load.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headwater_quic::Congestion;
use simulations::goodput::scenarios;
use simulations::tally::Tally;
use simulations::world::{self, BUGS, Bug, FULL_LINKS, IDLING, Plan};
use simulations::{goodput, kills, links, machines, quiet, reconnect, rounds};

const USAGE: &str =
    "usage: simulations sync [--seeds N] [--from S] [--plan FILE | --all-plans] [--bug NAME] [--threads N] [--trace]
       simulations machines [--seeds N] [--from S] [--trace]
       simulations rounds [--seeds N] [--from S] [--trace]
       simulations idle [--write]
       simulations goodput [--write] [CONTROLLER ...] [FILE ...]
       simulations links [--seconds N] [--sender bdp|cubic|rsync ...] [NAME ...] [FILE ...]

       simulations kills [--rounds N] [--seed S] [--between N]
       simulations reconnect [--devices N] [--backlog KIB] [--within SECONDS] [--seed S] [--write]

  --seeds N    how many seeds to play (default 1000)
  --from S     the first of them (default 0)
  --plan FILE  what runs are to be like (default simulations/plans/default.toml)
  --all-plans  play all plans of simulations/plans in turn, one with each seed
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

/// Where the plans are.
const PLANS: &str = "simulations/plans";
/// After so many seeds it is said how it goes.
const SAY_EVERY: usize = 1000;
/// Where the tables stand in docs/benchmarks.md.
const GOODPUT_SECTION: &str =
    "<!-- goodput in virtual time: written by `cargo run -p simulations -- goodput --write` -->";
const RECONNECT_SECTION: &str =
    "<!-- a fleet that comes back: written by `cargo run --release -p simulations -- reconnect --write` -->";
const IDLE_SECTION: &str = "<!-- idle cost in virtual time: written by `cargo run -p simulations -- idle --write` -->";
const SECTION_END: &str = "<!-- end of figures -->";

/// What is to be played.
struct Arguments {
    seeds: u64,
    from: u64,
    plan: Option<PathBuf>,
    all_plans: bool,
    bug: Option<Bug>,
    threads: u64,
    trace: bool,
}

fn main() -> ExitCode {
    if std::env::args().skip(1).any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let mut given = std::env::args().skip(1);
    let result = match given.next().as_deref() {
        Some("goodput") => return goodput(given),
        Some("links") => real_links(given),
        Some("idle") => match (given.next().as_deref(), given.next()) {
            (None, _) => idle(false),
            (Some("--write"), None) => idle(true),
            (Some(other), _) => Err(format!("`idle` takes no `{other}`")),
        },
        Some("sync") => arguments(given).and_then(|arguments| sync(&arguments)),
        Some("reconnect") => come_back(given),
        Some("kills") => kill_processes(given).map(|()| true),
        Some("machines") => arguments(given).map(|arguments| play_machines(&arguments)),
        Some("rounds") => arguments(given).map(|arguments| play_rounds(&arguments)),
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
    let mut arguments =
        Arguments { seeds: 1000, from: 0, plan: None, all_plans: false, bug: None, threads: 1, trace: false };
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
            "--all-plans" => arguments.all_plans = true,
            "--trace" => arguments.trace = true,
            _ => return Err(format!("there is no option `{option}`")),
        }
    }
    Ok(arguments)
}

/// The plans to play, each with the file that it is from: of several, a seed has the one at its own place, around and around.
fn plans(arguments: &Arguments) -> Result<Vec<(Option<PathBuf>, Plan)>, String> {
    if arguments.all_plans {
        let folder = Path::new(PLANS);
        let listed = std::fs::read_dir(folder).map_err(|error| format!("{PLANS} can't be read: {error}"))?;
        let mut files: Vec<PathBuf> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort_unstable();
        return files.into_iter().map(|file| Ok((Some(file.clone()), load(&file)?))).collect();
    }
    let unnamed = || arguments.bug.map_or_else(Plan::standard, Bug::plan);
    let plan = arguments.plan.as_deref().map_or_else(|| Ok(unnamed()), load)?;
    Ok(vec![(arguments.plan.clone(), plan)])
}

fn load(file: &Path) -> Result<Plan, String> {
    Plan::load(file).map_err(|error| error.to_string())
}

/// What has been played.
#[derive(Default)]
struct Played {
    hashes: BTreeMap<u64, String>,
    failed: u64,
    tally: Tally,
}

impl fmt::Display for Played {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hasher = blake3::Hasher::new();
        for hash in self.hashes.values() {
            hasher.update(hash.as_bytes());
        }
        let (hash, failed) = (&hasher.finalize().to_hex()[..16], self.failed);
        write!(f, "{} seeds, {failed} failed, traces {hash}: {}", self.hashes.len(), self.tally)
    }
}

/// Plays seeds of the world; whether all hold.
fn sync(arguments: &Arguments) -> Result<bool, String> {
    let plans = plans(arguments)?;
    let began = Instant::now();
    let threads = if arguments.trace { 1 } else { arguments.threads.max(1) };
    let seeds = arguments.from..arguments.from.saturating_add(arguments.seeds);
    let played = Mutex::new(Played::default());
    let play_part = |part: u64| {
        for seed in seeds.clone().skip(part as usize).step_by(threads as usize) {
            let (file, plan) = &plans[(seed % plans.len() as u64) as usize];
            let outcome = play(seed, file.as_deref(), plan, arguments);
            let mut played = played.lock().unwrap_or_else(PoisonError::into_inner);
            played.failed += u64::from(!outcome.problems.is_empty());
            played.tally.add(&outcome.tally);
            played.hashes.insert(seed, outcome.trace_hash);
            if played.hashes.len().is_multiple_of(SAY_EVERY) {
                println!("after {:.0} s: {played}", began.elapsed().as_secs_f64());
            }
        }
    };
    std::thread::scope(|scope| {
        let play_part = &play_part;
        (0..threads).for_each(|part| drop(scope.spawn(move || play_part(part))));
    });
    let played = played.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("from {} in {:.1} s: {played}", arguments.from, began.elapsed().as_secs_f64());
    Ok(played.failed == 0)
}

fn play(seed: u64, file: Option<&Path>, plan: &Plan, arguments: &Arguments) -> world::Outcome {
    let sink = || Box::new(|line: &str| println!("{line}")) as world::TraceSink;
    let outcome = world::run(seed, plan, arguments.bug, arguments.trace.then(sink));
    if !outcome.problems.is_empty() {
        println!(
            "seed {seed} failed (trace {}):\n  {}\n  replay: {}",
            outcome.trace_hash,
            outcome.problems.join("\n  "),
            outcome.replay(file, arguments.bug)
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
    let mut played = Tally::default();
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        let mut print = |line: &str| println!("{line}");
        let trace: Option<machines::TraceSink<'_>> = if arguments.trace { Some(&mut print) } else { None };
        let outcome = machines::run(seed, None, trace);
        played.add(&outcome.tally);
        failed +=
            u64::from(!say(seed, &outcome.trace_hash, &outcome.problems, &outcome.replay(), arguments.seeds == 1));
    }
    println!("{} seeds from {}, {failed} failed: {played}", arguments.seeds, arguments.from);
    failed == 0
}

/// Plays seeds of the machines of federated rounds; whether all hold.
fn play_rounds(arguments: &Arguments) -> bool {
    let mut failed = 0;
    let mut played = Tally::default();
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        let mut print = |line: &str| println!("{line}");
        let trace: Option<rounds::TraceSink<'_>> = if arguments.trace { Some(&mut print) } else { None };
        let outcome = rounds::run(seed, None, trace);
        played.add(&outcome.tally);
        failed +=
            u64::from(!say(seed, &outcome.trace_hash, &outcome.problems, &outcome.replay(), arguments.seeds == 1));
    }
    println!("{} seeds from {}, {failed} failed: {played}", arguments.seeds, arguments.from);
    failed == 0
}

/// Says how a seed went, where that is asked for or nothing holds; whether it holds.
fn say(seed: u64, trace_hash: &str, problems: &[String], replay: &str, is_only: bool) -> bool {
    if !problems.is_empty() {
        println!("seed {seed} failed (trace {trace_hash}):");
        for problem in problems {
            println!("  {problem}");
        }
        println!("  replay: {replay}");
    } else if is_only {
        println!("seed {seed} holds (trace {trace_hash})");
    }
    problems.is_empty()
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

/// Measures what a device costs that has nothing to do, and how soon an update gets through a full link.
fn idle(write: bool) -> Result<bool, String> {
    let idling = IDLING.iter().map(|idling| (*idling, world::idle(*idling, world::DAY)));
    let idling: Vec<_> = idling.inspect(|(idling, cost)| eprintln!("{}: {cost:?}", idling.name)).collect();
    let full = FULL_LINKS.iter().map(|&(round_trip_ms, loss)| {
        let round_trip = Duration::from_millis(round_trip_ms);
        (round_trip, loss, world::first_byte(round_trip, loss))
    });
    let full: Vec<_> = full.inspect(|(_, _, first)| eprintln!("{first:?}")).collect();
    let (tables, all_reached) = quiet::tables(&idling, &full);
    println!("{tables}");
    if write {
        put_on_page(IDLE_SECTION, &tables)?;
    }
    Ok(all_reached)
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
