//! Every read that a session of a job will make, by formula.
//!
//! ```text
//!   turn  ---------->  step  ------------------>  position  ------->  index  ---------->  number of the sample
//!   of this worker     of this rank   Positions   in the epoch Order  kept   Selection    as the version counts
//! ```
//!
//! Each arrow goes both ways, in O(1), so the course also says when a sample will be read.

use super::{Order, Positions, READING_WORKERS_MAX, Reading, Selection, SelectionError, Share, ShareError, Shuffle};
use crate::id::ID_BYTES;

/// What makes no sense in a declaration.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReadingError {
    /// What it selects.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// Its rank, or where it begins.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// Batches of nothing.
    #[error("a batch needs one sample at least")]
    Batch,
    /// A worker past the last one.
    #[error(
        "worker {worker} does not exist among {workers}: workers count from 0, and there are 1 to {READING_WORKERS_MAX}"
    )]
    Worker {
        /// The worker that was given.
        worker: u32,
        /// How many there were to be.
        workers: u32,
    },
}

/// Every read of one session, in order. Small, whatever the number of samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    selection: Selection,
    order: Order,
    positions: Positions,
    batch: u64,
    workers: u64,
    worker: u64,
}

impl Course {
    /// What `reading` comes to on the `samples` of `source` (the id of a version or collection).
    pub fn new(reading: &Reading, source: &[u8; ID_BYTES], samples: u64) -> Result<Self, ReadingError> {
        if reading.batch == 0 {
            return Err(ReadingError::Batch);
        }
        let (workers, worker) = (reading.workers, reading.worker);
        if worker >= workers || workers > READING_WORKERS_MAX {
            return Err(ReadingError::Worker { worker, workers });
        }
        let share = Share::new(reading.world_size, reading.rank, reading.replication, reading.remainder)?;
        let fraction = reading.fraction.checked()?;
        let selection = if reading.kept.is_empty() {
            Selection::all(source, samples, reading.seed, fraction)
        } else {
            Selection::filtered(source, samples, reading.kept.iter().cloned(), reading.seed, fraction)?
        };
        let shuffle: Shuffle = reading.shuffle;
        let order = Order::new(source, selection.len(), reading.seed, reading.epoch, shuffle);
        let positions = share.positions(selection.len(), reading.start)?;
        Ok(Self {
            selection,
            order,
            positions,
            batch: u64::from(reading.batch),
            workers: u64::from(workers),
            worker: u64::from(worker),
        })
    }

    /// Positions of the whole epoch, those of other ranks among them.
    pub const fn epoch_len(&self) -> u64 {
        self.order.len()
    }

    /// Samples that this rank reads, with all its workers.
    pub const fn steps(&self) -> u64 {
        self.positions.steps()
    }

    /// How many samples this session reads.
    pub fn len(&self) -> u64 {
        let steps = self.steps();
        let (rounds, rest) = (steps / (self.batch * self.workers), steps % (self.batch * self.workers));
        rounds * self.batch + rest.saturating_sub(self.worker * self.batch).min(self.batch)
    }

    /// Whether it reads none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sample that is read as number `turn`.
    pub fn sample(&self, turn: u64) -> Option<u64> {
        self.sample_of_step(self.step(turn)?)
    }

    /// The sample that the rank reads as number `step`, whichever of its workers does.
    pub fn sample_of_step(&self, step: u64) -> Option<u64> {
        self.selection.sample(self.order.sample(self.positions.get(step)?)?)
    }

    /// The position in the epoch of the sample that is read as number `turn`.
    pub fn position(&self, turn: u64) -> Option<u64> {
        self.positions.get(self.step(turn)?)
    }

    /// As the how-manieth this session reads `sample` first; none if it doesn't.
    pub fn turn(&self, sample: u64) -> Option<u64> {
        let step = self.positions.step(self.order.position(self.selection.index(sample)?)?)?;
        let (batch, within) = (step / self.batch, step % self.batch);
        (batch % self.workers == self.worker).then_some(batch / self.workers * self.batch + within)
    }

    /// Where a job of any world size goes on after each rank of this one has read `steps` samples.
    pub fn resume_at(&self, steps: u64) -> u64 {
        self.positions.resume_at(steps)
    }

    /// The samples of batch number `batch` of this session; none past the last one.
    pub fn batch(&self, batch: u64) -> Option<Vec<u64>> {
        let first = batch.checked_mul(self.batch)?;
        let samples: Vec<_> = (first..first.saturating_add(self.batch)).map_while(|turn| self.sample(turn)).collect();
        (!samples.is_empty()).then_some(samples)
    }

    /// All batches of this session, in order.
    pub fn into_batches(self) -> impl Iterator<Item = Vec<u64>> + Send {
        (0..).map_while(move |batch| self.batch(batch))
    }

    /// The rank's step at which turn number `turn` comes.
    fn step(&self, turn: u64) -> Option<u64> {
        let (batch, within) = (turn / self.batch, turn % self.batch);
        batch.checked_mul(self.workers)?.checked_add(self.worker)?.checked_mul(self.batch)?.checked_add(within)
    }
}
