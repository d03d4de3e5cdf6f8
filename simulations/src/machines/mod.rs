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

use facts::Fact;
use world::World;

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
    pub fn replay(&self) -> String {
        format!("cargo run -p simulations -- machines --from {} --seeds 1 --trace", self.seed)
    }
}

/// Plays one seed.
pub fn run(seed: u64, bug: Option<Bug>, trace: Option<TraceSink<'_>>) -> Outcome {
    let (history, trace_hash) = World::new(seed, bug).run(trace);
    Outcome { seed, problems: checkers::check(&history), trace_hash, tally: tally_of(&history) }
}

fn tally_of(history: &facts::History) -> Tally {
    let mut tally = Tally::default();
    for fact in &history.facts {
        match fact {
            Fact::Began => tally.count("transfers", 1),
            Fact::HeardCommit(_) => tally.count("commits", 1),
            Fact::Cut => tally.count("cuts", 1),
            Fact::Crash => tally.count("crashes", 1),
            Fact::Unusable(_) => tally.count("items of no use", 1),
            Fact::Sent(bytes) => tally.count("bytes sent", *bytes),
            _ => {}
        }
    }
    tally
}
