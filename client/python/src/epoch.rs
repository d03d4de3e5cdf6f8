//! An epoch on its way: batch after batch of what one rank, or one worker of a rank, reads.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use headwater_client::order::{Course, Fraction, Reading, Remainder, Shuffle};
use headwater_client::{self as client, Batches};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::batch::Batch;
use crate::errors::{raised, senseless};
use crate::process::Connected;

/// What an epoch is made from, as the package checks and names it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct EpochArguments {
    batch_size: u32,
    shuffle: String,
    block_size: u64,
    seed: u64,
    epoch: u64,
    kept: Vec<(u64, u64)>,
    fraction: f64,
    rank: u64,
    world_size: u64,
    replication: u64,
    remainder: String,
    drop_last: bool,
    start: u64,
    worker: u32,
    workers: u32,
    ahead: usize,
}

impl EpochArguments {
    fn reading(&self) -> PyResult<Reading> {
        let shuffle = match self.shuffle.as_str() {
            "none" => Shuffle::None,
            "full" => Shuffle::Full,
            "block" => Shuffle::Blocks(positive("block_size", self.block_size)?),
            other => return Err(unknown("shuffle", other, "full, block or none")),
        };
        let remainder = match self.remainder.as_str() {
            "drop" => Remainder::Drop,
            "repeat" => Remainder::Repeat,
            "uneven" => Remainder::Uneven,
            other => return Err(unknown("remainder", other, "drop, repeat or uneven")),
        };
        Ok(Reading {
            seed: self.seed,
            epoch: self.epoch,
            shuffle,
            kept: self.kept.iter().map(|&(first, end)| first..end).collect(),
            fraction: Fraction::new(self.fraction).map_err(senseless)?,
            world_size: positive("world_size", self.world_size)?,
            rank: self.rank,
            replication: positive("replication", self.replication)?,
            remainder,
            start: self.start,
            batch: self.batch_size,
            workers: self.workers,
            worker: self.worker,
        })
    }
}

fn positive(name: &str, number: u64) -> PyResult<NonZeroU64> {
    NonZeroU64::new(number).ok_or_else(|| PyValueError::new_err(format!("{name} has to be 1 at least")))
}

fn unknown(name: &str, value: &str, known: &str) -> PyErr {
    PyValueError::new_err(format!("there is no {name} `{value}`: it is one of {known}"))
}

/// Batches of one epoch, several under way. The core hears of it when the first one is asked for.
#[pyclass(frozen, module = "headwater")]
pub(crate) struct Epoch {
    connected: Arc<Connected>,
    dataset: Option<client::Dataset>,
    reading: Reading,
    /// What the rank reads, with all its workers.
    rank: Course,
    /// How many batches come here.
    batches: u64,
    ahead: usize,
    going: Mutex<Going>,
}

enum Going {
    NotYet,
    On {
        batches: Batches<BatchNumbers>,
        received: u64,
    },
    /// Another thread waits for the next batch.
    Taken,
}

type BatchNumbers = Box<dyn Iterator<Item = Vec<u64>> + Send>;

impl Epoch {
    pub(crate) fn new(
        connected: Arc<Connected>,
        dataset: client::Dataset,
        arguments: &EpochArguments,
    ) -> PyResult<Self> {
        let reading = arguments.reading()?;
        let course = |reading: &Reading| Course::new(reading, dataset.id(), dataset.len()).map_err(senseless);
        let (own, rank) = (course(&reading)?, course(&Reading { workers: 1, worker: 0, ..reading.clone() })?);
        let size = u64::from(reading.batch);
        let batches = if arguments.drop_last {
            let (worker, workers) = (u64::from(reading.worker), u64::from(reading.workers));
            (rank.len() / size).saturating_sub(worker).div_ceil(workers)
        } else {
            own.len().div_ceil(size)
        };
        let (dataset, going) = (Some(dataset), Mutex::new(Going::NotYet));
        Ok(Self { connected, dataset, reading, rank, batches, ahead: arguments.ahead, going })
    }

    fn begin(&self, py: Python<'_>) -> PyResult<Batches<BatchNumbers>> {
        let dataset = self.dataset.clone().expect("it is there until it is dropped");
        let reading = self.reading.clone();
        let declared = self.connected.wait(py, {
            let dataset = dataset.clone();
            async move { dataset.declare(&reading).await }
        })?;
        let course = declared.map_err(|error| raised(py, &error))?;
        let limit = usize::try_from(self.batches).unwrap_or(usize::MAX);
        let numbers: BatchNumbers = Box::new(course.into_batches().take(limit));
        Ok(dataset.batches(numbers, self.ahead))
    }

    fn put(&self, going: Going) -> Going {
        std::mem::replace(&mut *self.going.lock().unwrap_or_else(PoisonError::into_inner), going)
    }
}

#[pymethods]
impl Epoch {
    /// Batches that come here, those that came among them.
    fn __len__(&self) -> usize {
        usize::try_from(self.batches).unwrap_or(usize::MAX)
    }

    /// Samples that the rank reads, those of its other workers among them.
    #[getter]
    fn steps(&self) -> u64 {
        self.rank.steps()
    }

    /// Where in the epoch any world size goes on once each rank has received `samples` samples.
    fn position_after(&self, samples: u64) -> u64 {
        self.rank.resume_at(samples.min(self.rank.steps()))
    }

    /// The numbers of the samples of a batch of the rank; none past the last batch.
    fn numbers(&self, batch: u64) -> Vec<u64> {
        self.rank.batch(batch).unwrap_or_default()
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Batch>> {
        if !self.connected.is_here() {
            return Err(PyRuntimeError::new_err("this iteration began before a fork: begin another one in the child"));
        }
        let (mut batches, mut received) = match self.put(Going::Taken) {
            Going::On { batches, received } => (batches, received),
            Going::NotYet => match self.begin(py) {
                Ok(batches) => (batches, 0),
                Err(error) => {
                    self.put(Going::NotYet);
                    return Err(error);
                }
            },
            Going::Taken => {
                return Err(PyRuntimeError::new_err("another thread waits for the next batch of this iteration"));
            }
        };
        let read = self.connected.watch(py, Box::pin(batches.next()));
        if let Ok(Some(_)) = read {
            received += 1;
        }
        self.put(Going::On { batches, received });
        match read? {
            None => Ok(None),
            Some(Err(error)) => Err(raised(py, &error)),
            Some(Ok(read)) => {
                let (worker, workers) = (u64::from(self.reading.worker), u64::from(self.reading.workers));
                let batches_of_rank = (received - 1) * workers + worker + 1;
                let position = self.position_after(batches_of_rank.saturating_mul(u64::from(self.reading.batch)));
                Batch::new(py, self.connected.clone(), read, position).map(Some)
            }
        }
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        let going = self.put(Going::NotYet);
        self.connected.drop_here((going, self.dataset.take()));
    }
}
