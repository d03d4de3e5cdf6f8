//! Mistakes that may be planted where the world meets the programs, to see that the checkers notice.

use super::plan::Plan;

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
    /// The device sends as fast as it goes.
    IgnoresCap,
    /// The core is not told how fast it may send.
    IgnoresDownCap,
    /// The device knows no hours in which its link is closed.
    IgnoresSchedule,
    /// The device forgets at each start what the month has cost.
    ForgetsMonth,
    /// The core believes of a chunk that it was stored once, and so is there for ever.
    IgnoresDamage,
    /// What a device's agent syncs is not durable.
    SkipsDeviceSync,
}

impl Bug {
    /// The plan of runs in which it can show: the one with the most of what it is about.
    pub fn plan(self) -> Plan {
        match self {
            Self::IgnoresCap | Self::IgnoresDownCap | Self::IgnoresSchedule => Plan::metered(),
            Self::ForgetsMonth => Plan::metered().with_months(),
            Self::IgnoresDamage => Plan::damage(),
            _ => Plan::standard(),
        }
    }
}

/// All bugs, and what the checker that notices is called.
pub const BUGS: &[(Bug, &str)] = &[
    (Bug::AcknowledgesEarly, "nothing acknowledged is lost"),
    (Bug::SkipsSync, "nothing acknowledged is lost"),
    (Bug::LosesWakeUps, "every run converges"),
    (Bug::SkipsPage, "versions are whole"),
    (Bug::DropsFreed, "freed files stay"),
    (Bug::IgnoresCap, "no cap is exceeded"),
    (Bug::IgnoresDownCap, "no cap is exceeded"),
    (Bug::IgnoresSchedule, "closed links are silent"),
    (Bug::ForgetsMonth, "no budget is exceeded"),
    (Bug::IgnoresDamage, "damage is mended"),
    (Bug::SkipsDeviceSync, "every run converges"),
];
