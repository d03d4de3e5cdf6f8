//! When the next bytes may leave under a cap that no second may exceed.
//!
//! Two rules together. Bytes are spread: each sending pushes the next one back by its length over the rate, and at most
//! [`CREDIT`] of a silence is made up for (the virtual scheduling of ATM's GCRA, ITU-T I.371). And the bytes of every
//! [`WINDOW`] are added up, because spreading alone lets one datagram more than the cap into some seconds, which is much
//! where the cap is small.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Timestamp;

/// The span in which the cap holds: a second, and what a machine may be late in doing what it was told.
pub const WINDOW: Duration = Duration::from_millis(1010);
/// How much of a silence may be made up for.
pub const CREDIT: Duration = Duration::from_millis(5);
/// Bytes that leave within this span are remembered as one, which bounds what is remembered.
const SLOT: Duration = Duration::from_millis(1);

/// Bytes that left together.
#[derive(Clone, Copy, Debug)]
struct Slot {
    first: Timestamp,
    last: Timestamp,
    bytes: u64,
}

/// A cap, and what left under it in the last second.
#[derive(Clone, Debug)]
pub struct Pace {
    bytes_per_s: u64,
    /// When the next bytes would leave if all were spread evenly.
    next: Timestamp,
    /// The oldest first.
    slots: VecDeque<Slot>,
    window_bytes: u64,
}

impl Pace {
    /// A cap in bytes per second, under which nothing has left yet. Under 0 nothing ever may.
    pub fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, next: Timestamp::ZERO, slots: VecDeque::new(), window_bytes: 0 }
    }

    /// The cap, in bytes per second.
    pub fn bytes_per_s(&self) -> u64 {
        self.bytes_per_s
    }

    /// Another cap from `now` on. What has left counts under the new one too.
    pub fn set_bytes_per_s(&mut self, now: Timestamp, bytes_per_s: u64) {
        self.bytes_per_s = bytes_per_s;
        self.next = self.next.min(now);
    }

    /// When so many bytes may leave at once; `now` or earlier if they may at once, none if they never may.
    pub fn due(&self, now: Timestamp, bytes: u64) -> Option<Timestamp> {
        if bytes > self.bytes_per_s {
            return None;
        }
        let spread = Timestamp::from_nanos(self.next.as_nanos().saturating_sub(CREDIT.as_nanos() as u64));
        let mut excess = (self.window_bytes + bytes).saturating_sub(self.bytes_per_s);
        let mut fits = Timestamp::ZERO;
        for slot in &self.slots {
            let free = slot.last + WINDOW;
            if excess == 0 && free > now {
                break;
            }
            fits = free;
            excess = excess.saturating_sub(slot.bytes);
        }
        Some(spread.max(fits))
    }

    /// Notes that so many bytes left.
    pub fn sent(&mut self, now: Timestamp, bytes: u64) {
        while let Some(slot) = self.slots.front().filter(|slot| slot.last + WINDOW <= now) {
            self.window_bytes -= slot.bytes;
            self.slots.pop_front();
        }
        self.window_bytes += bytes;
        match self.slots.back_mut().filter(|slot| now.since(slot.first) < SLOT) {
            Some(slot) => (slot.last, slot.bytes) = (slot.last.max(now), slot.bytes + bytes),
            None => self.slots.push_back(Slot { first: now, last: now, bytes }),
        }
        let span = u128::from(bytes) * WINDOW.as_nanos() / u128::from(self.bytes_per_s.max(1));
        self.next = self.next.max(now) + Duration::from_nanos(u64::try_from(span).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The most bytes that left in any window of one second.
    fn most_in_a_second(sent: &[(Timestamp, u64)]) -> u64 {
        let from = |(at, _): &(Timestamp, u64)| {
            let in_window = |(other, _): &&(Timestamp, u64)| other >= at && other.since(*at) < Duration::from_secs(1);
            sent.iter().filter(in_window).map(|(_, bytes)| bytes).sum()
        };
        sent.iter().map(from).max().unwrap_or(0)
    }

    /// Sends each length as soon as it may after its gap; gives what left when.
    fn play(pace: &mut Pace, wanted: impl IntoIterator<Item = (u64, u64)>) -> Vec<(Timestamp, u64)> {
        let mut now = Timestamp::ZERO;
        let mut sent = Vec::new();
        for (gap_us, bytes) in wanted {
            now = now + Duration::from_micros(gap_us);
            let Some(due) = pace.due(now, bytes) else { continue };
            now = now.max(due);
            pace.sent(now, bytes);
            sent.push((now, bytes));
        }
        sent
    }

    proptest! {
        #[test]
        fn no_second_exceeds_the_cap(
            bytes_per_s in 1500u64..500_000,
            wanted in prop::collection::vec((prop_oneof![Just(0u64), 0u64..2_000_000], 40u64..20_000), 1..300),
        ) {
            let sent = play(&mut Pace::new(bytes_per_s), wanted);
            prop_assert!(most_in_a_second(&sent) <= bytes_per_s);
        }

        #[test]
        fn who_always_has_something_gets_nearly_all(bytes_per_s in 30_000u64..2_000_000, length in 60u64..1500) {
            let count = 4 * bytes_per_s / length;
            let sent = play(&mut Pace::new(bytes_per_s), (0..count).map(|_| (0, length)));
            let (last, _) = sent[sent.len() - 1];
            let took_s = last.since(Timestamp::ZERO).as_secs_f64();
            let rate = (count * length) as f64 / took_s;
            prop_assert!(rate > 0.94 * bytes_per_s as f64, "{rate} of {bytes_per_s}");
        }
    }

    #[test]
    fn a_silence_is_not_made_up_for() {
        let mut pace = Pace::new(100_000);
        let wanted = [(10_000_000, 1000)].into_iter().chain((0..20).map(|_| (0, 1000)));
        let sent = play(&mut pace, wanted);
        let first = sent[0].0;
        let burst = sent.iter().filter(|(at, _)| at.since(first) < Duration::from_millis(10)).count();
        assert!(burst <= 2, "{burst} datagrams left together");
    }

    #[test]
    fn what_left_counts_under_a_lower_cap_too() {
        let mut pace = Pace::new(100_000);
        let mut sent = play(&mut pace, (0..100).map(|_| (0, 1000)));
        let now = sent[sent.len() - 1].0;
        pace.set_bytes_per_s(now, 10_000);
        let due = pace.due(now, 1000).expect("some time");
        assert!(due.since(now) > Duration::from_millis(900), "{:?}", due.since(now));
        pace.set_bytes_per_s(now, 200_000);
        sent.push((now, 1000));
        assert!(pace.due(now, 1000).expect("some time") <= now);
    }

    #[test]
    fn more_than_a_second_takes_never_leaves() {
        assert_eq!(Pace::new(1000).due(Timestamp::ZERO, 1001), None);
        assert_eq!(Pace::new(0).due(Timestamp::ZERO, 1), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut pace = Pace::new(100_000_000);
        play(&mut pace, (0..200_000).map(|_| (0, 1000)));
        assert!(pace.slots.len() <= 1020, "{}", pace.slots.len());
    }
}
