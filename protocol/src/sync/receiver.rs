//! The receiving half of a transfer.

mod flights;
mod state;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::walk::{FoundChunk, Skipped, Walk};
use super::{Presence, Ranges, UNAVAILABLE_RANGES_MAX, Violation};
use crate::id::ChunkId;
use crate::manifest::{Manifest, Totals};
use crate::page::{PAGE_BYTES_MAX, Page};
use crate::time::Timestamp;
use crate::wire::{ItemHeader, ItemKey, MESSAGE_LIST_MAX, Message, OrdinalRange, PAYLOAD_BYTES_MAX, Refusal};
use flights::{Flights, Settled};
pub(super) use state::Event;
pub use state::{Expected, Held, ReceiveAction, ReceiveEnd, ReceiveLimits, ReceiveState, ReceiveStats, Wanted};

/// Pages in one look-up.
const LOOKUP_PAGES_MAX: usize = 64;
/// Look-ups that run at once.
const LOOKUPS_MAX: usize = 2;
/// Pages that are asked for at once.
const PAGES_ASKED_MAX: usize = 512;
/// Chunks in one question for their presence.
const PRESENCE_CHUNKS_MAX: usize = 1024;
/// Questions for presence that run at once.
const PRESENCE_MAX: usize = 2;
/// Chunks that were found and wait for their question; above, the walk waits.
const FOUND_CHUNKS_MAX: usize = 16 * 1024;
/// Chunks that are asked for at once.
const CHUNKS_ASKED_MAX: usize = 4096;
/// Chunks are asked for ahead of the window, so that the sender never waits for a round trip.
const ASK_AHEAD_WINDOWS: u64 = 4;
/// Completed pages are announced in groups of so many.
const COMPLETED_PAGES_MAX: usize = 256;
/// Runs that are acknowledged in one message before its time.
const STORED_RANGES_MAX: usize = 512;
/// Acknowledgements wait this long for company.
const STORED_DELAY: Duration = Duration::from_millis(100);
/// A window is granted anew in parts of this fraction.
const GRANT_PARTS: u64 = 8;
/// Most files, and most chunks, of a version.
const VERSION_ITEMS_MAX: u64 = 1 << 48;

/// The last item that a grant lets begin may be longer than what is left of the grant: this much of a window is kept for it.
const LAST_ITEM_BYTES: u64 = PAYLOAD_BYTES_MAX as u64;
/// Smallest window with which a transfer moves on.
pub const WINDOW_BYTES_MIN: u64 = LAST_ITEM_BYTES + (256 << 10);
const _: () = assert!(CHUNKS_ASKED_MAX <= MESSAGE_LIST_MAX && PAGES_ASKED_MAX <= MESSAGE_LIST_MAX);

/// What is known of an item between its header and its end.
#[derive(Debug)]
struct Arriving {
    payload_bytes: u32,
    /// It came plain and whole: if it is wrong, nothing better can follow.
    plain_whole: bool,
}

/// The receiving half of a transfer: it walks the offered tree, asks for what is not here, and commits when all is
/// durable.
///
/// ```text
///   +--- pages, chunks, look-ups, presence, Unavailable ---+
///   |                                                      |
///   +------------------> Walking <-------------------------+
///                          |  |
///   all durable            |  +-- nothing more to come, chunks unavailable -> Incomplete
///   +----------------------+  +-- Withdraw ---------------------------------> Withdrawn
///   |                         +-- violation --------------------------------> Broken
///   v                         |
///   Committing -- refuse() ---+---------------------------------------------> Refused
///   |
///   +-- committed ----------------------------------------------------------> Committed
/// ```
///
/// Order of calls: after each `handle_*`, call [`Receiver::poll_action`] until it gives nothing. An item that arrives is
/// shown to [`Receiver::handle_item`] with its header, then verified, then either [`Receiver::handle_verified`] and, once
/// durable, [`Receiver::handle_stored`]; or [`Receiver::handle_unusable`].
#[derive(Debug)]
pub struct Receiver {
    transfer: u32,
    totals: Totals,
    window_bytes: u64,
    state: ReceiveState,
    walk: Walk,
    lookups: usize,
    pages_asked: usize,
    need_pages: Vec<ChunkId>,
    flights: Flights,
    questions: usize,
    arriving: BTreeMap<ItemKey, Arriving>,
    again: Vec<ItemKey>,
    /// Items that were asked for again and are not here yet: nobody gets a third try.
    repeated: BTreeSet<ItemKey>,
    granted_bytes: u64,
    received_bytes: u64,
    /// Payload bytes of items that are durable or were of no use.
    settled_bytes: u64,
    stored: Ranges,
    stored_since: Option<Timestamp>,
    stored_due: bool,
    unavailable: Ranges,
    stats: ReceiveStats,
    outbox: VecDeque<Message>,
    commit_wanted: bool,
    end: Option<ReceiveEnd>,
}

impl Receiver {
    /// A receiver of the version that `manifest` describes.
    pub fn new(transfer: u32, manifest: &Manifest, limits: ReceiveLimits) -> Result<Self, Violation> {
        let totals = manifest.totals();
        if totals.files > VERSION_ITEMS_MAX || totals.chunks > VERSION_ITEMS_MAX {
            return Err(Violation::OutOfRange { ordinal: totals.chunks, chunks: VERSION_ITEMS_MAX });
        }
        let mut receiver = Self {
            transfer,
            totals,
            window_bytes: limits.window_bytes,
            state: ReceiveState::Walking,
            walk: Walk::new(manifest),
            lookups: 0,
            pages_asked: 0,
            need_pages: Vec::new(),
            flights: Flights::default(),
            questions: 0,
            arriving: BTreeMap::new(),
            again: Vec::new(),
            repeated: BTreeSet::new(),
            granted_bytes: 0,
            received_bytes: 0,
            settled_bytes: 0,
            stored: Ranges::new(),
            stored_since: None,
            stored_due: false,
            unavailable: Ranges::new(),
            stats: ReceiveStats::default(),
            outbox: VecDeque::new(),
            commit_wanted: false,
            end: None,
        };
        receiver.settle();
        Ok(receiver)
    }

    /// Where it stands.
    pub const fn state(&self) -> ReceiveState {
        self.state
    }

    /// What it has done.
    pub const fn stats(&self) -> ReceiveStats {
        self.stats
    }

    /// Files, samples, bytes and chunks of the version.
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Pages and chunks that it remembers now: bounded, whatever the version's size.
    pub fn remembered(&self) -> usize {
        self.walk.remembered() + self.flights.remembered() + self.arriving.len() + self.stored.len()
    }

    /// Whether it has asked for something that is not here yet, and so can use a window.
    pub fn is_asking(&self) -> bool {
        self.state == ReceiveState::Walking && (self.pages_asked > 0 || self.flights.is_asking())
    }

    /// Most payload bytes that may have arrived and not be durable before something is granted again.
    pub const fn exposure_bytes(&self) -> u64 {
        let arriving = if self.granted_bytes > self.received_bytes {
            self.granted_bytes + LAST_ITEM_BYTES
        } else {
            self.received_bytes
        };
        arriving - self.settled_bytes
    }

    /// This side still works on it, or waits for its turn: says so with a grant of nothing, so that nobody takes the silence
    /// for an end.
    pub fn handle_quiet(&mut self) {
        if !self.state.is_end() {
            self.outbox.push_back(Message::Grant { transfer: self.transfer, bytes: 0 });
        }
    }

    /// Whether it is the sender's turn: something is asked for and granted that has not come.
    pub fn awaits_sender(&self) -> bool {
        self.is_asking() && self.granted_bytes > self.received_bytes && self.arriving.is_empty()
    }

    /// From now on so many payload bytes may be under way or not durable, at least [`WINDOW_BYTES_MIN`]; with fewer, nothing
    /// is granted. A grant can't be taken back: after a smaller window nothing is granted until what is out fits.
    pub const fn handle_window(&mut self, window_bytes: u64) {
        self.window_bytes = window_bytes;
    }

    /// A control message of this transfer has arrived.
    pub fn handle_message(&mut self, now: Timestamp, message: &Message) {
        if self.state.is_end() {
            return;
        }
        match message {
            Message::Withdraw { .. } => self.finish(Event::Withdraw, ReceiveEnd::Withdrawn),
            Message::Unavailable { ranges, .. } => {
                if let Err(violation) = self.lack(ranges) {
                    return self.violated(violation);
                }
                self.note_stored(now);
                self.settle();
            }
            _ => self.violated(Violation::Unexpected {
                message: "a message of a receiver",
                state: format!("{:?}", self.state),
            }),
        }
    }

    fn lack(&mut self, ranges: &[OrdinalRange]) -> Result<(), Violation> {
        for range in ranges {
            if range.count > CHUNKS_ASKED_MAX as u64 {
                return Err(Violation::TooMany { what: "chunks", limit: CHUNKS_ASKED_MAX });
            }
            for ordinal in range.first..range.first + range.count {
                let key = ItemKey::Chunk(ordinal);
                if self.arriving.contains_key(&key) {
                    return Err(Violation::Item { key, reason: "it came and was then called unavailable".into() });
                }
                let lacking = self.flights.unavailable(ordinal).ok_or(Violation::Unasked(key))?;
                for ordinal in lacking {
                    self.unavailable.insert_one(ordinal);
                }
            }
        }
        if self.unavailable.len() > UNAVAILABLE_RANGES_MAX {
            return Err(Violation::TooMany { what: "unavailable chunks", limit: UNAVAILABLE_RANGES_MAX });
        }
        Ok(())
    }

    /// The store's answer to [`ReceiveAction::LookUp`], for every page of it.
    pub fn handle_lookup(&mut self, answers: &[(ChunkId, Held)]) {
        if self.state.is_end() {
            return;
        }
        self.lookups -= 1;
        for (id, held) in answers {
            match held {
                Held::Missing => {
                    if self.walk.lacks(id) {
                        self.pages_asked += 1;
                        self.need_pages.push(*id);
                    }
                }
                Held::Complete => {
                    for Skipped { ordinals, bytes } in self.walk.skip(id) {
                        self.stats.chunks_here += ordinals.count;
                        self.stats.bytes_found += bytes;
                        self.stored.insert(ordinals);
                    }
                }
                Held::Page(page) => match self.walk.expand(id, page, true) {
                    Ok(found) => self.flights.found(found),
                    Err(violation) => return self.violated(violation),
                },
            }
        }
        self.settle();
    }

    /// The store's answer to [`ReceiveAction::CheckPresence`], for every chunk of it.
    pub fn handle_presence(&mut self, answers: &[(Wanted, Presence)]) {
        if self.state.is_end() {
            return;
        }
        self.questions -= 1;
        for (wanted, presence) in answers {
            let length = wanted.chunk.length;
            match presence {
                Presence::Here => {
                    let settled = self.flights.settle(&wanted.chunk.id);
                    self.stats.bytes_found += u64::from(length) * settled.waiting.len() as u64;
                    self.here(&settled);
                }
                // A prefix that is the whole chunk, unverified, is worth no more than all but its last byte.
                Presence::Prefix(bytes) => self.flights.missing(&wanted.chunk.id, (*bytes).min(length - 1)),
                Presence::Missing => self.flights.missing(&wanted.chunk.id, 0),
            }
        }
        self.settle();
    }

    fn here(&mut self, settled: &Settled) {
        for FoundChunk { ordinal, slot, .. } in &settled.waiting {
            self.stats.chunks_here += 1;
            self.stored.insert_one(*ordinal);
            self.walk.less_lacking(Some(*slot));
        }
    }

    /// An item arrives: says what it must turn out to be. On a violation the transfer is over.
    pub fn handle_item(&mut self, header: &ItemHeader) -> Result<Expected, Violation> {
        let result = self.expect(header);
        if let Err(violation) = &result {
            self.violated(violation.clone());
        }
        result
    }

    fn expect(&mut self, header: &ItemHeader) -> Result<Expected, Violation> {
        let ItemHeader { key, plain_bytes, payload_bytes, .. } = *header;
        if self.state != ReceiveState::Walking || self.arriving.contains_key(&key) {
            return Err(Violation::Unasked(key));
        }
        self.received_bytes += u64::from(payload_bytes);
        if self.received_bytes > self.granted_bytes + LAST_ITEM_BYTES {
            return Err(Violation::OverGrant { sent: self.received_bytes, granted: self.granted_bytes });
        }
        let from_offset = header.from_offset();
        let wrong = |reason: String| Err(Violation::Item { key, reason });
        let id = match key {
            ItemKey::Page(id) => {
                if !self.walk.arrives(&id) {
                    return Err(Violation::Unasked(key));
                }
                if plain_bytes as usize > PAGE_BYTES_MAX || from_offset != 0 {
                    return wrong(format!("a page of {plain_bytes} bytes from byte {from_offset}"));
                }
                id
            }
            ItemKey::Chunk(ordinal) => {
                let (chunk, offset) = self.flights.arrives(ordinal).ok_or(Violation::Unasked(key))?;
                if plain_bytes != chunk.length {
                    return wrong(format!("{plain_bytes} bytes where the version says {}", chunk.length));
                }
                if from_offset != 0 && from_offset != offset {
                    return wrong(format!("from byte {from_offset} where {offset} was asked for"));
                }
                chunk.id
            }
        };
        let plain_whole = matches!(header.encoding, crate::wire::Encoding::Plain { from_offset: 0 });
        self.arriving.insert(key, Arriving { payload_bytes, plain_whole });
        Ok(Expected { id, from_offset })
    }

    /// The bytes of an item are verified; a page's content comes with it. It is being stored from here on.
    pub fn handle_verified(&mut self, key: ItemKey, page: Option<&Page>) {
        if self.state.is_end() || !self.arriving.contains_key(&key) {
            return;
        }
        if let (ItemKey::Page(id), Some(page)) = (key, page) {
            self.pages_asked -= 1;
            match self.walk.expand(&id, page, false) {
                Ok(found) => self.flights.found(found),
                Err(violation) => self.violated(violation),
            }
        }
    }

    /// The bytes of an item are not what they should be, or what its delta or prefix stands on is not here. It is asked for
    /// again, plain; unless it was plain and whole, or had been asked for again already: then the sender sent other bytes.
    pub fn handle_unusable(&mut self, key: ItemKey) {
        let Some(arriving) = self.arriving.remove(&key) else { return };
        self.settled_bytes += u64::from(arriving.payload_bytes);
        if arriving.plain_whole || !self.repeated.insert(key) {
            return self.violated(Violation::WrongBytes(key));
        }
        match key {
            ItemKey::Page(id) => self.walk.asked_again(&id),
            ItemKey::Chunk(ordinal) => self.flights.asked_again(ordinal),
        }
        self.again.push(key);
    }

    /// Items are durable.
    pub fn handle_stored(&mut self, now: Timestamp, keys: &[ItemKey]) {
        for key in keys {
            let Some(arriving) = self.arriving.remove(key) else { continue };
            self.settled_bytes += u64::from(arriving.payload_bytes);
            self.repeated.remove(key);
            match key {
                ItemKey::Page(id) => self.walk.stored(id),
                ItemKey::Chunk(ordinal) => {
                    let Some(settled) = self.flights.settle_asked(*ordinal) else { continue };
                    self.stats.bytes_stored += u64::from(settled.length);
                    self.stats.bytes_found += u64::from(settled.length) * (settled.waiting.len() as u64 - 1);
                    self.here(&settled);
                }
            }
        }
        self.note_stored(now);
        self.settle();
    }

    fn note_stored(&mut self, now: Timestamp) {
        if self.stored.is_empty() {
            return;
        }
        let since = *self.stored_since.get_or_insert(now);
        if now.since(since) >= STORED_DELAY || self.stored.len() >= STORED_RANGES_MAX {
            self.stored_due = true;
        }
    }

    /// The destination has committed the version, and answers this to the sender.
    pub fn handle_committed(&mut self, commit: Vec<u8>, receipt: Vec<u8>) {
        if self.state == ReceiveState::Committing {
            self.outbox.push_back(Message::Committed { transfer: self.transfer, commit, receipt });
            self.finish(Event::Committed, ReceiveEnd::Committed);
        }
    }

    /// This side can't or won't go on.
    pub fn refuse(&mut self, refusal: Refusal) {
        if !self.state.is_end() {
            self.outbox.push_back(Message::Refused { transfer: Some(self.transfer), refusal: refusal.clone() });
            self.finish(Event::Refuse, ReceiveEnd::Refused(refusal));
        }
    }

    /// The sender broke the protocol elsewhere than in a message or an item's header.
    pub fn handle_violation(&mut self, violation: Violation) {
        self.violated(violation);
    }

    fn violated(&mut self, violation: Violation) {
        if self.state == ReceiveState::Walking {
            self.outbox.push_back(Message::Refused { transfer: Some(self.transfer), refusal: violation.refusal() });
            self.finish(Event::Violated, ReceiveEnd::Broken(violation));
        }
    }

    fn finish(&mut self, event: Event, end: ReceiveEnd) {
        if let Some(state) = self.state.after(event) {
            self.state = state;
            self.end = Some(end);
            self.walk = Walk::default();
            self.flights = Flights::default();
        }
    }

    /// Sees whether all is durable, or nothing more can come.
    fn settle(&mut self) {
        if self.state != ReceiveState::Walking {
            return;
        }
        if self.walk.is_complete() {
            self.state = self.state.after(Event::AllDurable).expect("it walks");
            self.commit_wanted = true;
        } else if !self.unavailable.is_empty() && self.walk.is_settled() && self.flights.is_settled() {
            let stored = self.stored.take(MESSAGE_LIST_MAX);
            if !stored.is_empty() {
                self.outbox.push_back(Message::Stored { transfer: self.transfer, ranges: stored });
            }
            self.outbox.push_back(Message::Incomplete { transfer: self.transfer });
            self.finish(Event::NothingMore, ReceiveEnd::Incomplete(self.unavailable.iter().collect()));
        }
    }

    /// What to do next, if anything.
    pub fn poll_action(&mut self) -> Option<ReceiveAction> {
        if let Some(message) = self.outbox.pop_front() {
            return Some(ReceiveAction::Send(message));
        }
        if let Some(end) = self.end.take() {
            return Some(ReceiveAction::Finished(end));
        }
        match self.state {
            ReceiveState::Walking => {
                self.poll_messages().map(ReceiveAction::Send).or_else(|| self.poll_questions()).or_else(|| {
                    let due = self.walk.completed_waiting() >= COMPLETED_PAGES_MAX;
                    due.then(|| ReceiveAction::Completed(self.walk.take_completed()))
                })
            }
            ReceiveState::Committing if self.walk.completed_waiting() > 0 => {
                Some(ReceiveAction::Completed(self.walk.take_completed()))
            }
            ReceiveState::Committing => std::mem::take(&mut self.commit_wanted).then_some(ReceiveAction::Commit),
            _ => None,
        }
    }

    fn poll_messages(&mut self) -> Option<Message> {
        let transfer = self.transfer;
        if let Some(bytes) = self.next_grant() {
            self.granted_bytes += bytes;
            return Some(Message::Grant { transfer, bytes });
        }
        if !self.again.is_empty() {
            let rest = self.again.split_off(self.again.len().min(MESSAGE_LIST_MAX));
            return Some(Message::Again { transfer, keys: std::mem::replace(&mut self.again, rest) });
        }
        if !self.need_pages.is_empty() {
            let rest = self.need_pages.split_off(self.need_pages.len().min(MESSAGE_LIST_MAX));
            return Some(Message::NeedPages { transfer, ids: std::mem::replace(&mut self.need_pages, rest) });
        }
        if self.stored_due {
            let ranges = self.stored.take(MESSAGE_LIST_MAX);
            self.stored_due = !self.stored.is_empty();
            self.stored_since = None;
            return Some(Message::Stored { transfer, ranges });
        }
        let ahead_bytes = self.window_bytes.max(WINDOW_BYTES_MIN) * ASK_AHEAD_WINDOWS;
        let (ranges, partial) = self.flights.ask(ahead_bytes, CHUNKS_ASKED_MAX)?;
        Some(Message::NeedChunks { transfer, ranges, partial })
    }

    /// What the window lets be granted beyond what is out, once that is worth a message.
    fn next_grant(&self) -> Option<u64> {
        let room = self.window_bytes.checked_sub(LAST_ITEM_BYTES)?;
        // An item that began at the end of a grant may be more than was granted.
        let bytes = (self.settled_bytes + room).checked_sub(self.granted_bytes)?;
        (bytes > 0 && bytes >= room / GRANT_PARTS).then_some(bytes)
    }

    fn poll_questions(&mut self) -> Option<ReceiveAction> {
        if self.lookups < LOOKUPS_MAX
            && self.pages_asked < PAGES_ASKED_MAX
            && self.flights.found_waiting() < FOUND_CHUNKS_MAX
        {
            let ids = self.walk.next_lookup(LOOKUP_PAGES_MAX.min(PAGES_ASKED_MAX - self.pages_asked));
            if !ids.is_empty() {
                self.lookups += 1;
                return Some(ReceiveAction::LookUp(ids));
            }
        }
        if self.questions < PRESENCE_MAX && self.flights.lacking_waiting() < CHUNKS_ASKED_MAX {
            match self.flights.next_question(PRESENCE_CHUNKS_MAX) {
                Ok(wanted) if wanted.is_empty() => {}
                Ok(wanted) => {
                    self.questions += 1;
                    return Some(ReceiveAction::CheckPresence(wanted));
                }
                Err(violation) => {
                    self.violated(violation);
                    return self.poll_action();
                }
            }
        }
        None
    }
}
