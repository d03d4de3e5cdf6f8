//! What a session of a job declares of its reads, as it travels. A module of its own, because the names that deriving adds stay
//! private in it.

use std::num::NonZeroU64;
use std::ops::Range;

use rkyv::{Archive, Deserialize, Serialize};

use super::{Fraction, Remainder, Shuffle};

/// Most runs of a filter that a declaration carries; a job with more of them reads undeclared.
pub const READING_RUNS_MAX: usize = 4096;
/// Most batches that are read side by side by the workers of one rank.
pub const READING_WORKERS_MAX: u32 = 4096;

/// What one session of a job reads of what it opened, and from where on. Together with the source this says every future read:
/// [`super::Course`].
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Seed of the job.
    pub seed: u64,
    /// Epoch, counted from 0.
    pub epoch: u64,
    /// How the epoch is mixed.
    pub shuffle: Shuffle,
    /// The samples that a filter kept, as ascending runs; none where all are read.
    pub kept: Vec<Range<u64>>,
    /// The part of these that is read.
    pub fraction: Fraction,
    /// Number of ranks.
    pub world_size: NonZeroU64,
    /// This one.
    pub rank: u64,
    /// Neighbouring ranks that read the same samples.
    pub replication: NonZeroU64,
    /// What happens to positions that don't go round all ranks.
    pub remainder: Remainder,
    /// The position of the epoch at which all ranks begin.
    pub start: u64,
    /// Samples of a batch.
    pub batch: u32,
    /// Processes of this rank that read its batches in turns.
    pub workers: u32,
    /// Which of them this one is: it reads batch `worker`, and each `workers`-th after it.
    pub worker: u32,
}

impl Default for Reading {
    /// All samples once, fully mixed, by one rank and one worker, one by one.
    fn default() -> Self {
        Self {
            seed: 0,
            epoch: 0,
            shuffle: Shuffle::Full,
            kept: Vec::new(),
            fraction: Fraction::ALL,
            world_size: NonZeroU64::MIN,
            rank: 0,
            replication: NonZeroU64::MIN,
            remainder: Remainder::Drop,
            start: 0,
            batch: 1,
            workers: 1,
            worker: 0,
        }
    }
}

impl Reading {
    /// What makes it too long to travel, if something does.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.kept.len() <= READING_RUNS_MAX { Ok(()) } else { Err(format!("{} runs of samples", self.kept.len())) }
    }
}
