//! A round's updates on their way to a new model, tile by tile.

use std::collections::BTreeMap;
use std::ops::Range;

use headwater_protocol::tensors::encoding::Encoded;
use headwater_protocol::tensors::{Dtype, Layout, LayoutError, Tensor};

use super::guard::{Buffers, Fault, check_stretch};
use super::optimiser::{MASTER, MOMENTUM, VARIANCE, first_variance, kept, step};
use super::robust;
use super::{ExactSums, Output, ReadError, Rule, Sink, Source, Strategy, WEIGHT_SUM_MAX, WriteError};

/// Elements of a tile where updates are added up: their sums fit the second level of a processor's cache.
const TILE: u64 = 8192;
/// Most bytes of a tile of all updates, where all are needed at once.
const ROWS_BYTES_MAX: u64 = 4 << 20;
/// Fewest elements of a tile: a block of scales.
const TILE_MIN: u64 = headwater_protocol::tensors::encoding::BLOCK;
/// Elements of a tile where norms and distances are measured, which is part of their definition.
const MEASURE_TILE: u64 = 4096;
/// Keys of the state's metadata.
const CLIP_ESTIMATE: &str = "clip-estimate";
const ZERO_ESTIMATE: &str = "zero-estimate";
const STRATEGY: &str = "strategy";

/// A model, or what a strategy kept.
#[derive(Clone, Copy)]
pub struct Model<'a> {
    /// Its header.
    pub layout: &'a Layout,
    /// Its file.
    pub file: &'a dyn Source,
}

/// An update.
#[derive(Clone)]
pub struct Update<'a> {
    /// Where its tensors are.
    pub encoded: Encoded,
    /// Its file.
    pub file: &'a dyn Source,
    /// Samples that it counts as.
    pub samples: u64,
    /// Models between its base and the one that is changed.
    pub staleness: u64,
}

/// Why updates can't be combined.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There are too few.
    #[error("`{strategy}` needs {needed} updates at least, and there are {given}")]
    TooFew {
        /// The strategy.
        strategy: &'static str,
        /// Needed.
        needed: u64,
        /// There are.
        given: u64,
    },
    /// Their weights are none, or more than sums can hold.
    #[error("the weights of the updates add up to {0}, and can from 1 to {WEIGHT_SUM_MAX}")]
    Weights(u64),
    /// An update counts as more samples than the strategy can weigh.
    #[error("an update counts as {samples} samples, and `{strategy}` can weigh {max}")]
    Samples {
        /// The strategy.
        strategy: &'static str,
        /// Its samples.
        samples: u64,
        /// Most.
        max: u64,
    },
    /// What the strategy kept is not of this model, or of another strategy.
    #[error("what the strategy kept from the round before can't be used: {0}")]
    State(String),
    /// The new files can't be laid out.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// An update has a number that no update may have.
    #[error("update number {update}: {fault}")]
    Value {
        /// Which update, counted from 0.
        update: usize,
        /// What is wrong.
        fault: Fault,
    },
    /// A file can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file can't be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A stretch of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Which tensor, in the order of the base model's bytes.
    pub tensor: usize,
    /// Which elements.
    pub elements: Range<u64>,
}

/// What measuring a tile gave.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// For each update, the sum of squares.
    squares: Vec<f64>,
    /// For each update, the largest magnitude.
    largest: Vec<f32>,
    /// For each pair, the squared distance.
    distances: Vec<f64>,
}

/// Memory of a thread that works on tiles.
#[derive(Default)]
pub struct Scratch {
    buffers: Buffers,
    sums: ExactSums,
    rows: Vec<f32>,
    numbers: Vec<i128>,
    combined: Vec<f64>,
    out: Vec<u8>,
}

/// What becomes of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    /// What its elements are multiplied with first; none: they stay as they are.
    factor: Option<f32>,
    /// Its weight in sums.
    weight: u64,
    /// Whether it is in at all.
    is_kept: bool,
}

/// A whole aggregation.
pub struct Aggregation<'a> {
    strategy: Strategy,
    base: Model<'a>,
    state: Option<Model<'a>>,
    updates: Vec<Update<'a>>,
    parts: Vec<Part>,
    divisor: u64,
    estimates: [Option<f64>; 2],
    model: Layout,
    /// The new state, where the strategy keeps one.
    kept: Option<Layout>,
    is_settled: bool,
}

impl<'a> Aggregation<'a> {
    /// The aggregation of `updates`, which are in the order of their hashes. `metadata` goes into the new model's file.
    pub fn new(
        strategy: Strategy,
        base: Model<'a>,
        state: Option<Model<'a>>,
        updates: Vec<Update<'a>>,
        metadata: BTreeMap<String, String>,
    ) -> Result<Self, Refusal> {
        let (name, given) = (strategy.name(), updates.len() as u64);
        let needed = strategy.updates_min();
        if given < needed {
            return Err(Refusal::TooFew { strategy: name, needed, given });
        }
        let max = strategy.samples_max();
        if let Some(update) = updates.iter().find(|update| update.samples > max) {
            return Err(Refusal::Samples { strategy: name, samples: update.samples, max });
        }
        let part = |update: &Update<'_>| Part {
            factor: None,
            weight: strategy.weight(update.samples, update.staleness),
            is_kept: true,
        };
        let parts: Vec<_> = updates.iter().map(part).collect();
        let divisor = updates.iter().map(|update| strategy.divisor(update.samples)).sum();
        if divisor == 0 || divisor > WEIGHT_SUM_MAX {
            return Err(Refusal::Weights(divisor));
        }
        let model = Layout::build(base.layout.tensors().to_vec(), metadata)?;
        let estimates = match &state {
            Some(state) => check_state(&strategy, base.layout, state.layout)?,
            None => [None, None],
        };
        let is_settled = !needs_measure(&strategy);
        let mut aggregation =
            Self { strategy, base, state, updates, parts, divisor, estimates, model, kept: None, is_settled };
        aggregation.kept = aggregation.state_layout()?;
        Ok(aggregation)
    }

    /// Whether tiles have to be measured first.
    pub fn needs_measure(&self) -> bool {
        !self.is_settled
    }

    /// The tiles that are measured.
    pub fn measure_tiles(&self) -> Vec<Tile> {
        let is_float = |tensor: &Tensor| tensor.dtype.is_float();
        self.tiles_of(MEASURE_TILE)
            .into_iter()
            .filter(|tile| is_float(&self.base.layout.tensors()[tile.tensor]))
            .collect()
    }

    /// The tiles that are combined.
    pub fn tiles(&self) -> Vec<Tile> {
        let rows = match self.strategy.rule {
            Rule::Median { .. } | Rule::TrimmedMean { .. } => {
                let fit = ROWS_BYTES_MAX / (self.updates.len() as u64 * Dtype::F32.bytes());
                (fit / TILE_MIN * TILE_MIN).clamp(TILE_MIN, TILE)
            }
            _ => TILE,
        };
        self.tiles_of(rows)
    }

    fn tiles_of(&self, step: u64) -> Vec<Tile> {
        let tensors = self.base.layout.tensors().iter().enumerate();
        tensors.flat_map(|(tensor, of)| of.stretches(step).map(move |elements| Tile { tensor, elements })).collect()
    }

    /// The new model's header, which is written before its tiles.
    pub fn model_layout(&self) -> &Layout {
        &self.model
    }

    /// The header of what the strategy keeps, if it keeps anything.
    pub fn kept_layout(&self) -> Option<&Layout> {
        self.kept.as_ref()
    }

    /// Measures a tile of all updates.
    pub fn measure(&self, tile: &Tile, scratch: &mut Scratch) -> Result<Measured, Refusal> {
        let count = self.updates.len();
        let width = (tile.elements.end - tile.elements.start) as usize;
        let wants_distances = matches!(self.strategy.rule, Rule::Krum { .. } | Rule::MultiKrum { .. });
        let mut measured = Measured::default();
        scratch.rows.clear();
        for update in &self.updates {
            let values = scratch.buffers.decode(&update.encoded, tile.tensor, tile.elements.clone(), update.file)?;
            measured.squares.push(robust::norm_squared(values));
            measured.largest.push(values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs())));
            if wants_distances {
                scratch.rows.extend_from_slice(values);
            }
        }
        if wants_distances {
            measured.distances.resize(count * count.saturating_sub(1) / 2, 0.0);
            robust::add_distances(&scratch.rows, width, &mut measured.distances);
        }
        Ok(measured)
    }

    /// Takes what all tiles gave, in the order of [`Aggregation::measure_tiles`].
    pub fn settle(&mut self, measured: impl IntoIterator<Item = Measured>) -> Result<(), Refusal> {
        let count = self.updates.len();
        let (mut squares, mut largest, mut distances) = (vec![0.0_f64; count], vec![0.0_f32; count], Vec::<f64>::new());
        for tile in measured {
            add(&mut squares, &tile.squares);
            for (known, new) in largest.iter_mut().zip(&tile.largest) {
                *known = known.max(*new);
            }
            distances.resize(tile.distances.len(), 0.0);
            add(&mut distances, &tile.distances);
        }
        let norms: Vec<_> = squares.iter().map(|square| square.sqrt()).collect();
        let largest: Vec<_> = largest.into_iter().map(f64::from).collect();
        let [clip, zero] = self.estimates;
        if let Some(bound) = self.strategy.zero {
            let limit = bound.value(zero);
            for (part, _) in self.parts.iter_mut().zip(&largest).filter(|(_, largest)| **largest > limit) {
                part.factor = Some(0.0);
            }
            self.estimates[1] = bound.next(zero, &largest);
        }
        if let Some(bound) = self.strategy.clip {
            let limit = bound.value(clip);
            for (part, norm) in self.parts.iter_mut().zip(&norms).filter(|(_, norm)| **norm > limit) {
                part.factor = Some(part.factor.unwrap_or(1.0) * (limit / norm) as f32);
            }
            self.estimates[0] = bound.next(clip, &norms);
        }
        self.choose(&distances);
        self.is_settled = true;
        self.kept = self.state_layout()?;
        Ok(())
    }

    /// Leaves out what Krum does not like; what is left counts alike.
    fn choose(&mut self, distances: &[f64]) {
        let count = self.updates.len();
        let (byzantine, keep) = match self.strategy.rule {
            Rule::Krum { byzantine, .. } => (byzantine as usize, 1),
            Rule::MultiKrum { byzantine, keep: 0, .. } => (byzantine as usize, count - byzantine as usize),
            Rule::MultiKrum { byzantine, keep, .. } => (byzantine as usize, keep as usize),
            _ => return,
        };
        let kept = robust::krum(distances, count, byzantine, keep.min(count));
        for (index, part) in self.parts.iter_mut().enumerate() {
            part.is_kept = kept.binary_search(&index).is_ok();
            part.weight = 1;
        }
        self.divisor = kept.len() as u64;
    }

    /// Combines a tile, and writes what becomes of it.
    pub fn combine(&self, tile: &Tile, scratch: &mut Scratch, sink: &dyn Sink) -> Result<(), Refusal> {
        assert!(self.is_settled, "tiles are combined after all were measured");
        let tensor = &self.base.layout.tensors()[tile.tensor];
        match tensor.dtype {
            Dtype::Bool => self.keep_as_it_is(tensor, tile, scratch, sink),
            dtype if dtype.is_float() => self.combine_floats(tensor, tile, scratch, sink),
            _ => self.combine_integers(tensor, tile, scratch, sink),
        }
    }

    fn keep_as_it_is(
        &self,
        tensor: &Tensor,
        tile: &Tile,
        scratch: &mut Scratch,
        sink: &dyn Sink,
    ) -> Result<(), Refusal> {
        let range = self.base.layout.place(tensor, tile.elements.clone());
        let bytes = scratch.buffers.read(self.base.file, range)?;
        Ok(sink.write_at(Output::Model, self.place(tensor, tile).start, bytes)?)
    }

    /// Where a tile lies in the new model.
    fn place(&self, tensor: &Tensor, tile: &Tile) -> Range<u64> {
        let new = self.model.find(&tensor.name).expect("the new model has the base's tensors");
        self.model.place(new, tile.elements.clone())
    }

    /// A tile of an update, after clipping.
    fn scaled<'b>(
        &self,
        update: usize,
        tensor: &Tensor,
        tile: &Tile,
        buffers: &'b mut Buffers,
    ) -> Result<&'b [f32], Refusal> {
        let (known, factor) = (&self.updates[update], self.parts[update].factor);
        let values = buffers.decode(&known.encoded, tile.tensor, tile.elements.clone(), known.file)?;
        check_stretch(&tensor.name, tile.elements.start, values).map_err(|fault| Refusal::Value { update, fault })?;
        if let Some(factor) = factor {
            for value in values.iter_mut() {
                *value *= factor;
            }
        }
        Ok(values)
    }

    fn combine_floats(
        &self,
        tensor: &Tensor,
        tile: &Tile,
        scratch: &mut Scratch,
        sink: &dyn Sink,
    ) -> Result<(), Refusal> {
        let width = (tile.elements.end - tile.elements.start) as usize;
        let Scratch { buffers, sums, rows, combined, out, .. } = scratch;
        combined.resize(width, 0.0);
        match self.strategy.rule {
            Rule::Median { .. } | Rule::TrimmedMean { .. } => {
                rows.clear();
                for index in 0..self.updates.len() {
                    rows.extend_from_slice(self.scaled(index, tensor, tile, buffers)?);
                }
                robust::sort_columns(rows, width);
                match self.strategy.rule {
                    Rule::TrimmedMean { beta, .. } => {
                        let trimmed = (beta * self.updates.len() as f64) as usize;
                        robust::trimmed_mean(rows, width, trimmed, combined);
                    }
                    _ => robust::median(rows, width, combined),
                }
            }
            _ => {
                sums.reset(width);
                for (index, part) in self.parts.iter().enumerate().filter(|(_, part)| part.is_kept) {
                    sums.add(self.scaled(index, tensor, tile, buffers)?, part.weight);
                }
                for (index, mean) in combined.iter_mut().enumerate() {
                    *mean = sums.mean(index, self.divisor);
                }
            }
        }
        self.step(tensor, tile, combined, buffers, out, sink)
    }

    /// Moves a tile of the model along `combined`.
    fn step(
        &self,
        tensor: &Tensor,
        tile: &Tile,
        combined: &[f64],
        buffers: &mut Buffers,
        out: &mut Vec<u8>,
        sink: &dyn Sink,
    ) -> Result<(), Refusal> {
        let width = combined.len();
        let kept = |part: &str, first: f32, buffers: &mut Buffers| -> Result<Vec<f32>, ReadError> {
            let mut values = vec![first; width];
            if let Some(state) = &self.state
                && let Some(known) = state.layout.find(&format!("{}{part}", tensor.name))
            {
                let bytes = buffers.read(state.file, state.layout.place(known, tile.elements.clone()))?;
                known.dtype.floats(bytes, &mut values);
            }
            Ok(values)
        };
        let mut momentum = kept(MOMENTUM, 0.0, buffers)?;
        let mut variance = kept(VARIANCE, first_variance(&self.strategy), buffers)?;
        let has_master = has_master(tensor);
        let mut master = if has_master { kept(MASTER, f32::NAN, buffers)? } else { Vec::new() };
        let bytes = buffers.read(self.base.file, self.base.layout.place(tensor, tile.elements.clone()))?;
        out.resize(bytes.len(), 0);
        if tensor.dtype == Dtype::F64 {
            let (old, new) = (bytes.as_chunks::<8>().0, out.as_chunks_mut::<8>().0);
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                let change = step(&self.strategy, combined[index], &mut momentum[index], &mut variance[index]);
                *new = (f64::from_le_bytes(*old) + change).to_le_bytes();
            }
        } else {
            let mut values = vec![0.0_f32; width];
            tensor.dtype.floats(bytes, &mut values);
            for (index, value) in values.iter_mut().enumerate() {
                // The master is what the model was before it was rounded; a model that was not made here has none.
                let from = if has_master && !master[index].is_nan() { master[index] } else { *value };
                let change = step(&self.strategy, combined[index], &mut momentum[index], &mut variance[index]);
                *value = (f64::from(from) + change) as f32;
            }
            tensor.dtype.put_floats(&values, out);
            if has_master {
                master = values;
            }
        }
        sink.write_at(Output::Model, self.place(tensor, tile).start, out)?;
        if let Some(layout) = &self.kept {
            for (part, values) in [(MOMENTUM, &momentum), (VARIANCE, &variance), (MASTER, &master)] {
                let Some(new) = layout.find(&format!("{}{part}", tensor.name)) else { continue };
                out.resize(width * Dtype::F32.bytes() as usize, 0);
                Dtype::F32.put_floats(values, out);
                sink.write_at(Output::State, layout.place(new, tile.elements.clone()).start, out)?;
            }
        }
        Ok(())
    }

    /// Whole numbers travel as they are after training: their weighted mean, or what the strategy takes instead of it, rounded half
    /// to even.
    fn combine_integers(
        &self,
        tensor: &Tensor,
        tile: &Tile,
        scratch: &mut Scratch,
        sink: &dyn Sink,
    ) -> Result<(), Refusal> {
        let width = (tile.elements.end - tile.elements.start) as usize;
        let Scratch { buffers, numbers, out, .. } = scratch;
        let is_by_rank = matches!(self.strategy.rule, Rule::Median { .. } | Rule::TrimmedMean { .. });
        let mut values = vec![0_i128; width];
        numbers.clear();
        numbers.resize(if is_by_rank { 0 } else { width }, 0);
        let mut weights = 0_i128;
        for (update, part) in self.updates.iter().zip(&self.parts).filter(|(_, part)| part.is_kept) {
            let bytes = buffers.bytes(&update.encoded, tile.tensor, tile.elements.clone(), update.file)?;
            update.encoded.dtype(tile.tensor).integers(bytes, &mut values);
            if is_by_rank {
                numbers.extend_from_slice(&values);
                continue;
            }
            weights += i128::from(part.weight);
            for (sum, value) in numbers.iter_mut().zip(&values) {
                *sum += value * i128::from(part.weight);
            }
        }
        for (index, value) in values.iter_mut().enumerate() {
            *value = match self.strategy.rule {
                Rule::Median { .. } | Rule::TrimmedMean { .. } => {
                    let mut column: Vec<_> = numbers.iter().skip(index).step_by(width).copied().collect();
                    column.sort_unstable();
                    let count = column.len();
                    let cut = match self.strategy.rule {
                        Rule::TrimmedMean { beta, .. } => (beta * count as f64) as usize,
                        _ => (count - 1) / 2,
                    };
                    let kept = &column[cut..count - cut];
                    rounded(kept.iter().sum(), kept.len() as i128)
                }
                _ => rounded(numbers[index], weights.max(1)),
            };
        }
        out.resize(width * tensor.dtype.bytes() as usize, 0);
        tensor.dtype.put_integers(&values, out);
        Ok(sink.write_at(Output::Model, self.place(tensor, tile).start, out)?)
    }

    fn state_layout(&self) -> Result<Option<Layout>, LayoutError> {
        let mut tensors = Vec::new();
        for tensor in self.base.layout.tensors().iter().filter(|tensor| tensor.dtype.is_float()) {
            let parts = kept(&self.strategy).iter().copied().chain(has_master(tensor).then_some(MASTER));
            tensors.extend(parts.map(|part| Tensor {
                name: format!("{}{part}", tensor.name),
                dtype: Dtype::F32,
                ..tensor.clone()
            }));
        }
        let named = [(CLIP_ESTIMATE, self.estimates[0]), (ZERO_ESTIMATE, self.estimates[1])];
        let estimates = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), format!("{:?}", value?))));
        let mut metadata: BTreeMap<_, _> = estimates.collect();
        if tensors.is_empty() && metadata.is_empty() {
            return Ok(None);
        }
        metadata.insert(STRATEGY.to_owned(), self.strategy.name().to_owned());
        Layout::build(tensors, metadata).map(Some)
    }
}

fn needs_measure(strategy: &Strategy) -> bool {
    let is_krum = matches!(strategy.rule, Rule::Krum { .. } | Rule::MultiKrum { .. });
    is_krum || strategy.clip.is_some() || strategy.zero.is_some()
}

fn has_master(tensor: &Tensor) -> bool {
    matches!(tensor.dtype, Dtype::F16 | Dtype::Bf16)
}

fn add(sums: &mut [f64], more: &[f64]) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// A quotient of whole numbers, rounded half to even.
fn rounded(sum: i128, count: i128) -> i128 {
    let (quotient, rest) = (sum.div_euclid(count), sum.rem_euclid(count));
    match (2 * rest).cmp(&count) {
        std::cmp::Ordering::Less => quotient,
        std::cmp::Ordering::Greater => quotient + 1,
        std::cmp::Ordering::Equal => quotient + (quotient & 1),
    }
}

/// Checks that a state is one of this strategy for this model; its estimates.
fn check_state(strategy: &Strategy, base: &Layout, state: &Layout) -> Result<[Option<f64>; 2], Refusal> {
    let name = state.metadata().get(STRATEGY).map(String::as_str);
    if name != Some(strategy.name()) {
        return Err(Refusal::State(format!("it is that of `{}`", name.unwrap_or("no strategy"))));
    }
    for tensor in base.tensors().iter().filter(|tensor| tensor.dtype.is_float()) {
        for part in kept(strategy).iter().copied().chain(has_master(tensor).then_some(MASTER)) {
            let name = format!("{}{part}", tensor.name);
            let found = state.find(&name);
            if found.is_none_or(|found| found.shape != tensor.shape || found.dtype != Dtype::F32) {
                return Err(Refusal::State(format!("it has no tensor `{name}` of the model's shape")));
            }
        }
    }
    let read = |key: &str| match state.metadata().get(key) {
        None => Ok(None),
        Some(text) => match text.parse::<f64>().ok().filter(|value| value.is_finite()) {
            Some(value) => Ok(Some(value)),
            None => Err(Refusal::State(format!("`{key}` is `{text}`"))),
        },
    };
    Ok([read(CLIP_ESTIMATE)?, read(ZERO_ESTIMATE)?])
}
