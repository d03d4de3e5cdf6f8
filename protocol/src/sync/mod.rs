//! Moving a version from a sender to a receiver: two state machines, the same in both directions.
//!
//! ```text
//! sender                                          receiver
//!   | --- Offer(manifest, commit record) ------------> |
//!   | <-- Grant(bytes) ------------------------------- |
//!   | <-- NeedPages(ids), NeedChunks(ranges) --------- |  what its store lacks, found by walking the tree
//!   | === pages and chunks, as items ================> |  verified, made durable in batches
//!   | <-- Stored(ranges), Grant(bytes) --------------- |  as they become durable
//!   | <-- Committed(commit record, receipt) ---------- |
//! ```
//!
//! The [`Receiver`] drives: it walks the offered tree against its store, several levels at once and in manifest order, and
//! passes over every subtree of which the store says that all of it is here. So a version that changes k files of n costs
//! O(k + log n), and after a cut a new transfer finds what the last one left. The [`Sender`] only answers, and never sends
//! more than it was granted.
//!
//! Neither holds a list of all chunks: what they remember is bounded by what is under way, whatever the version's size.
//! Neither does anything: a shell carries out their actions, tells them the outcome, and moves the bytes.

mod ledger;
mod patience;
mod race;
mod ranges;
mod receiver;
mod sender;
mod shares;
mod source;
mod turns;
mod walk;

use crate::id::ChunkId;
use crate::wire::{ItemKey, Refusal};

pub use ledger::{Ledger, Sending, SentByReason, SentBytes, SentItem};
pub use patience::{Hoarding, PATIENCE, Patience};
pub use race::{ATTEMPTS_AT_ONCE_MAX, Attempts, Race, RaceStep, Tries, retry_within};
pub use ranges::Ranges;
pub use receiver::{
    Expected, Held, ReceiveAction, ReceiveEnd, ReceiveLimits, ReceiveState, ReceiveStats, Receiver, WINDOW_BYTES_MIN,
    Wanted,
};
pub use sender::{Load, SendAction, SendEnd, SendState, Sender};
pub use shares::{SHARE_BYTES_MAX, ShareId, Shares, TURN};
pub use source::{BoxError, DeltaBase, ItemBody, LoadedItem, Source, SourceError};
pub use turns::{CLASSES, TURN_BYTES, Turns};

#[cfg(test)]
mod tests;

/// Most stretches of unavailable chunks in one transfer; a version that lacks more is not worth sending on.
pub const UNAVAILABLE_RANGES_MAX: usize = 4096;

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
    /// An item that nobody asked for, or that came twice.
    #[error("it sent {}, which was not asked for", name(.0))]
    Unasked(ItemKey),
    /// An item's header contradicts what is known of it.
    #[error("it sent {} wrongly: {reason}", name(.key))]
    Item {
        /// The item.
        key: ItemKey,
        /// What does not fit.
        reason: String,
    },
    /// Plain bytes that are not what their id says.
    #[error("it sent other bytes than those of {}", name(.0))]
    WrongBytes(ItemKey),
    /// More payload than was granted.
    #[error("it sent {sent} bytes where {granted} were granted")]
    OverGrant {
        /// Payload bytes sent so far.
        sent: u64,
        /// Payload bytes granted so far.
        granted: u64,
    },
    /// A page that is not what the page above says of it.
    #[error("page {} does not fit into the version: {reason}", .id.short())]
    Page {
        /// The page.
        id: ChunkId,
        /// What does not fit.
        reason: String,
    },
    /// A chunk outside the version.
    #[error("it named chunk {ordinal} of a version with {chunks}")]
    OutOfRange {
        /// The position in manifest order.
        ordinal: u64,
        /// Chunks of the version.
        chunks: u64,
    },
    /// More requests at once than a peer keeps.
    #[error("it asked for more than {limit} {what} at once")]
    TooMany {
        /// What was asked for.
        what: &'static str,
        /// How many are kept.
        limit: usize,
    },
    /// A message that has no place here.
    #[error("it sent {message} while the transfer was {state}")]
    Unexpected {
        /// The message.
        message: &'static str,
        /// The state.
        state: String,
    },
}

impl Violation {
    /// What the peer that did it is told.
    pub fn refusal(&self) -> Refusal {
        let (code, hint) = match self {
            Self::WrongBytes(_) => ("HW-3005", "check the sender's disk and memory, then try again"),
            Self::Page { .. } | Self::OutOfRange { .. } => {
                ("HW-3004", "publish the version again with a current release")
            }
            _ => ("HW-3003", "update both sides to the same release; if it stays, report it"),
        };
        Refusal { code: code.into(), message: format!("the transfer was ended: {self}"), hint: hint.into() }
    }
}

/// An item in words.
fn name(key: &ItemKey) -> String {
    match key {
        ItemKey::Page(id) => format!("page {}", id.short()),
        ItemKey::Chunk(ordinal) => format!("chunk {ordinal}"),
    }
}
