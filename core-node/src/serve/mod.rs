//! Giving what may be read: subscribers hear what is new and get versions, training jobs read samples ([`reading`]).

mod following;
mod lease;
pub mod outgoing;
pub(crate) mod reading;
mod source;

pub use following::{FOLLOWED_NAMES_MAX, Followed, Resolved, own_heads};
pub use lease::HeldLease;
pub use reading::Readers;
pub use source::VersionSource;
