//! Subscribing: the newest version of a followed dataset comes here and becomes a folder.

mod destination;
mod fetch;

pub use fetch::fetch;
