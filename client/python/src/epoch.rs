//! An epoch on its way: batch after batch of what one rank, or one worker of a rank, reads.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use headwater_client::order::{Fraction, Order, Positions, Remainder, Selection, Share, Shuffle};
use headwater_client::{self as client, Batches};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::batch::Batch;
use crate::errors::{raised, senseless};
use crate::process::Connected;

/// What an epoch is made from, checked by the package where Python can say it better.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct EpochArguments {
    batch_size: u64,
    shuffle: String,
    block_size: u64,
    seed: u64,
    epoch: u64,
    fraction: f64,
    rank: u64,
    world_size: u64,
    replication: u64,
    remainder: String,
    drop_last: bool,
    start: u64,
    part: u64,
    parts: u64,
    ahead: usize,
}

/// Batches of one epoch, several under way.
#[pyclass(frozen, module = "headwater")]
pub(crate) struct Epoch {
    connected: Arc<Connected>,
    positions: Positions,
    plan: Plan,
    numbers: Arc<Numbers>,
    going: Mutex<Option<Going>>,
}

struct Going {
    batches: Batches<Turns>,
    /// The next batch, in batches of the rank.
    next: u64,
}

/// How the samples of a rank are cut into batches, and which of them come here.
#[derive(Clone, Copy)]
struct Plan {
    batch_size: u64,
    batches: u64,
    part: u64,
    parts: u64,
}

impl Plan {
    /// The samples of the rank up to the end of batch `batch`.
    fn end(&self, batch: u64, steps: u64) -> u64 {
        ((batch + 1) * self.batch_size).min(steps)
    }
}

/// Which samples the batches consist of.
struct Numbers {
    selection: Selection,
    order: Order,
    positions: Positions,
    plan: Plan,
}

impl Numbers {
    fn batch(&self, batch: u64) -> Vec<u64> {
        if batch >= self.plan.batches {
            return Vec::new();
        }
        let steps = batch * self.plan.batch_size..self.plan.end(batch, self.positions.steps());
        let sample = |step| self.selection.sample(self.order.sample(self.positions.get(step)?)?);
        steps.filter_map(sample).collect()
    }
}

/// The batches of one worker, in turn.
struct Turns {
    numbers: Arc<Numbers>,
    next: u64,
}

impl Iterator for Turns {
    type Item = Vec<u64>;

    fn next(&mut self) -> Option<Vec<u64>> {
        let batch = self.next;
        self.next += self.numbers.plan.parts;
        (batch < self.numbers.plan.batches).then(|| self.numbers.batch(batch))
    }
}

impl Epoch {
    pub(crate) fn begin(
        connected: Arc<Connected>,
        dataset: &client::Dataset,
        arguments: &EpochArguments,
    ) -> PyResult<Self> {
        let EpochArguments { batch_size, part, parts, .. } = *arguments;
        if batch_size == 0 || parts == 0 || part >= parts {
            return Err(PyValueError::new_err("a batch has one sample at least, and a worker is one of all workers"));
        }
        let shuffle = match arguments.shuffle.as_str() {
            "none" => Shuffle::None,
            "full" => Shuffle::Full,
            "block" => Shuffle::Blocks(positive("block_size", arguments.block_size)?),
            other => return Err(unknown("shuffle", other, "full, block or none")),
        };
        let remainder = match arguments.remainder.as_str() {
            "drop" => Remainder::Drop,
            "repeat" => Remainder::Repeat,
            "uneven" => Remainder::Uneven,
            other => return Err(unknown("remainder", other, "drop, repeat or uneven")),
        };
        let fraction = Fraction::new(arguments.fraction).map_err(senseless)?;
        let selection = Selection::all(dataset.id(), dataset.len(), arguments.seed, fraction);
        let order = Order::new(dataset.id(), selection.len(), arguments.seed, arguments.epoch, shuffle);
        let world_size = positive("world_size", arguments.world_size)?;
        let replication = positive("replication", arguments.replication)?;
        let share = Share::new(world_size, arguments.rank, replication, remainder).map_err(senseless)?;
        let positions = share.positions(selection.len(), arguments.start).map_err(senseless)?;
        let steps = positions.steps();
        let batches = if arguments.drop_last { steps / batch_size } else { steps.div_ceil(batch_size) };
        let plan = Plan { batch_size, batches, part, parts };
        let numbers = Arc::new(Numbers { selection, order, positions: positions.clone(), plan });
        let turns = Turns { numbers: numbers.clone(), next: part };
        let going = Going { batches: dataset.batches(turns, arguments.ahead), next: part };
        Ok(Self { connected, positions, plan, numbers, going: Mutex::new(Some(going)) })
    }
}

fn positive(name: &str, number: u64) -> PyResult<NonZeroU64> {
    NonZeroU64::new(number).ok_or_else(|| PyValueError::new_err(format!("{name} has to be 1 at least")))
}

fn unknown(name: &str, value: &str, known: &str) -> PyErr {
    PyValueError::new_err(format!("there is no {name} `{value}`: it is one of {known}"))
}

#[pymethods]
impl Epoch {
    /// Batches that come here, those that came among them.
    fn __len__(&self) -> usize {
        let Plan { batches, part, parts, .. } = self.plan;
        usize::try_from(batches.saturating_sub(part).div_ceil(parts)).unwrap_or(usize::MAX)
    }

    /// Samples that the rank reads, those of its other workers among them.
    #[getter]
    fn steps(&self) -> u64 {
        self.positions.steps()
    }

    /// Where in the epoch any world size goes on once each rank has received `batches` batches.
    fn position_after(&self, batches: u64) -> u64 {
        self.position_after_samples(batches.saturating_mul(self.plan.batch_size))
    }

    /// The same after `samples` samples of each rank.
    fn position_after_samples(&self, samples: u64) -> u64 {
        self.positions.resume_at(samples.min(self.positions.steps()))
    }

    /// The numbers of the samples of a batch of the rank; none past the last batch.
    fn numbers(&self, batch: u64) -> Vec<u64> {
        self.numbers.batch(batch)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Batch>> {
        if !self.connected.is_here() {
            return Err(PyRuntimeError::new_err("this iteration began before a fork: begin another one in the child"));
        }
        let taken = self.going.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut going) = taken else {
            return Err(PyRuntimeError::new_err("another thread waits for the next batch of this iteration"));
        };
        let read = self.connected.watch(py, Box::pin(going.batches.next()));
        let batch = going.next;
        if let Ok(Some(_)) = read {
            going.next += self.plan.parts;
        }
        *self.going.lock().unwrap_or_else(PoisonError::into_inner) = Some(going);
        match read? {
            None => Ok(None),
            Some(Err(error)) => Err(raised(py, &error)),
            Some(Ok(read)) => {
                let position = self.position_after(batch + 1);
                Batch::new(py, self.connected.clone(), read, position).map(Some)
            }
        }
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        let going = self.going.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        self.connected.drop_here(going);
    }
}
