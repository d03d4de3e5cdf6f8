//! Publishing: a folder becomes the next version of its dataset, and the version goes to the core.

mod build;
mod freed;
mod index;
mod keep;
mod revert;
mod round;
mod send;
mod standing;
#[cfg(test)]
mod tests;

pub use build::{Built, build};
pub(in crate::session) use freed::FreedWord;
pub(crate) use freed::announce as announce_freed;
pub(crate) use index::index_version;
pub use round::{Rounds, publish};
pub use send::{Sent, serve_fetch};
pub use standing::{Standing, adopt, standing};
