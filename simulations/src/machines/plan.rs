//! What a run is to be like, drawn from its seed; and the bugs that may be planted in it.

use crate::random::Random;

/// One run's circumstances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Versions that the device publishes.
    pub versions: u64,
    /// How often the connection is cut.
    pub cuts: u64,
    /// How often the core's process dies.
    pub crashes: u64,
    /// Payload bytes that may be under way.
    pub window_bytes: u64,
    /// One way over the link takes up to so many nanoseconds.
    pub delay_ns: u64,
    /// Bytes per second of the link.
    pub rate: u64,
    /// A read, a look-up or a write takes up to so many nanoseconds.
    pub disk_ns: u64,
    /// Loads of chunks that fail because the file has gone, in all.
    pub vanishing: u64,
    /// One item in so many travels in a way that turns out to be of no use; 0 is never.
    pub unusable_once_in: u64,
    /// The core remembers which pages are complete.
    pub remembers_complete: bool,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(random: &mut Random) -> Self {
        let millisecond = 1_000_000;
        Self {
            versions: random.between(1, 4),
            cuts: *random.pick(&[0, 0, 1, 3, 8]),
            crashes: *random.pick(&[0, 0, 1, 3]),
            window_bytes: *random.pick(&[2 << 20, 3 << 20, 8 << 20]),
            delay_ns: *random.pick(&[millisecond / 10, 20 * millisecond, 400 * millisecond]),
            rate: *random.pick(&[32_000, 2_000_000, 100_000_000]),
            disk_ns: *random.pick(&[millisecond / 100, 5 * millisecond, 200 * millisecond]),
            vanishing: *random.pick(&[0, 0, 0, 4]),
            unusable_once_in: *random.pick(&[0, 0, 10, 100]),
            remembers_complete: !random.once_in(4),
        }
    }
}

/// A mistake of a shell or a store, planted to see that the checkers notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Items count as durable when they arrive.
    AcknowledgesEarly,
    /// A crash loses what was durable a moment ago.
    ForgetsOnCrash,
    /// The store says that it has a chunk that it has not.
    ClaimsPresence,
    /// The store says that everything below a page is here when only the page is.
    ClaimsComplete,
    /// A version that is committed already is committed again.
    CommitsAgain,
    /// The device hears of the commit before it happens.
    AnswersEarly,
    /// The store forgets what it has when it is asked after a cut.
    ForgetsPresence,
    /// A control message gets lost on a connection that lives.
    LosesMessages,
    /// Items get lost on a connection that lives.
    LosesItems,
    /// The device sends every item twice.
    SendsTwice,
}

/// All bugs, and what the checker that notices is called.
pub const BUGS: &[(Bug, &str)] = &[
    (Bug::AcknowledgesEarly, "what was acknowledged is kept"),
    (Bug::ForgetsOnCrash, "what was acknowledged is kept"),
    (Bug::ClaimsPresence, "versions are committed whole"),
    (Bug::ClaimsComplete, "versions are committed whole"),
    (Bug::CommitsAgain, "versions are committed once"),
    (Bug::AnswersEarly, "a commit is heard only after it happened"),
    (Bug::ForgetsPresence, "wire bytes are bounded"),
    (Bug::LosesMessages, "the newest version arrives"),
    (Bug::LosesItems, "the newest version arrives"),
    (Bug::SendsTwice, "honest peers keep to the protocol"),
];
