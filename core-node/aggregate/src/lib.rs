//! How the updates of a federated round become a new model.
//!
//! [`Aggregation`] is the whole computation as a pure function of a [`Strategy`], a base model, what the strategy kept from the
//! round before, and the updates. It works tile by tile: whoever has the files runs [`Aggregation::measure`] on all tiles (where
//! norms or distances are needed), then [`Aggregation::combine`], on as many threads as there are, in any order. Memory is that of
//! a tile for each thread, whatever the number of updates.
//!
//! The same inputs give the same bytes, on any CPU, in any order of updates, tiles and threads: linear strategies add up exactly
//! ([`ExactSums`]), and everything else is done in `f64` in the order of the updates' hashes, with roots from IEEE 754 and
//! exponentials from `libm`.

mod aggregation;
mod exact;
mod guard;
mod optimiser;
mod robust;
mod source;
mod strategy;
#[cfg(test)]
mod tests;

pub use aggregation::{Aggregation, Measured, Model, Refusal, Scratch, Tile, Update};
pub use exact::{DELTA_MAX, ExactSums, UPDATE_WEIGHT_MAX, WEIGHT_SUM_MAX};
pub use guard::{Fault, check_values};
pub use source::{Output, ReadError, ReadLayoutError, Sink, Source, WriteError, read_layout};
pub use strategy::{Bound, Rule, STALENESS_ONE, Strategy, StrategyError};
