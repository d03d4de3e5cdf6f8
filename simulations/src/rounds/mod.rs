//! The two machines of federated rounds, a run and its devices, in a world where sessions are cut and processes die: virtual
//! time, one seed, and checkers over the whole history.
//!
//! What is played is [`headwater_protocol::federated::run::Run`] and [`headwater_protocol::federated::participant::Participant`]; the
//! shells around them keep what the programs keep, in the order in which these do: an entry is durable before anybody hears of it, an update
//! before it is said to be made. A core is also killed between any two entries. [`Bug`]s can be planted, to see that the checkers bite.

mod checkers;
mod core;
mod device;
mod world;

use headwater_protocol::federated::{Entry, TaskKey, TaskKind};

use crate::tally::Tally;
use world::World;

/// Where a line of a trace goes.
pub type TraceSink<'a> = &'a mut dyn FnMut(&str);

/// A mistake that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The core's last entry is not synced: a kill loses it.
    EntryNotSynced,
    /// A device that was killed forgets that its update was made.
    UpdateForgotten,
    /// The core says a task in one session only.
    SaidOnce,
    /// An update counts for whatever the device was asked for last.
    AnyBase,
}

/// All of them, each with what its checker's findings begin with.
pub const BUGS: &[(Bug, &str)] = &[
    (Bug::EntryNotSynced, "same:"),
    (Bug::UpdateForgotten, "again:"),
    (Bug::SaidOnce, "end:"),
    (Bug::AnyBase, "once:"),
];

/// What a run is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Devices.
    pub devices: usize,
    /// Rounds that are to be aggregated.
    pub rounds: u64,
    /// Of so many devices that are asked, so many thousandths drop out for a while.
    pub drop_outs: u64,
    /// Whether processes are killed and sessions cut besides.
    pub has_trouble: bool,
}

/// Something that the checkers look at.
#[derive(Clone, Debug, PartialEq)]
enum Fact {
    /// The core wrote an entry.
    Wrote(Entry),
    /// A device was told that its update counts.
    ToldCounts(usize, TaskKey),
    /// A device was told that the core is done with its task, and that nothing counts.
    ToldOver(usize, TaskKey),
    /// A device's program has made an update.
    Made(usize, TaskKey),
    /// Updates were combined: the round, what it was for, and their ids.
    Combined(u64, TaskKind, Vec<String>),
    /// A process was killed.
    Kill,
    /// A session was cut.
    Cut,
}

/// A whole run.
struct History {
    facts: Vec<Fact>,
    /// The core's log in the end.
    log: Vec<Entry>,
    is_over: bool,
    /// Updates that count and that no round has combined.
    waiting: Vec<String>,
    /// The most that the coordinator's machine held at once: assignments and updates.
    held_max: usize,
}

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
    /// Rounds that ended, and how many of them were aggregated.
    pub rounds: (u64, u64),
    /// The most that the coordinator's machine held at once: assignments and updates.
    pub held_max: usize,
}

impl Outcome {
    /// The command that plays the same run again.
    pub fn replay(&self) -> String {
        format!("cargo run -p simulations -- rounds --from {} --seeds 1 --trace", self.seed)
    }
}

/// Plays one seed, which says how large everything is.
pub fn run(seed: u64, bug: Option<Bug>, trace: Option<TraceSink<'_>>) -> Outcome {
    play(seed, World::scale_of(seed), bug, trace)
}

/// Plays a run of this size.
pub fn play(seed: u64, scale: Scale, bug: Option<Bug>, trace: Option<TraceSink<'_>>) -> Outcome {
    let (history, trace_hash) = World::new(seed, scale, bug).run(trace);
    let count = |wanted: fn(&Entry) -> bool| history.log.iter().filter(|entry| wanted(entry)).count() as u64;
    let aggregated = count(|entry| matches!(entry, Entry::Aggregated { .. }));
    let failed = count(|entry| matches!(entry, Entry::RoundFailed { .. }));
    let mut tally = Tally::default();
    tally.count("rounds", aggregated);
    tally.count("failed rounds", failed);
    for fact in &history.facts {
        match fact {
            Fact::Kill => tally.count("kills", 1),
            Fact::Cut => tally.count("cuts", 1),
            Fact::Made(..) => tally.count("updates", 1),
            _ => {}
        }
    }
    let problems = checkers::check(&history);
    let (rounds, held_max) = ((aggregated + failed, aggregated), history.held_max);
    Outcome { seed, problems, trace_hash, tally, rounds, held_max }
}
