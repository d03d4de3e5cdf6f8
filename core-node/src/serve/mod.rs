//! Giving subscribers what they may read: what is new, and the bytes of versions.

mod following;
mod lease;
mod source;

pub use following::{FOLLOWED_NAMES_MAX, Followed, Resolved, own_heads};
pub use lease::HeldLease;
pub use source::VersionSource;
