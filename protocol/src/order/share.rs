//! What one rank of a job reads of an epoch.

use std::num::NonZeroU64;

use rkyv::{Archive, Deserialize, Serialize};

/// What happens to the positions at the end that don't go round all ranks.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Remainder {
    /// Nobody reads them: all ranks have the same number of samples.
    #[default]
    Drop,
    /// Ranks that would have none read on from the beginning of the epoch: all have the same number, and some samples come twice.
    Repeat,
    /// Some ranks read one sample more than others.
    Uneven,
}

/// What is wrong with a rank, or with where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// A rank past the last one.
    #[error("rank {rank} does not exist in a world of {world_size}: ranks count from 0 to {}", world_size.get() - 1)]
    Rank {
        /// The rank that was given.
        rank: u64,
        /// Number of ranks.
        world_size: NonZeroU64,
    },
    /// Groups of ranks with the same samples that don't fill the world.
    #[error("a replication of {replication} does not divide a world of {world_size} ranks into equal groups")]
    Replication {
        /// Ranks that read the same samples.
        replication: NonZeroU64,
        /// Number of ranks.
        world_size: NonZeroU64,
    },
    /// A position past the end of the epoch.
    #[error("position {start} lies past the end of an epoch of {len} samples: was the selection another one before?")]
    Start {
        /// Where it was to begin.
        start: u64,
        /// Positions of the epoch.
        len: u64,
    },
}

/// Which of the ranks of a job this one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    group: u64,
    groups: u64,
    remainder: Remainder,
}

impl Share {
    /// Rank `rank` of `world_size`, where each `replication` neighbours read the same samples (as the ranks of one model that is split
    /// between them do).
    pub fn new(
        world_size: NonZeroU64,
        rank: u64,
        replication: NonZeroU64,
        remainder: Remainder,
    ) -> Result<Self, ShareError> {
        if rank >= world_size.get() {
            return Err(ShareError::Rank { rank, world_size });
        }
        if !world_size.get().is_multiple_of(replication.get()) {
            return Err(ShareError::Replication { replication, world_size });
        }
        Ok(Self { group: rank / replication, groups: world_size.get() / replication, remainder })
    }

    /// What this rank reads of an epoch of `len` positions if all ranks together begin at `start`.
    pub fn positions(&self, len: u64, start: u64) -> Result<Positions, ShareError> {
        let left = len.checked_sub(start).ok_or(ShareError::Start { start, len })?;
        let (whole, rest) = (left / self.groups, left % self.groups);
        let count = match self.remainder {
            Remainder::Drop => whole,
            Remainder::Repeat => whole + u64::from(rest > 0),
            Remainder::Uneven => whole + u64::from(self.group < rest),
        };
        Ok(Positions { share: *self, len, start, count, taken: 0 })
    }
}

/// The positions that one rank reads, in turn: every so many-th of the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    share: Share,
    len: u64,
    start: u64,
    count: u64,
    taken: u64,
}

impl Positions {
    /// Number of samples of this rank, those that were taken among them.
    pub const fn steps(&self) -> u64 {
        self.count
    }

    /// The position of this rank's sample number `step`.
    pub fn get(&self, step: u64) -> Option<u64> {
        (step < self.count).then(|| {
            let position = u128::from(self.start) + u128::from(step) * u128::from(self.share.groups);
            let position = (position + u128::from(self.share.group)) % u128::from(self.len);
            u64::try_from(position).expect("a position of the epoch")
        })
    }

    /// At which of its steps this rank reads `position` first, if it does.
    pub fn step(&self, position: u64) -> Option<u64> {
        let behind = position.checked_sub(self.start).and_then(|from_start| from_start.checked_sub(self.share.group));
        let step = behind.filter(|behind| behind.is_multiple_of(self.share.groups));
        let step = step.map(|behind| behind / self.share.groups).filter(|step| *step < self.count);
        // Only the last step may have gone on from the beginning of the epoch.
        step.or_else(|| self.count.checked_sub(1).filter(|last| self.get(*last) == Some(position)))
    }

    /// Where a job of any world size goes on after each rank of this one has read `steps` samples.
    pub fn resume_at(&self, steps: u64) -> u64 {
        let position = u128::from(self.start) + u128::from(steps.min(self.count)) * u128::from(self.share.groups);
        u64::try_from(position.min(u128::from(self.len))).expect("at most the end of the epoch")
    }
}

impl Iterator for Positions {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let position = self.get(self.taken)?;
        self.taken += 1;
        Some(position)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.count - self.taken);
        (left.unwrap_or(usize::MAX), left.ok())
    }
}
