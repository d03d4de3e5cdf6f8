//! Subscribing: the newest version of a followed dataset comes here and becomes a folder.

mod destination;
mod fetch;
mod wanted;

pub use fetch::fetch;
pub use wanted::{Wanted, folder_of, wanted};
