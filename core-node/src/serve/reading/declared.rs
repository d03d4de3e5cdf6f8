//! What a session declared of a source, and how far it is: what the cache sees of the future.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use headwater_protocol::id::ID_BYTES;
use headwater_protocol::order::{Course, Reading, ReadingError};
use headwater_protocol::time::Timestamp;

use crate::cache::Foresight;

/// Turns after a miss in which reading ahead goes on, in batches.
const AHEAD_AFTER_MISS_BATCHES: u64 = 64;
/// The newest measure of the pace has one part in so many of it.
const PACE_PARTS: u64 = 8;

/// What a session declared of a source, and how far it is.
#[derive(Debug)]
pub(crate) struct Declared {
    /// As it was declared.
    pub(crate) reading: Reading,
    /// What that comes to.
    pub(crate) course: Course,
    /// What comes right after it, as far as that can be known: the whole next epoch.
    after: Course,
    turn: AtomicU64,
    /// When the last samples were read, in nanoseconds.
    read_ns: AtomicU64,
    turn_ns: AtomicU64,
    /// The turn of the last miss, and one more; none yet: 0.
    missed: AtomicU64,
    /// Up to which turn was read ahead.
    ahead: AtomicU64,
    is_reading_ahead: AtomicBool,
}

impl Declared {
    /// What `reading` comes to on the `samples` of `source`; nothing was read of it.
    pub(super) fn new(reading: Reading, source: &[u8; ID_BYTES], samples: u64) -> Result<Self, ReadingError> {
        let course = Course::new(&reading, source, samples)?;
        let next = Reading { epoch: reading.epoch.wrapping_add(1), start: 0, ..reading.clone() };
        let after = Course::new(&next, source, samples)?;
        Ok(Self {
            reading,
            course,
            after,
            turn: AtomicU64::new(0),
            read_ns: AtomicU64::new(0),
            turn_ns: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            is_reading_ahead: AtomicBool::new(false),
        })
    }

    /// These samples were read, in this order.
    pub(super) fn read(&self, samples: &[u64], now: Timestamp) {
        let Some(turn) = samples.last().and_then(|sample| self.course.turn(*sample)) else { return };
        // Requests overtake one another, by a few batches at most.
        let before = self.turn.fetch_max(turn + 1, Ordering::Relaxed);
        let read_ns = self.read_ns.swap(now.as_nanos(), Ordering::Relaxed);
        let turns = (turn + 1).saturating_sub(before);
        if read_ns > 0 && turns > 0 {
            let newest = now.as_nanos().saturating_sub(read_ns) / turns;
            let known = self.turn_ns.load(Ordering::Relaxed);
            let pace = if known == 0 { newest } else { known - known / PACE_PARTS + newest / PACE_PARTS };
            self.turn_ns.store(pace.max(1), Ordering::Relaxed);
        }
    }

    /// Something that was read was not in memory.
    pub(super) fn missed(&self) {
        self.missed.store(self.turn() + 1, Ordering::Relaxed);
    }

    /// Whether to read ahead now. Only one does, until [`Declared::end_reading_ahead`].
    pub(super) fn begin_reading_ahead(&self) -> bool {
        let missed = self.missed.load(Ordering::Relaxed);
        let recently = u64::from(self.reading.batch).saturating_mul(AHEAD_AFTER_MISS_BATCHES);
        missed > 0
            && self.turn() <= missed.saturating_add(recently)
            && self.turn() < self.turns()
            && !self.is_reading_ahead.swap(true, Ordering::AcqRel)
    }

    /// The turns to read ahead, if one goes `window` turns ahead of what was read.
    pub(super) fn window(&self, window: u64) -> (u64, u64) {
        let turn = self.turn();
        let to = turn.saturating_add(window).min(self.turns());
        (self.ahead.load(Ordering::Relaxed).clamp(turn.min(to), to), to)
    }

    /// Was read ahead up to this turn.
    pub(super) fn read_ahead_to(&self, turn: u64) {
        self.ahead.fetch_max(turn, Ordering::Relaxed);
    }

    /// Reading ahead is over for now.
    pub(super) fn end_reading_ahead(&self) {
        self.is_reading_ahead.store(false, Ordering::Release);
    }
}

impl Foresight for Declared {
    fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    fn turns(&self) -> u64 {
        self.course.len()
    }

    fn next_turn(&self, sample: u64, turn: u64) -> Option<u64> {
        let now = self.course.turn(sample).filter(|found| *found >= turn);
        now.or_else(|| Some(self.course.len().saturating_add(self.after.turn(sample)?)))
    }

    fn turn_ns(&self) -> u64 {
        self.turn_ns.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_that_was_read_is_needed_again_in_the_next_epoch() {
        let reading = Reading { batch: 4, ..Reading::default() };
        let declared = Declared::new(reading, &[7; 32], 100).expect("it makes sense");
        let all: Vec<u64> = (0..100).filter_map(|turn| declared.course.sample(turn)).collect();
        declared.read(&all[..8], Timestamp::from_nanos(1000));
        declared.read(&all[8..12], Timestamp::from_nanos(1400));
        assert_eq!((declared.turn(), declared.turn_ns()), (12, 100));
        assert_eq!(declared.next_turn(all[12], 12), Some(12));
        let again = declared.next_turn(all[11], 12).expect("in the next epoch");
        assert_eq!(declared.after.sample(again - 100), Some(all[11]));
        declared.read(&all[4..8], Timestamp::from_nanos(1500));
        assert_eq!(declared.turn(), 12, "a request that was overtaken");
    }

    #[test]
    fn reading_ahead_begins_with_a_miss_and_ends_long_after_the_last() {
        let reading = Reading { batch: 1, ..Reading::default() };
        let declared = Declared::new(reading, &[7; 32], 1000).expect("it makes sense");
        let read_to =
            |turn: u64| declared.read(&[declared.course.sample(turn - 1).expect("a sample")], Timestamp::ZERO);
        assert!(!declared.begin_reading_ahead(), "everything was there");
        declared.missed();
        assert!(declared.begin_reading_ahead() && !declared.begin_reading_ahead(), "one at a time");
        assert_eq!(declared.window(10), (0, 10));
        declared.read_ahead_to(7);
        declared.end_reading_ahead();
        read_to(5);
        assert_eq!(declared.window(10), (7, 15));
        read_to(20);
        assert_eq!(declared.window(10), (20, 30));
        read_to(60);
        assert!(declared.begin_reading_ahead());
        declared.end_reading_ahead();
        read_to(100);
        assert!(!declared.begin_reading_ahead(), "nothing was missed for long");
    }
}
