//! Moving a version from a sender to a receiver: two state machines, the same in both directions.

use crate::wire::ItemKey;

/// Whether a receiver has a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Presence {
    /// All of it, durably and in scope.
    Here,
    /// Its first bytes, unverified, from a transfer that was cut.
    Prefix(u32),
    /// Nothing.
    Missing,
}

/// What a peer did that the protocol does not allow; names the thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An item that nobody asked for, or asked for twice and got twice.
    #[error("it sent {0:?}, which was not asked for")]
    Unasked(ItemKey),
}
