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
//! | links | [`net`]: datagrams with rate (constant, wandering or recorded), delay, jitter, bursts of losses, repeats, queues, damage, garbage, cuts of one or both directions, stalls of all but small talk |
//! | the core's disk | packs and catalog in memory; a power cut keeps any subset of what was not synced: of each pack's a prefix, in which sectors may hold zeros, and names that came or went; and bits turn where they lie |
//! | a device's disk | [`disk`]: files and SQLite in memory (tmpfs); full for a while; a power cut keeps any subset of what was not synced, but for what SQLite has committed, which `synchronous=FULL` makes durable |
//! | blocking work | takes a random time and is then done at once; the core may also die within any operation on its disk, half done |
//! | a link's rules | caps of both directions, hours in which it is closed, what a month may cost; [`watch`] notes what becomes of them |
//! | wall clocks | right, in 1970, far ahead, too fast, or set while the programs run |
//! | people | [`users`], and commands to the agent |
//!
//! **What is absent**: local sockets, signals, watching folders (they are scanned every few seconds). The tests with real
//! processes have these.
//!
//! A run is a seed and a plan. Trouble lasts for a while; then all is well, and everything has to come to rest. In the end
//! the power of the core goes once more. What happened is a [`History`](history::History), which the
//! [checkers](crate::checkers) judge as a whole; the world itself judges nothing.

mod bugs;
mod capacity;
mod contents;
mod core;
mod device;
mod disk;
mod first_byte;
pub mod history;
mod identities;
mod idle;
mod net;
mod observe;
mod packs;
mod plan;
mod play;
mod process;
mod rest;
mod rules;
mod setup;
mod trace;
mod users;
mod watch;

pub use bugs::{BUGS, Bug};
pub use first_byte::{FULL_LINKS, FirstByte, first_byte};
pub use idle::{DAY, IDLING, IdleCost, Idling, idle};
pub use plan::{Plan, PlanError};
pub use rules::Rules;
pub use trace::TraceSink;
pub use watch::LinkBytes;

use std::cell::RefCell;
use std::path::Path;
use std::sync::Once;

use headwater_quic::work;
use history::Fact;
use play::World;

use crate::checkers;
use crate::tally::Tally;

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

thread_local! {
    /// Panics in the world on this thread; none if there is no world on it.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Plays something alone on this thread, in virtual time.
fn alone<T>(play: impl Future<Output = T>) -> T {
    work::make_world_of_thread();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without a reactor");
    runtime.block_on(play)
}

/// Plays one seed.
pub fn run(seed: u64, plan: &Plan, bug: Option<Bug>, trace: Option<TraceSink>) -> Outcome {
    gather_panics();
    PANICS.set(Some(Vec::new()));
    let (mut history, trace_hash, lines) = alone(World::play(seed, plan, bug, trace));
    for panic in PANICS.take().unwrap_or_default() {
        history.facts.push((history.took_ms, Fact::Broken(format!("a panic: {panic}"))));
    }
    Outcome { seed, problems: checkers::check(&history), trace_hash, tally: tally_of(&history, lines) }
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

fn tally_of(history: &history::History, lines: u64) -> Tally {
    let mut tally = Tally::default();
    tally.count("runs", 1);
    tally.count("events", lines);
    tally.count("seconds", history.took_ms / 1000);
    tally.count("bytes over links", history.wire.iter().map(|link| link.up + link.down).sum());
    tally.add(&history.datagrams);
    for (_, fact) in &history.facts {
        match fact {
            Fact::Did(what) => tally.count(what, 1),
            Fact::Deleted { .. } => tally.count("files deleted by command", 1),
            Fact::Version { .. } => tally.count("versions", 1),
            Fact::Freed { .. } => tally.count("files freed", 1),
            Fact::Held { .. } => tally.count("versions taken", 1),
            _ => {}
        }
    }
    tally
}
