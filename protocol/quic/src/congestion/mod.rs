//! How much may be in flight.
//!
//! quinn brings CUBIC, NewReno and an experimental BBR. [`BdpConfig`] is our own, for what edges meet: long round trips, loss
//! that is no congestion, and capacity that comes and goes.

mod bdp;
mod rate;

pub use bdp::{Bdp, BdpConfig};
