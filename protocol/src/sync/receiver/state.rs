//! What a receiver says and is told: its states and their transitions, its actions, and its answers.

use std::sync::Arc;

use crate::id::ChunkId;
use crate::page::Page;
use crate::record::ChunkRef;
use crate::sync::Violation;
use crate::wire::{Message, OrdinalRange, Refusal};

/// Where a receiver stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveState {
    /// It walks the tree, asks for what is not here, and makes it durable.
    Walking,
    /// Everything is durable; the destination commits.
    Committing,
    /// The version is committed.
    Committed,
    /// All is here but what was unavailable.
    Incomplete,
    /// The sender gave up.
    Withdrawn,
    /// This side refused.
    Refused,
    /// The sender broke the protocol.
    Broken,
}

/// What moves a receiver from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sync) enum Event {
    AllDurable,
    Committed,
    NothingMore,
    Withdraw,
    Refuse,
    Violated,
}

impl ReceiveState {
    /// The transition table; none where the event changes nothing.
    pub(in crate::sync) const fn after(self, event: Event) -> Option<Self> {
        Some(match (self, event) {
            (Self::Walking, Event::AllDurable) => Self::Committing,
            (Self::Walking, Event::NothingMore) => Self::Incomplete,
            (Self::Walking, Event::Withdraw) => Self::Withdrawn,
            (Self::Walking, Event::Violated) => Self::Broken,
            (Self::Walking | Self::Committing, Event::Refuse) => Self::Refused,
            // A commit that runs can't be taken back: what the sender does now changes nothing.
            (Self::Committing, Event::Committed) => Self::Committed,
            _ => return None,
        })
    }

    /// Whether nothing follows.
    pub const fn is_end(self) -> bool {
        !matches!(self, Self::Walking | Self::Committing)
    }
}

/// Bounds of a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveLimits {
    /// Payload bytes that may be under way or not durable; below [`WINDOW_BYTES_MIN`](super::WINDOW_BYTES_MIN) nothing is
    /// granted. [`Receiver::handle_window`](super::Receiver::handle_window) changes it.
    pub window_bytes: u64,
}

impl Default for ReceiveLimits {
    fn default() -> Self {
        Self { window_bytes: 8 << 20 }
    }
}

/// A chunk whose presence is in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its position in manifest order.
    pub ordinal: u64,
    /// The chunk.
    pub chunk: ChunkRef,
}

/// Whether a store has a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// It has not.
    Missing,
    /// It has, and this is it.
    Page(Arc<Page>),
    /// It has, and everything below as well.
    Complete,
}

/// What an item that arrives must turn out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its id.
    pub id: ChunkId,
    /// Its plain bytes go before the payload's: the prefix that was kept; 0 where there is none.
    pub from_offset: u32,
}

/// How a receiver ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiveEnd {
    /// The version is committed.
    Committed,
    /// These were unavailable; all else is here.
    Incomplete(Vec<OrdinalRange>),
    /// The sender gave up.
    Withdrawn,
    /// This side refused.
    Refused(Refusal),
    /// The sender broke the protocol.
    Broken(Violation),
}

/// What a receiver wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiveAction {
    /// Send a control message.
    Send(Message),
    /// See which pages are here; answer with [`Receiver::handle_lookup`].
    LookUp(Vec<ChunkId>),
    /// See which chunks are here; answer with [`Receiver::handle_presence`].
    CheckPresence(Vec<Wanted>),
    /// Everything below these pages is durable: the store may remember that.
    Completed(Vec<ChunkId>),
    /// Commit the version; answer with [`Receiver::handle_committed`].
    Commit,
    /// The transfer is over; nothing follows.
    Finished(ReceiveEnd),
}

/// What a receiver has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveStats {
    /// Chunks that are known to be here.
    pub chunks_here: u64,
    /// Plain bytes of chunks that were here already, and sizes of files below pages that were complete already.
    pub bytes_found: u64,
    /// Plain bytes of chunks that arrived and are durable.
    pub bytes_stored: u64,
}
