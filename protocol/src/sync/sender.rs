//! The sending half of a transfer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Ranges, UNAVAILABLE_RANGES_MAX, Violation};
use crate::id::ChunkId;
use crate::wire::{ItemKey, MESSAGE_LIST_MAX, Message, OrdinalRange, PartialChunk, Refusal};

/// Items that are being read at once.
const LOADING_MAX: usize = 32;
/// Payload bytes that are read and wait for a grant or a stream; reading stops above.
const READY_BYTES_MAX: u64 = 8 << 20;
/// Pages that a receiver may have asked for and not got.
const WANTED_PAGES_MAX: usize = 4096;
/// Runs of chunks that a receiver may have asked for and not got.
const WANTED_RANGES_MAX: usize = 16384;

/// Where a sender stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendState {
    /// The version is offered, and nothing was heard yet.
    Offered,
    /// The receiver asks, and gets.
    Serving,
    /// The receiver committed the version.
    Committed,
    /// The receiver has all but what was unavailable.
    Incomplete,
    /// The receiver refused.
    Refused,
    /// This side gave up.
    Withdrawn,
    /// The receiver broke the protocol.
    Broken,
}

/// What moves a sender from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Asked,
    Committed,
    Incomplete,
    Refused,
    Withdraw,
    Violated,
}

impl SendState {
    /// The transition table; none where the event has no place.
    pub(super) const fn after(self, event: Event) -> Option<Self> {
        Some(match (self, event) {
            (Self::Offered | Self::Serving, Event::Asked) => Self::Serving,
            (Self::Offered | Self::Serving, Event::Committed) => Self::Committed,
            (Self::Serving, Event::Incomplete) => Self::Incomplete,
            (Self::Offered | Self::Serving, Event::Refused) => Self::Refused,
            (Self::Offered | Self::Serving, Event::Withdraw) => Self::Withdrawn,
            (Self::Offered | Self::Serving, Event::Violated) => Self::Broken,
            _ => return None,
        })
    }

    /// Whether nothing follows.
    pub const fn is_end(self) -> bool {
        !matches!(self, Self::Offered | Self::Serving)
    }
}

/// An item to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Which.
    pub key: ItemKey,
    /// First byte that the receiver lacks; more than 0 when an interrupted chunk goes on.
    pub from_offset: u32,
    /// It must travel as plain bytes: something else did not work.
    pub plain: bool,
}

/// How a sender ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendEnd {
    /// The version is committed.
    Committed {
        /// The commit record that came back.
        commit: Vec<u8>,
        /// The receipt.
        receipt: Vec<u8>,
    },
    /// These were unavailable; all else arrived, or the sender gave up.
    Incomplete(Vec<OrdinalRange>),
    /// The receiver refused.
    Refused(Refusal),
    /// This side gave up.
    Withdrawn,
    /// The receiver broke the protocol.
    Broken(Violation),
}

/// What a sender wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendAction {
    /// Send a control message.
    Send(Message),
    /// Read an item; answer with [`Sender::handle_loaded`] or [`Sender::handle_unavailable`].
    Load(Load),
    /// The transfer is over; nothing follows.
    Finished(SendEnd),
}

/// The sending half of a transfer: it offers, then answers what the receiver asks for, within what it was granted.
///
/// ```text
///            NeedPages, NeedChunks, Grant
/// Offered ------------------------------> Serving --+
///    |                                    ^      |  | NeedPages, NeedChunks, Again, Grant, Stored
///    |                                    +------+--+
///    |                                           |
///    +------------------+------------------------+---- Committed  -> Committed
///                       |                        |
///                       |                        +---- Incomplete -> Incomplete
///                       +-- Refused  -> Refused
///                       +-- withdraw() -> Withdrawn
///                       +-- anything else -> Broken
/// ```
///
/// Order of calls: after each `handle_*`, call [`Sender::poll_action`] until it gives nothing, and
/// [`Sender::poll_transmit`] whenever a stream can take an item.
#[derive(Debug)]
pub struct Sender {
    transfer: u32,
    chunks_total: u64,
    state: SendState,
    outbox: VecDeque<Message>,
    wanted_pages: VecDeque<ChunkId>,
    wanted_ranges: VecDeque<OrdinalRange>,
    partial: BTreeMap<u64, u32>,
    again: VecDeque<ItemKey>,
    /// Items that are being read or are ready.
    pipe: BTreeSet<ItemKey>,
    loading: usize,
    ready: VecDeque<(ItemKey, u32)>,
    ready_bytes: u64,
    /// Below zero after an item that began at the end of a grant and was longer.
    credit_bytes: i64,
    unavailable: Ranges,
    unavailable_unsent: Ranges,
    stored_chunks: u64,
    end: Option<SendEnd>,
}

impl Sender {
    /// A sender of a version with `chunks_total` chunks, that begins with `offer`.
    pub fn new(transfer: u32, chunks_total: u64, offer: Message) -> Self {
        Self {
            transfer,
            chunks_total,
            state: SendState::Offered,
            outbox: VecDeque::from([offer]),
            wanted_pages: VecDeque::new(),
            wanted_ranges: VecDeque::new(),
            partial: BTreeMap::new(),
            again: VecDeque::new(),
            pipe: BTreeSet::new(),
            loading: 0,
            ready: VecDeque::new(),
            ready_bytes: 0,
            credit_bytes: 0,
            unavailable: Ranges::new(),
            unavailable_unsent: Ranges::new(),
            stored_chunks: 0,
            end: None,
        }
    }

    /// Where it stands.
    pub const fn state(&self) -> SendState {
        self.state
    }

    /// Chunks that the receiver has acknowledged as durable.
    pub const fn stored_chunks(&self) -> u64 {
        self.stored_chunks
    }

    /// Payload bytes that are granted and not used: an item may begin while there are any.
    pub const fn credit_bytes(&self) -> u64 {
        if self.credit_bytes > 0 { self.credit_bytes.cast_unsigned() } else { 0 }
    }

    /// A control message of this transfer has arrived.
    pub fn handle_message(&mut self, message: &Message) {
        if self.state.is_end() {
            return;
        }
        let result = match message {
            Message::NeedPages { ids, .. } => self.want_pages(ids),
            Message::NeedChunks { ranges, partial, .. } => self.want_chunks(ranges, partial),
            Message::Again { keys, .. } => self.want_again(keys),
            Message::Grant { bytes, .. } => {
                self.credit_bytes = self.credit_bytes.saturating_add_unsigned(*bytes);
                Ok(())
            }
            Message::Stored { ranges, .. } => ranges.iter().try_for_each(|range| {
                self.check_range(range)?;
                self.stored_chunks = self.stored_chunks.saturating_add(range.count);
                Ok(())
            }),
            Message::Committed { commit, receipt, .. } => {
                // Also where chunks were unavailable: the receiver may have had them from another file.
                let end = SendEnd::Committed { commit: commit.clone(), receipt: receipt.clone() };
                return self.finish(Event::Committed, end);
            }
            Message::Incomplete { .. } => {
                let lacking = self.unavailable.iter().collect::<Vec<_>>();
                if lacking.is_empty() {
                    return self.violated(self.unexpected("Incomplete although nothing was unavailable"));
                }
                return self.finish(Event::Incomplete, SendEnd::Incomplete(lacking));
            }
            Message::Refused { refusal, .. } => return self.finish(Event::Refused, SendEnd::Refused(refusal.clone())),
            _ => Err(self.unexpected("a message of a sender")),
        };
        match result {
            Ok(()) => self.state = self.state.after(Event::Asked).expect("neither end was reached"),
            Err(violation) => self.violated(violation),
        }
    }

    fn unexpected(&self, message: &'static str) -> Violation {
        Violation::Unexpected { message, state: format!("{:?}", self.state) }
    }

    fn want_pages(&mut self, ids: &[ChunkId]) -> Result<(), Violation> {
        if self.wanted_pages.len() + ids.len() > WANTED_PAGES_MAX {
            return Err(Violation::TooMany { what: "pages", limit: WANTED_PAGES_MAX });
        }
        self.wanted_pages.extend(ids);
        Ok(())
    }

    fn want_chunks(&mut self, ranges: &[OrdinalRange], partial: &[PartialChunk]) -> Result<(), Violation> {
        if self.wanted_ranges.len() + ranges.len() > WANTED_RANGES_MAX
            || self.partial.len() + partial.len() > WANTED_RANGES_MAX
        {
            return Err(Violation::TooMany { what: "runs of chunks", limit: WANTED_RANGES_MAX });
        }
        ranges.iter().try_for_each(|range| self.check_range(range))?;
        self.wanted_ranges.extend(ranges);
        for part in partial {
            self.check_range(&OrdinalRange { first: part.ordinal, count: 1 })?;
            self.partial.insert(part.ordinal, part.offset);
        }
        Ok(())
    }

    fn want_again(&mut self, keys: &[ItemKey]) -> Result<(), Violation> {
        if self.again.len() + keys.len() > MESSAGE_LIST_MAX {
            return Err(Violation::TooMany { what: "items again", limit: MESSAGE_LIST_MAX });
        }
        for key in keys {
            if let ItemKey::Chunk(ordinal) = key {
                self.check_range(&OrdinalRange { first: *ordinal, count: 1 })?;
            }
            self.again.push_back(*key);
        }
        Ok(())
    }

    fn check_range(&self, range: &OrdinalRange) -> Result<(), Violation> {
        let end = range.first.saturating_add(range.count);
        if range.count > 0 && end <= self.chunks_total {
            return Ok(());
        }
        Err(Violation::OutOfRange { ordinal: end.saturating_sub(1), chunks: self.chunks_total })
    }

    /// An item was read; it will travel with so many payload bytes. The shell keeps it until [`Sender::poll_transmit`]
    /// names it.
    pub fn handle_loaded(&mut self, key: ItemKey, payload_bytes: u32) {
        if !self.state.is_end() && self.pipe.contains(&key) {
            self.loading -= 1;
            self.ready.push_back((key, payload_bytes));
            self.ready_bytes += u64::from(payload_bytes);
        }
    }

    /// An item can't be read: its file changed or vanished. Without a page nothing of the version can be had.
    pub fn handle_unavailable(&mut self, key: ItemKey) {
        if self.state.is_end() || !self.pipe.remove(&key) {
            return;
        }
        self.loading -= 1;
        match key {
            ItemKey::Page(_) => self.withdraw(),
            ItemKey::Chunk(ordinal) => {
                self.unavailable.insert_one(ordinal);
                self.unavailable_unsent.insert_one(ordinal);
                if self.unavailable.len() > UNAVAILABLE_RANGES_MAX {
                    self.outbox.push_back(Message::Withdraw { transfer: self.transfer });
                    let lacking = self.unavailable.iter().collect();
                    self.finish(Event::Withdraw, SendEnd::Incomplete(lacking));
                }
            }
        }
    }

    /// Gives the transfer up.
    pub fn withdraw(&mut self) {
        if !self.state.is_end() {
            self.outbox.push_back(Message::Withdraw { transfer: self.transfer });
            self.finish(Event::Withdraw, SendEnd::Withdrawn);
        }
    }

    /// The receiver broke the protocol elsewhere than in a message.
    pub fn handle_violation(&mut self, violation: Violation) {
        if !self.state.is_end() {
            self.violated(violation);
        }
    }

    fn violated(&mut self, violation: Violation) {
        self.outbox.push_back(Message::Withdraw { transfer: self.transfer });
        self.finish(Event::Violated, SendEnd::Broken(violation));
    }

    fn finish(&mut self, event: Event, end: SendEnd) {
        match self.state.after(event) {
            Some(state) => {
                self.state = state;
                self.end = Some(end);
                self.wanted_pages.clear();
                self.wanted_ranges.clear();
                self.partial.clear();
                self.again.clear();
                self.ready.clear();
                self.pipe.clear();
            }
            None => self.violated(self.unexpected("an end that can't be yet")),
        }
    }

    /// What to do next, if anything.
    pub fn poll_action(&mut self) -> Option<SendAction> {
        if let Some(message) = self.outbox.pop_front() {
            return Some(SendAction::Send(message));
        }
        if let Some(end) = self.end.take() {
            return Some(SendAction::Finished(end));
        }
        if self.state.is_end() {
            return None;
        }
        if self.loading == 0 || self.unavailable_unsent.len() >= MESSAGE_LIST_MAX {
            let ranges = self.unavailable_unsent.take(MESSAGE_LIST_MAX);
            if !ranges.is_empty() {
                return Some(SendAction::Send(Message::Unavailable { transfer: self.transfer, ranges }));
            }
        }
        self.next_load().map(SendAction::Load)
    }

    fn next_load(&mut self) -> Option<Load> {
        if self.loading >= LOADING_MAX || self.ready_bytes >= READY_BYTES_MAX {
            return None;
        }
        // An item that is asked for while it is under way is sent once.
        while let Some(load) = self.next_wanted() {
            if self.pipe.insert(load.key) {
                self.loading += 1;
                return Some(load);
            }
        }
        None
    }

    fn next_wanted(&mut self) -> Option<Load> {
        if let Some(key) = self.again.pop_front() {
            return Some(Load { key, from_offset: 0, plain: true });
        }
        if let Some(id) = self.wanted_pages.pop_front() {
            return Some(Load { key: ItemKey::Page(id), from_offset: 0, plain: false });
        }
        let range = self.wanted_ranges.front_mut()?;
        let ordinal = range.first;
        range.first += 1;
        range.count -= 1;
        if range.count == 0 {
            self.wanted_ranges.pop_front();
        }
        let from_offset = self.partial.remove(&ordinal).unwrap_or(0);
        Some(Load { key: ItemKey::Chunk(ordinal), from_offset, plain: false })
    }

    /// The next item to put on a stream, if one is ready and something is left of what was granted: so a grant is always used
    /// up, and nothing of it lies idle because the next item is longer. Its payload counts as sent.
    pub fn poll_transmit(&mut self) -> Option<ItemKey> {
        if self.state.is_end() || self.credit_bytes <= 0 {
            return None;
        }
        let (key, payload_bytes) = self.ready.pop_front()?;
        self.pipe.remove(&key);
        self.ready_bytes -= u64::from(payload_bytes);
        self.credit_bytes -= i64::from(payload_bytes);
        Some(key)
    }
}
