//! The two machines that move versions, in a world where links are cut and processes die: virtual time, one seed, and
//! checkers over the whole history.
//!
//! [`run`] plays one seed. What a run is like (sizes, delays, cuts, crashes) follows from the seed; the same seed gives the
//! same trace, so a failing run is replayed by one command. [`Bug`]s can be planted, to see that the checkers bite.

pub mod checkers;
mod core;
mod device;
pub mod facts;
mod plan;
mod tree;
mod world;

pub use plan::{BUGS, Bug, Plan};
pub use world::TraceSink;

use std::fmt;

use facts::Fact;
use world::World;

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

/// How much happened, to see that a run was worth its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Transfers that began.
    pub transfers: u64,
    /// Commits that the device heard of.
    pub commits: u64,
    /// Connections that were cut.
    pub cuts: u64,
    /// Deaths of the core's process.
    pub crashes: u64,
    /// Items that were of no use.
    pub unusable: u64,
    /// Payload bytes sent.
    pub bytes: u64,
}

impl Tally {
    fn of(history: &facts::History) -> Self {
        let mut tally = Self::default();
        for fact in &history.facts {
            match fact {
                Fact::Began => tally.transfers += 1,
                Fact::HeardCommit(_) => tally.commits += 1,
                Fact::Cut => tally.cuts += 1,
                Fact::Crash => tally.crashes += 1,
                Fact::Unusable(_) => tally.unusable += 1,
                Fact::Sent(bytes) => tally.bytes += bytes,
                _ => {}
            }
        }
        tally
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.transfers += other.transfers;
        self.commits += other.commits;
        self.cuts += other.cuts;
        self.crashes += other.crashes;
        self.unusable += other.unusable;
        self.bytes += other.bytes;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transfers, commits, cuts, crashes, unusable, bytes } = self;
        let megabytes = bytes / 1_000_000;
        write!(
            f,
            "{transfers} transfers, {commits} commits, {cuts} cuts, {crashes} crashes, {unusable} items of no use, \
             {megabytes} MB"
        )
    }
}

impl Outcome {
    /// The command that plays the same run again, line by line.
    pub fn replay(&self) -> String {
        format!("cargo run -p simulations -- machines --from {} --seeds 1 --trace", self.seed)
    }
}

/// Plays one seed.
pub fn run(seed: u64, bug: Option<Bug>, trace: Option<TraceSink<'_>>) -> Outcome {
    let (history, trace_hash) = World::new(seed, bug).run(trace);
    Outcome { seed, problems: checkers::check(&history), trace_hash, tally: Tally::of(&history) }
}
