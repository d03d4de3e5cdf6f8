//! Giving subscribers what they may read: what is new, and the bytes of versions.

mod following;
mod source;

pub use following::{FOLLOWED_NAMES_MAX, Followed, Resolved, own_heads};
pub use source::VersionSource;
