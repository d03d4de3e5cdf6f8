//! Publishing: a folder becomes the next version of its dataset, and the version goes to the core.

mod build;
mod index;
mod revert;
mod round;
mod send;
mod source;
mod standing;

pub use build::{Built, build};
pub(crate) use index::index_version;
pub use round::{Rounds, publish};
pub use send::{Sent, has_at_or_below, serve_fetch};
pub use source::PublishSource;
pub use standing::{Standing, adopt, standing};
