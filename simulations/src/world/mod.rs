//! The programs themselves in a world made of one seed: a core and devices, their disks and clocks, the links between them,
//! and people who change their files all the while.
//!
//! **What runs is what ships**: of the core everything from its endpoint to its catalog and store (`core_node::daemon::serve`:
//! admission, sessions, transfers, ingest and commit, scope, receipts, serving, the order of writes, recovery at a start);
//! of the agent everything that its daemon does (`edge_agent::daemon::keep`: dialling, back-off, racing a silent session,
//! scanning, building and merging versions, publishing, taking back what changed, marks of freed and deleted files,
//! subscribing and materialising), its catalog in SQLite, and the commands `free` and `delete`; between them quinn, TLS, and
//! all of `headwater_quic`. Each program is the tasks of one [`Process`](headwater_quic::work::Process), and a kill drops
//! them at whatever point between two waits they are.
//!
//! **What is modelled**:
//!
//! | part | model |
//! | --- | --- |
//! | time | tokio's paused clock: it moves to the next thing that is due, when nothing else is to be done |
//! | links | [`net`]: datagrams with rate, delay, jitter, bursts of losses, repeats, queues, damage, garbage, cuts of one or both directions, stalls of all but small talk |
//! | the core's disk | packs and catalog in memory; a power cut keeps any prefix of what was not synced, some of it as zeros |
//! | a device's disk | files and SQLite in memory (tmpfs); what SQLite has committed is durable, as `synchronous=FULL` says |
//! | blocking work | takes a random time and is then done at once; so a process dies before or after it, never within |
//! | wall clocks | right, in 1970, far ahead, too fast, or set while the programs run |
//! | people | [`users`], and commands to the agent |
//!
//! **What is absent**: local sockets, signals, joining with a token, watching folders (they are scanned every few seconds),
//! gc and verification, a device's full disk. The tests with real processes have these.
//!
//! A run is a seed and a plan. Trouble lasts for a while; then all is well, and everything has to come to rest. In the end
//! the power of the core goes once more. What happened is a [`History`](history::History), which the
//! [checkers](crate::checkers) judge as a whole; the world itself judges nothing.

mod bugs;
mod capacity;
mod contents;
mod core;
mod device;
pub mod history;
mod identities;
mod net;
mod packs;
mod plan;
mod play;
mod process;
mod rest;
mod setup;
mod trace;
mod users;

pub use bugs::{BUGS, Bug};
pub use net::LinkBytes;
pub use plan::{Plan, PlanError};
pub use trace::TraceSink;

use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::sync::Once;

use headwater_quic::work;
use history::Fact;
use play::World;

use crate::checkers;

/// How a run went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What the checkers found; empty is good.
    pub problems: Vec<String>,
    /// Hash of everything that happened, in order.
    pub trace_hash: String,
    /// How much happened.
    pub tally: Tally,
}

impl Outcome {
    /// The command that plays the same run again, line by line.
    pub fn replay(&self, plan: Option<&Path>, bug: Option<Bug>) -> String {
        let plan = plan.map(|plan| format!(" --plan {}", plan.display())).unwrap_or_default();
        let bug = bug.map(|bug| format!(" --bug {bug:?}")).unwrap_or_default();
        format!("cargo run -p simulations -- sync --from {} --seeds 1{plan}{bug} --trace", self.seed)
    }
}

/// How much happened, to see that runs were worth their time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs.
    pub runs: u64,
    /// Lines of the trace.
    pub lines: u64,
    /// Versions that were committed.
    pub versions: u64,
    /// Cuts of links.
    pub cuts: u64,
    /// Deaths of processes.
    pub deaths: u64,
    /// Files that were freed.
    pub freed: u64,
    /// Versions that subscribers held.
    pub held: u64,
    /// Bytes that went over links.
    pub bytes: u64,
    /// Seconds of the world.
    pub seconds: u64,
}

impl Tally {
    fn of(history: &history::History, lines: u64) -> Self {
        let mut tally = Self { runs: 1, lines, seconds: history.took_ms / 1000, ..Self::default() };
        tally.bytes = history.wire.iter().map(|link| link.up + link.down).sum();
        for (_, fact) in &history.facts {
            match fact {
                Fact::Version { .. } => tally.versions += 1,
                Fact::Cut { .. } => tally.cuts += 1,
                Fact::Died { .. } => tally.deaths += 1,
                Fact::Freed { .. } => tally.freed += 1,
                Fact::Held { .. } => tally.held += 1,
                _ => {}
            }
        }
        tally
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.lines += other.lines;
        self.versions += other.versions;
        self.cuts += other.cuts;
        self.deaths += other.deaths;
        self.freed += other.freed;
        self.held += other.held;
        self.bytes += other.bytes;
        self.seconds += other.seconds;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { versions, cuts, deaths, freed, held, bytes, seconds, .. } = self;
        let (megabytes, hours) = (bytes / 1_000_000, seconds / 3600);
        write!(
            f,
            "{versions} versions, {cuts} cuts, {deaths} deaths, {freed} files freed, {held} versions taken, \
             {megabytes} MB over links, {hours} hours of the world"
        )
    }
}

thread_local! {
    /// Panics in the world on this thread; none if there is no world on it.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Plays one seed.
pub fn run(seed: u64, plan: &Plan, bug: Option<Bug>, trace: Option<TraceSink>) -> Outcome {
    gather_panics();
    work::make_world_of_thread();
    PANICS.set(Some(Vec::new()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without a reactor");
    let (mut history, trace_hash, lines) = runtime.block_on(World::play(seed, plan, bug, trace));
    drop(runtime);
    for panic in PANICS.take().unwrap_or_default() {
        history.facts.push((history.took_ms, Fact::Broken(format!("a panic: {panic}"))));
    }
    Outcome { seed, problems: checkers::check(&history), trace_hash, tally: Tally::of(&history, lines) }
}

/// A panic in a task of a world is a finding, not only a line on the terminal.
fn gather_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with_borrow_mut(|panics| {
                if let Some(panics) = panics {
                    panics.push(info.to_string());
                }
            });
            before(info);
        }));
    });
}
