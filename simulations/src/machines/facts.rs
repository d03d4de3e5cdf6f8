//! What happened in a run, as the checkers see it: facts in the order in which they became true.

use std::collections::BTreeMap;

use headwater_protocol::id::ChunkId;

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Pages and chunks became durable at the core.
    Durable(Vec<ChunkId>),
    /// The core's store lost these. Only a planted bug does that.
    Lost(Vec<ChunkId>),
    /// The device heard that these chunks are durable.
    Acknowledged(Vec<ChunkId>),
    /// The core committed a version, by its index.
    Committed(usize),
    /// The device heard that a version is committed.
    HeardCommit(usize),
    /// The device put payload on the wire.
    Sent(u64),
    /// Payload arrived that was of no use: a delta or prefix that did not fit.
    Unusable(u64),
    /// A transfer began.
    Began,
    /// The connection was cut.
    Cut,
    /// The core's process died.
    Crash,
    /// A machine called honest behaviour a violation, or refused it.
    Broken(String),
    /// A receiver remembered so many things.
    Remembered(usize),
    /// Nothing was left to do, and the run was not over.
    StoodStill,
    /// The run did not end in its time.
    Endless,
}

/// What a version consists of.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Its pages and chunks, and their bytes.
    pub bytes: BTreeMap<ChunkId, u64>,
}

/// A run from its first to its last fact.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The facts.
    pub facts: Vec<Fact>,
    /// The versions that the device has published, in order.
    pub versions: Vec<Parts>,
    /// Payload bytes that the core let be under way.
    pub window_bytes: u64,
}
