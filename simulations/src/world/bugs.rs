//! Mistakes that may be planted where the world meets the programs, to see that the checkers notice.

/// A planted mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The core's disk says that bytes are durable that are only in the process's memory.
    AcknowledgesEarly,
    /// The core's packs are never synced.
    SkipsSync,
    /// Now and then a piece of work that is waited for never gets its turn.
    LosesWakeUps,
    /// The core believes of a page that everything below it is there.
    SkipsPage,
    /// The device forgets that files were freed.
    DropsFreed,
}

/// All bugs, and what the checker that notices is called.
pub const BUGS: &[(Bug, &str)] = &[
    (Bug::AcknowledgesEarly, "nothing acknowledged is lost"),
    (Bug::SkipsSync, "nothing acknowledged is lost"),
    (Bug::LosesWakeUps, "every run converges"),
    (Bug::SkipsPage, "versions are whole"),
    (Bug::DropsFreed, "freed files stay"),
];
