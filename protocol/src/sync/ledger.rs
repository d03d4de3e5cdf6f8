//! What was sent for the first time, and what had to be sent again because a link was cut.
//!
//! A sender knows what it has put on a connection, but not what arrived before the connection was gone. What the receiver asks
//! for again was sent in vain, as far as it had left this side at all. So the ledger remembers the newest items of each
//! transfer that ended without a commit, each up to the byte that may have left, and tells of what is sent later how much
//! of it had been sent before.

use std::collections::{BTreeMap, VecDeque};

use crate::id::ChunkId;

/// Payload bytes of which it is remembered that they were sent: more than any window lets be under way.
const REMEMBERED_BYTES_MAX: u64 = 64 << 20;
/// Items of which it is remembered.
const REMEMBERED_ITEMS_MAX: usize = 4096;

/// A transfer of one session: the session's number, and its own on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    /// The session, by whatever number the ledger's owner gives it.
    pub session: u64,
    /// The transfer.
    pub transfer: u32,
}

/// An item on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentItem {
    /// What it is.
    pub id: ChunkId,
    /// Its plain bytes.
    pub plain_bytes: u32,
    /// The first of them that is sent; before it the receiver has all.
    pub from_offset: u32,
    /// What it travels as, in bytes.
    pub payload_bytes: u32,
}

impl SentItem {
    /// Payload bytes that stand for its plain bytes before `until`.
    fn payload_until(&self, until: u32) -> u64 {
        let (begin, end) = (u64::from(self.from_offset), u64::from(self.plain_bytes));
        let part = u64::from(until).clamp(begin, end.max(begin)) - begin;
        u64::from(self.payload_bytes) * part / (end - begin).max(1)
    }

    /// The plain byte before which so many payload bytes end.
    fn until(&self, payload_bytes: u64) -> u32 {
        let length = u64::from(self.plain_bytes.saturating_sub(self.from_offset));
        let part = length * payload_bytes / u64::from(self.payload_bytes.max(1));
        self.from_offset.saturating_add(u32::try_from(part).unwrap_or(u32::MAX))
    }
}

/// Payload bytes by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentBytes {
    /// Sent for the first time.
    pub first: u64,
    /// Sent before, over a link that was cut.
    pub again: u64,
}

/// All bytes that left a side, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentByReason {
    /// Payload that was sent for the first time.
    pub first: u64,
    /// Payload that was sent before, over a link that was cut.
    pub again: u64,
    /// What was in packets that got lost, and was sent once more on the same connection.
    pub retransmitted: u64,
    /// Everything else: messages, acknowledgements, handshakes, and the headers of packets and items.
    pub control: u64,
}

impl SentByReason {
    /// Divides `sent_bytes`, which all went over the wire, `lost_bytes` of them in packets that got lost. Payload that was
    /// handed over and has not left yet counts for nothing.
    pub fn of(sent_bytes: u64, lost_bytes: u64, payload: SentBytes) -> Self {
        let retransmitted = lost_bytes.min(sent_bytes);
        let rest = sent_bytes - retransmitted;
        let again = payload.again.min(rest);
        let first = payload.first.min(rest - again);
        Self { first, again, retransmitted, control: rest - again - first }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    of: Sending,
    item: SentItem,
    again: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Newest items of the transfers that run, in the order in which they were sent.
    running: VecDeque<Entry>,
    running_bytes: u64,
    /// Items of transfers that were cut, and the plain byte up to which each had left.
    cut: BTreeMap<ChunkId, u32>,
    /// The same in the order in which they were cut; may name what has gone.
    cut_order: VecDeque<ChunkId>,
    sent: SentBytes,
}

impl Ledger {
    /// What was sent so far.
    pub const fn sent(&self) -> SentBytes {
        self.sent
    }

    /// An item is sent.
    pub fn handle_item(&mut self, of: Sending, item: SentItem) {
        let again = self.cut.remove(&item.id).map_or(0, |until| item.payload_until(until));
        self.sent.again += again;
        self.sent.first += u64::from(item.payload_bytes) - again;
        self.running.push_back(Entry { of, item, again });
        self.running_bytes += u64::from(item.payload_bytes);
        while self.running_bytes > REMEMBERED_BYTES_MAX || self.running.len() > REMEMBERED_ITEMS_MAX {
            let Some(oldest) = self.running.pop_front() else { break };
            self.running_bytes -= u64::from(oldest.item.payload_bytes);
        }
    }

    /// The receiver has committed what a transfer sent.
    pub fn handle_committed(&mut self, of: Sending) {
        self.take(of);
    }

    /// A transfer ended otherwise. The newest `unsent_bytes` of its payload never left this side: they count as not sent.
    pub fn handle_cut(&mut self, of: Sending, mut unsent_bytes: u64) {
        let mut items = self.take(of);
        for Entry { item, again, .. } in items.iter_mut().rev() {
            let payload = u64::from(item.payload_bytes);
            let unsent = unsent_bytes.min(payload);
            unsent_bytes -= unsent;
            // What is sent again comes first in an item.
            let first = unsent.min(payload - *again);
            self.sent.first -= first;
            self.sent.again -= unsent - first;
            // What had left at an earlier cut has left.
            self.note_cut(item.id, item.until((payload - unsent).max(*again)));
        }
    }

    fn take(&mut self, of: Sending) -> Vec<Entry> {
        let (taken, kept): (Vec<_>, Vec<_>) = self.running.drain(..).partition(|entry| entry.of == of);
        self.running = kept.into();
        self.running_bytes -= taken.iter().map(|entry| u64::from(entry.item.payload_bytes)).sum::<u64>();
        taken
    }

    fn note_cut(&mut self, id: ChunkId, until: u32) {
        if until == 0 {
            return;
        }
        let known = self.cut.entry(id).or_insert(0);
        *known = until.max(*known);
        self.cut_order.push_back(id);
        while self.cut_order.len() > REMEMBERED_ITEMS_MAX {
            let Some(oldest) = self.cut_order.pop_front() else { break };
            self.cut.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: Sending = Sending { session: 1, transfer: 0 };
    const SECOND: Sending = Sending { session: 2, transfer: 0 };

    fn item(number: u8, from_offset: u32) -> SentItem {
        let plain_bytes = 1000;
        SentItem { id: ChunkId::of(&[number]), plain_bytes, from_offset, payload_bytes: plain_bytes - from_offset }
    }

    #[test]
    fn what_had_left_before_a_cut_is_sent_again() {
        for (unsent, from_offset, again) in [
            // The receiver has kept nothing of it, or a part; it asks for the rest.
            (0, 0, 1000),
            (0, 700, 300),
            // Of the first time, nothing or not all had left.
            (1000, 0, 0),
            (400, 0, 600),
            (400, 550, 50),
            (400, 600, 0),
        ] {
            let mut ledger = Ledger::default();
            ledger.handle_item(FIRST, item(1, 0));
            ledger.handle_cut(FIRST, unsent);
            assert_eq!(ledger.sent(), SentBytes { first: 1000 - unsent, again: 0 });
            ledger.handle_item(SECOND, item(1, from_offset));
            let first = 1000 - unsent + u64::from(1000 - from_offset) - again;
            assert_eq!(ledger.sent(), SentBytes { first, again }, "{unsent} unsent, then from {from_offset}");
        }
    }

    #[test]
    fn a_second_cut_forgets_nothing_of_the_first() {
        let mut ledger = Ledger::default();
        ledger.handle_item(FIRST, item(1, 0));
        ledger.handle_cut(FIRST, 200);
        // Cut before any of it left once more: still 800 have left.
        ledger.handle_item(SECOND, item(1, 0));
        ledger.handle_cut(SECOND, 1000);
        assert_eq!(ledger.sent(), SentBytes { first: 800, again: 0 });
        ledger.handle_item(FIRST, item(1, 0));
        assert_eq!(ledger.sent(), SentBytes { first: 1000, again: 800 });
    }

    #[test]
    fn what_was_committed_is_sent_anew_when_it_is_asked_for() {
        let mut ledger = Ledger::default();
        ledger.handle_item(FIRST, item(1, 0));
        ledger.handle_committed(FIRST);
        ledger.handle_cut(FIRST, 0);
        ledger.handle_item(SECOND, item(1, 0));
        assert_eq!(ledger.sent(), SentBytes { first: 2000, again: 0 });
    }

    #[test]
    fn what_left_is_divided_without_a_rest() {
        let of = |sent, lost, first, again| {
            let SentByReason { first, again, retransmitted, control } =
                SentByReason::of(sent, lost, SentBytes { first, again });
            (first, again, retransmitted, control)
        };
        assert_eq!(of(1000, 100, 700, 50), (700, 50, 100, 150));
        // Most of what was handed over has not left yet.
        assert_eq!(of(1000, 100, 9000, 50), (850, 50, 100, 0));
        assert_eq!(of(0, 0, 9000, 50), (0, 0, 0, 0));
    }

    #[test]
    fn it_remembers_no_more_than_its_bound() {
        let mut ledger = Ledger::default();
        for session in 0..3 {
            let of = Sending { session, transfer: 0 };
            for number in 0..=REMEMBERED_ITEMS_MAX as u32 {
                let id = ChunkId::of(&number.to_le_bytes());
                ledger.handle_item(of, SentItem { id, ..item(0, 0) });
                assert!(ledger.running.len() <= REMEMBERED_ITEMS_MAX);
            }
            ledger.handle_cut(of, 0);
            assert!(ledger.cut.len() <= REMEMBERED_ITEMS_MAX && ledger.cut_order.len() <= REMEMBERED_ITEMS_MAX);
        }
    }

    proptest! {
        /// Every payload byte that left is counted once, and under the right reason: of each item all is known that had left
        /// before, or that the receiver said it has.
        #[test]
        fn every_byte_that_left_has_one_reason(
            steps in prop::collection::vec((0u8..6, 0u32..1000, 0u64..1500, any::<bool>()), 1..60),
        ) {
            let mut ledger = Ledger::default();
            let mut expected = SentBytes::default();
            let mut known = [0; 6];
            for (session, (number, from_offset, unsent, is_committed)) in steps.into_iter().enumerate() {
                let of = Sending { session: session as u64, transfer: 0 };
                let (item, known) = (item(number, from_offset), &mut known[usize::from(number)]);
                let begin = u64::from(from_offset);
                let end = if is_committed { 1000 } else { 1000u64.saturating_sub(unsent).max(begin) };
                let again = end.min(*known).saturating_sub(begin);
                expected.again += again;
                expected.first += end - begin - again;
                ledger.handle_item(of, item);
                if is_committed {
                    ledger.handle_committed(of);
                    *known = 0;
                } else {
                    ledger.handle_cut(of, unsent);
                    *known = end.max(*known);
                }
                prop_assert_eq!(ledger.sent(), expected);
            }
        }
    }
}
