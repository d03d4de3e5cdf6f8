//! One direction of a link: a queue that drops at its tail, a bottleneck of constant or recorded capacity, loss behind it, and a
//! delay. Pure: what comes in at which time decides what goes out and when.

use crate::random::Random;

/// Nanoseconds since a world began.
pub type Nanos = u64;

/// Nanoseconds of a millisecond.
pub const MS: Nanos = 1_000_000;
/// Nanoseconds of a second.
pub const SECOND: Nanos = 1_000 * MS;
/// Bytes that may cross at one opportunity of a recorded trace.
const OPPORTUNITY_BYTES: u64 = 1500;

/// How much crosses the bottleneck.
#[derive(Clone, Debug)]
pub enum Capacity {
    /// So many bits in each second.
    Constant(u64),
    /// 1500 bytes at each of these milliseconds, which rise; then from the beginning again.
    Recorded(Vec<u64>),
}

/// When a link carries anything at all: up and down by turns, in nanoseconds, beginning with up.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    /// How long it is up.
    pub up: Nanos,
    /// How long it is down.
    pub down: Nanos,
}

/// What a direction is like.
#[derive(Clone, Debug)]
pub struct LinkShape {
    /// What the bottleneck carries, IP headers included.
    pub capacity: Capacity,
    /// Propagation.
    pub delay: Nanos,
    /// Packets lost behind the bottleneck, in thousandths.
    pub loss_permille: u64,
    /// Bytes that may wait before the bottleneck.
    pub queue_bytes: u64,
    /// When it is up; always without.
    pub turns: Option<Turns>,
}

/// A direction.
#[derive(Debug)]
pub struct Link {
    shape: LinkShape,
    random: Random,
    /// Sizes and ends of service of what has not left the bottleneck.
    waiting: std::collections::VecDeque<(Nanos, u64)>,
    waiting_bytes: u64,
    /// When the bottleneck is free again.
    free_at: Nanos,
    /// The next opportunity of a trace, and what is left of the one before it.
    next_opportunity: u64,
    left_bytes: u64,
}

impl Link {
    /// A direction with nothing in it.
    pub fn new(shape: LinkShape, random: Random) -> Self {
        Self {
            shape,
            random,
            waiting: std::collections::VecDeque::new(),
            waiting_bytes: 0,
            free_at: 0,
            next_opportunity: 0,
            left_bytes: 0,
        }
    }

    /// Takes a packet; gives when it arrives, if it does.
    pub fn send(&mut self, now: Nanos, bytes: u64) -> Option<Nanos> {
        if self.is_down(now) {
            return None;
        }
        while self.waiting.front().is_some_and(|(end, _)| *end <= now) {
            if let Some((_, bytes)) = self.waiting.pop_front() {
                self.waiting_bytes -= bytes;
            }
        }
        if self.waiting_bytes + bytes > self.shape.queue_bytes && self.waiting_bytes > 0 {
            return None;
        }
        let end = self.serve(now.max(self.free_at), bytes);
        self.free_at = end;
        self.waiting.push_back((end, bytes));
        self.waiting_bytes += bytes;
        let lost = self.random.below(1000) < self.shape.loss_permille;
        (!lost && !self.is_down(end)).then_some(end + self.shape.delay)
    }

    /// When the bottleneck has carried `bytes` of which the first may cross at `from`.
    fn serve(&mut self, from: Nanos, bytes: u64) -> Nanos {
        match &self.shape.capacity {
            Capacity::Constant(bits) => from + bytes * 8 * SECOND / bits,
            Capacity::Recorded(times) => {
                let span = times.last().copied().unwrap_or(0).max(1);
                let at = |index: u64| {
                    let length = times.len() as u64;
                    (index / length * span + times[(index % length) as usize]) * MS
                };
                // What is left of an opportunity is gone with its moment.
                if self.left_bytes > 0 && from > at(self.next_opportunity.saturating_sub(1)) {
                    self.left_bytes = 0;
                }
                let mut end = from;
                let mut todo = bytes;
                while todo > 0 {
                    if self.left_bytes == 0 {
                        while at(self.next_opportunity) < from {
                            self.next_opportunity += 1;
                        }
                        end = at(self.next_opportunity);
                        self.next_opportunity += 1;
                        self.left_bytes = OPPORTUNITY_BYTES;
                    }
                    let taken = todo.min(self.left_bytes);
                    todo -= taken;
                    self.left_bytes -= taken;
                }
                end
            }
        }
    }

    fn is_down(&self, at: Nanos) -> bool {
        self.shape.turns.is_some_and(|turns| at % (turns.up + turns.down) >= turns.up)
    }
}

/// Bytes that a capacity carries from `from` to `to`.
pub(super) fn carried(capacity: &Capacity, from: Nanos, to: Nanos) -> u64 {
    match capacity {
        Capacity::Constant(bits) => bits / 8 * ((to - from) / MS) / 1000,
        Capacity::Recorded(times) => {
            let span = times.last().copied().unwrap_or(0).max(1);
            let before = |ms: u64| {
                let within = times.partition_point(|time| *time < ms % span) as u64;
                ms / span * times.len() as u64 + within
            };
            (before(to / MS) - before(from / MS)) * OPPORTUNITY_BYTES
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(capacity: Capacity, queue_bytes: u64) -> Link {
        let shape = LinkShape { capacity, delay: 10 * MS, loss_permille: 0, queue_bytes, turns: None };
        Link::new(shape, Random::new(1))
    }

    #[test]
    fn packets_leave_one_after_the_other_and_the_queue_drops_at_its_tail() {
        // 8 Mbit/s: a byte each microsecond.
        let mut link = link(Capacity::Constant(8_000_000), 3000);
        assert_eq!(link.send(0, 1000), Some(11 * MS));
        assert_eq!(link.send(0, 1000), Some(12 * MS));
        assert_eq!(link.send(0, 1000), Some(13 * MS));
        assert_eq!(link.send(0, 1000), None);
        assert_eq!(link.send(MS, 1000), Some(14 * MS));
    }

    #[test]
    fn a_recorded_link_gives_no_more_than_was_recorded() {
        let times = vec![0, 10, 10, 30, 100];
        let mut link = link(Capacity::Recorded(times.clone()), u64::MAX);
        let arrivals: Vec<_> = (0..7).map(|_| link.send(0, 1500).unwrap_or(0) / MS - 10).collect();
        assert_eq!(arrivals, [0, 10, 10, 30, 100, 100, 110]);
        assert_eq!(carried(&Capacity::Recorded(times), 5 * MS, 40 * MS), 3 * 1500);
    }

    #[test]
    fn nothing_crosses_a_link_that_is_down() {
        let turns = Some(Turns { up: SECOND, down: SECOND });
        let shape =
            LinkShape { capacity: Capacity::Constant(8_000_000), delay: 0, loss_permille: 0, queue_bytes: 9000, turns };
        let mut link = Link::new(shape, Random::new(1));
        assert!(link.send(SECOND / 2, 100).is_some());
        assert!(link.send(SECOND + 1, 100).is_none());
        assert!(link.send(2 * SECOND, 100).is_some());
    }
}
