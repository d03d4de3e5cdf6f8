//! Whose turn it is to receive, and how much at once: the memory for payloads, divided among the transfers that want some.
//!
//! A grant can't be taken back, so memory is spent when it is granted, not when bytes arrive. Each transfer's window is its
//! share of the budget, and the sum of what all of them may hold never exceeds it, also while shares shrink because more
//! transfers come: a new one then waits until enough of the older grants is used up and durable. Where there are more
//! transfers than smallest windows in the budget, they take turns.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::WINDOW_BYTES_MIN;
use crate::time::Timestamp;

/// Most that one transfer may have under way: what a fast link with a long way fills.
pub const SHARE_BYTES_MAX: u64 = 16 << 20;
/// How long a transfer may go on while others wait for a place.
pub const TURN: Duration = Duration::from_secs(10);

/// A transfer's place in [`Shares`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareId(u64);

/// Where a transfer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It waits for its turn.
    Waiting,
    /// It has a place, and no window yet: others still hold what it is to get.
    Starved,
    /// It receives, since then, with at least the smallest window.
    Receiving(Timestamp),
    /// Its turn is over: what it was granted comes in, and nothing more.
    Draining,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    place: Place,
    /// What it may hold at most, by what it was told last.
    reserved_bytes: u64,
    /// It was given less than it could use, because others have not let go yet.
    short: bool,
}

/// The division of the budget.
///
/// ```text
///           a place is free           a window is free               others wait, and its turn is over
/// Waiting ------------------> Starved -----------------> Receiving -------------------------------> Draining
///    ^                                                                                                  |
///    +------------------------------- all that it was granted is durable -------------------------------+
/// ```
///
/// Order of calls: [`Shares::enter`]; [`Shares::window`] before each grant and whenever something became durable;
/// [`Shares::leave`]. After each of them [`Shares::poll_wake`] names those who should call [`Shares::window`] again.
#[derive(Debug)]
pub struct Shares {
    budget_bytes: u64,
    places_max: usize,
    entries: BTreeMap<ShareId, Entry>,
    waiting: VecDeque<ShareId>,
    /// Those that have a place, the longest first.
    receiving: VecDeque<ShareId>,
    /// Those of them that have no window yet.
    starved: usize,
    draining: usize,
    reserved_bytes: u64,
    next: u64,
    wake: VecDeque<ShareId>,
}

impl Shares {
    /// A budget of so many bytes, at least one smallest window.
    pub fn new(budget_bytes: u64) -> Self {
        let budget_bytes = budget_bytes.max(WINDOW_BYTES_MIN);
        Self {
            budget_bytes,
            places_max: usize::try_from(budget_bytes / WINDOW_BYTES_MIN).unwrap_or(usize::MAX),
            entries: BTreeMap::new(),
            waiting: VecDeque::new(),
            receiving: VecDeque::new(),
            starved: 0,
            draining: 0,
            reserved_bytes: 0,
            next: 0,
            wake: VecDeque::new(),
        }
    }

    /// Bytes that all transfers together may hold now; never more than the budget.
    pub const fn reserved_bytes(&self) -> u64 {
        self.reserved_bytes
    }

    /// A transfer wants to receive.
    pub fn enter(&mut self, now: Timestamp) -> ShareId {
        let id = ShareId(self.next);
        self.next += 1;
        self.entries.insert(id, Entry { place: Place::Waiting, reserved_bytes: 0, short: false });
        self.waiting.push_back(id);
        self.settle(now);
        id
    }

    /// A transfer has come to its end, and holds nothing more.
    pub fn leave(&mut self, now: Timestamp, id: ShareId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.reserved_bytes -= entry.reserved_bytes;
        match entry.place {
            Place::Waiting => self.waiting.retain(|other| *other != id),
            Place::Starved => {
                self.starved -= 1;
                self.receiving.retain(|other| *other != id);
            }
            Place::Receiving(_) => self.receiving.retain(|other| *other != id),
            Place::Draining => self.draining -= 1,
        }
        self.settle(now);
        self.wake_short();
    }

    /// The window of a transfer that may hold `exposure_bytes` by what it was granted so far; 0 where it has to wait.
    pub fn window(&mut self, now: Timestamp, id: ShareId, exposure_bytes: u64) -> u64 {
        self.settle(now);
        let Some(entry) = self.entries.get(&id).copied() else { return 0 };
        let share = (self.budget_bytes / self.receiving.len().max(1) as u64).clamp(WINDOW_BYTES_MIN, SHARE_BYTES_MAX);
        let free = self.budget_bytes.saturating_sub(self.reserved_bytes - entry.reserved_bytes);
        let (mut window_bytes, mut after) = (0, entry);
        match entry.place {
            Place::Receiving(_) | Place::Starved => {
                let others = self.starved - usize::from(entry.place == Place::Starved);
                // Nobody takes more than the smallest window from what others need to begin.
                let spare = free.saturating_sub(WINDOW_BYTES_MIN * others as u64).max(WINDOW_BYTES_MIN);
                window_bytes = if free < WINDOW_BYTES_MIN { 0 } else { share.min(spare).min(free) };
                after.short = window_bytes < share;
                if entry.place == Place::Starved && window_bytes > 0 {
                    self.starved -= 1;
                    after.place = Place::Receiving(now);
                }
            }
            Place::Draining if exposure_bytes == 0 => {
                self.draining -= 1;
                self.waiting.push_back(id);
                after.place = Place::Waiting;
            }
            Place::Draining | Place::Waiting => after.short = false,
        }
        after.reserved_bytes = exposure_bytes.max(window_bytes);
        self.reserved_bytes = self.reserved_bytes - entry.reserved_bytes + after.reserved_bytes;
        self.entries.insert(id, after);
        if after.reserved_bytes < entry.reserved_bytes {
            self.wake_short();
        }
        self.settle(now);
        window_bytes
    }

    /// The next transfer whose window may be larger now.
    pub fn poll_wake(&mut self) -> Option<ShareId> {
        self.wake.pop_front()
    }

    /// Gives free places away, and ends turns that have lasted while others wait.
    fn settle(&mut self, now: Timestamp) {
        while self.receiving.len() + self.draining < self.places_max
            && let Some(id) = self.waiting.pop_front()
        {
            self.place(id, Place::Starved);
            self.receiving.push_back(id);
            self.starved += 1;
            self.wake.push_back(id);
        }
        let places_wanted = self.waiting.len().saturating_sub(self.draining);
        if places_wanted == 0 {
            return;
        }
        let is_over = |id: &ShareId| match self.entries[id].place {
            Place::Receiving(since) => now.since(since) >= TURN,
            _ => false,
        };
        let over: Vec<_> = self.receiving.iter().copied().filter(is_over).take(places_wanted).collect();
        self.receiving.retain(|id| !over.contains(id));
        for id in over {
            self.draining += 1;
            self.place(id, Place::Draining);
            self.wake.push_back(id);
        }
    }

    fn place(&mut self, id: ShareId, place: Place) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.place = place;
        }
    }

    fn wake_short(&mut self) {
        self.wake.extend(self.receiving.iter().filter(|id| self.entries[id].short));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::PAYLOAD_BYTES_MAX;

    /// A transfer as a receiver sees it, and its place.
    struct Transfer {
        id: ShareId,
        granted: u64,
        received: u64,
        settled: u64,
        done: u64,
    }

    impl Transfer {
        fn enter(shares: &mut Shares, now: Timestamp) -> Self {
            Self { id: shares.enter(now), granted: 0, received: 0, settled: 0, done: 0 }
        }

        fn exposure(&self) -> u64 {
            let last = if self.granted > self.received { u64::from(PAYLOAD_BYTES_MAX) } else { 0 };
            self.granted.max(self.received) + last - self.settled
        }

        fn grant(&mut self, shares: &mut Shares, now: Timestamp) -> u64 {
            let window = shares.window(now, self.id, self.exposure());
            let room = window.saturating_sub(u64::from(PAYLOAD_BYTES_MAX));
            self.granted = self.granted.max(self.settled + room);
            assert!(window == 0 || window >= WINDOW_BYTES_MIN);
            window
        }

        /// Items come until the grant is used up, `item_bytes` each.
        fn receive(&mut self, item_bytes: u64) {
            while self.received < self.granted {
                self.received += item_bytes;
            }
        }

        fn store(&mut self) {
            self.done += self.received - self.settled;
            self.settled = self.received;
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn what_all_may_hold_never_exceeds_the_budget() {
        let budget = 20 << 20;
        let mut shares = Shares::new(budget);
        let mut transfers = Vec::<Transfer>::new();
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for step in 0..20_000 {
            let now = at(step / 10);
            let at = random(transfers.len() as u64 + 1) as usize;
            let few = transfers.len() < 60;
            match (random(40), transfers.get_mut(at)) {
                (0, _) if few => transfers.push(Transfer::enter(&mut shares, now)),
                (1, Some(transfer)) => {
                    shares.leave(now, transfer.id);
                    transfers.swap_remove(at);
                }
                (2..15, Some(transfer)) => drop(transfer.grant(&mut shares, now)),
                (15..25, Some(transfer)) => transfer.receive(1 + random(u64::from(PAYLOAD_BYTES_MAX))),
                (25..40, Some(transfer)) => transfer.store(),
                _ => {}
            }
            let held: u64 = transfers.iter().map(Transfer::exposure).sum();
            assert!(held <= shares.reserved_bytes() && shares.reserved_bytes() <= budget, "step {step}: {held}");
        }
    }

    #[test]
    fn one_has_the_most_and_many_have_equal_shares_in_the_end() {
        let mut shares = Shares::new(96 << 20);
        let mut first = Transfer::enter(&mut shares, at(0));
        assert_eq!(first.grant(&mut shares, at(0)), SHARE_BYTES_MAX);
        let mut all = vec![first];
        all.extend((1..50).map(|_| Transfer::enter(&mut shares, at(0))));
        for _ in 0..60 {
            for transfer in &mut all {
                transfer.grant(&mut shares, at(0));
                transfer.receive(300_000);
                transfer.store();
            }
        }
        let windows: Vec<_> = all.iter_mut().map(|transfer| transfer.grant(&mut shares, at(0))).collect();
        assert!(windows.iter().all(|window| *window == (96 << 20) / 50), "{windows:?}");
    }

    #[test]
    fn a_new_one_waits_for_older_grants_and_is_woken() {
        let mut shares = Shares::new(WINDOW_BYTES_MIN * 2);
        let mut first = Transfer::enter(&mut shares, at(0));
        assert_eq!(first.grant(&mut shares, at(0)), WINDOW_BYTES_MIN * 2);
        let mut second = Transfer::enter(&mut shares, at(0));
        assert_eq!(second.grant(&mut shares, at(0)), 0, "all of it is out");
        while shares.poll_wake().is_some() {}
        first.receive(100_000);
        first.store();
        assert_eq!(first.grant(&mut shares, at(0)), WINDOW_BYTES_MIN);
        assert_eq!(shares.poll_wake(), Some(second.id));
        assert_eq!(second.grant(&mut shares, at(0)), WINDOW_BYTES_MIN);
    }

    #[test]
    fn more_than_fit_take_turns_and_all_get_on() {
        let mut shares = Shares::new(WINDOW_BYTES_MIN * 3);
        let mut all: Vec<_> = (0..10).map(|_| Transfer::enter(&mut shares, at(0))).collect();
        for second in 0..120 {
            for transfer in &mut all {
                transfer.grant(&mut shares, at(second));
                transfer.receive(700_000);
                transfer.store();
                transfer.grant(&mut shares, at(second));
            }
        }
        let done: Vec<_> = all.iter().map(|transfer| transfer.done).collect();
        let (least, most) = (done.iter().min().expect("ten"), done.iter().max().expect("ten"));
        assert!(*least > 0 && *most < least * 3, "{done:?}");
    }

    #[test]
    fn what_never_settles_takes_nothing_that_others_need_to_begin() {
        let mut shares = Shares::new(80 << 20);
        let mut stuck: Vec<_> = (0..4).map(|_| Transfer::enter(&mut shares, at(0))).collect();
        for transfer in &mut stuck {
            assert_eq!(transfer.grant(&mut shares, at(0)), SHARE_BYTES_MAX, "which it holds for good");
        }
        let mut moving: Vec<_> = (0..8).map(|_| Transfer::enter(&mut shares, at(0))).collect();
        let mut most = [0; 8];
        for _ in 0..4 {
            for transfer in &mut stuck {
                transfer.grant(&mut shares, at(0));
            }
            for (transfer, most) in moving.iter_mut().zip(&mut most) {
                *most = transfer.grant(&mut shares, at(0)).max(*most);
                transfer.receive(400_000);
                transfer.store();
            }
        }
        assert!(most.iter().all(|window| *window >= WINDOW_BYTES_MIN), "{most:?}");
        assert!(moving.iter().all(|transfer| transfer.done > 0));
    }

    #[test]
    fn a_turn_begins_with_the_first_window() {
        let mut shares = Shares::new(WINDOW_BYTES_MIN * 2);
        let mut first = Transfer::enter(&mut shares, at(0));
        assert_eq!(first.grant(&mut shares, at(0)), WINDOW_BYTES_MIN * 2);
        let mut second = Transfer::enter(&mut shares, at(0));
        assert_eq!(second.grant(&mut shares, at(0)), 0, "all of it is out");
        let _waiting = [0; 2].map(|_| Transfer::enter(&mut shares, at(0)));
        // Whatever it has waited for it, its turn is still to come.
        assert_eq!(second.grant(&mut shares, at(60)), 0);
        first.receive(100_000);
        first.store();
        first.grant(&mut shares, at(60));
        assert_eq!(second.grant(&mut shares, at(60)), WINDOW_BYTES_MIN);
        assert_eq!(second.grant(&mut shares, at(69)), WINDOW_BYTES_MIN);
        assert_eq!(second.grant(&mut shares, at(70)), 0);
    }

    #[test]
    fn a_turn_ends_only_where_others_wait_and_only_when_all_is_durable() {
        let mut shares = Shares::new(WINDOW_BYTES_MIN);
        let mut first = Transfer::enter(&mut shares, at(0));
        first.grant(&mut shares, at(0));
        assert_eq!(first.grant(&mut shares, at(100)), WINDOW_BYTES_MIN, "nobody waits");
        let mut second = Transfer::enter(&mut shares, at(100));
        assert_eq!(first.grant(&mut shares, at(101)), 0, "its turn is over");
        assert_eq!(second.grant(&mut shares, at(101)), 0, "the first still has a grant");
        first.receive(500_000);
        assert_eq!(first.grant(&mut shares, at(102)), 0);
        first.store();
        assert_eq!(first.grant(&mut shares, at(103)), 0);
        assert_eq!(second.grant(&mut shares, at(103)), WINDOW_BYTES_MIN);
    }
}
