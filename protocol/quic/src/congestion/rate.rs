//! The delivery rate of a connection, as in "Delivery Rate Estimation" (Cheng et al., draft-ietf-ccwg-ratesample): bytes
//! that were acknowledged over the longer of the time in which they were sent and the time in which they were acknowledged.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Rounds over which the highest rate is remembered.
const ROUNDS: u64 = 10;
/// Packets' worth of records that are kept; an older one is not needed for a rate any more.
const RECORDS_MAX: usize = 1 << 16;
/// A shorter interval says nothing of a rate.
const INTERVAL_MIN: Duration = Duration::from_micros(100);

/// What was known when a packet left.
#[derive(Clone, Copy, Debug)]
struct Record {
    sent_at: Instant,
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
}

/// What one acknowledgement tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// From the newest acknowledged packet's departure.
    pub(super) rtt: Duration,
    /// Whether it ends a round: a packet was acknowledged that left after the round began.
    pub(super) ends_round: bool,
}

/// Watches what leaves and what is acknowledged.
#[derive(Clone, Debug)]
pub(super) struct DeliveryRate {
    records: VecDeque<Record>,
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    /// The newest packet of the acknowledgement that is being read.
    newest: Option<Instant>,
    round: u64,
    round_begins_at_delivered: u64,
    /// The highest rate of each of the last rounds, only those that no later round exceeds: the first is the highest.
    highest: VecDeque<(u64, f64)>,
    latest: f64,
}

impl DeliveryRate {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            records: VecDeque::new(),
            delivered: 0,
            delivered_at: now,
            first_sent_at: now,
            newest: None,
            round: 0,
            round_begins_at_delivered: 0,
            highest: VecDeque::new(),
            latest: 0.0,
        }
    }

    /// A packet leaves while `in_flight` says whether others are under way.
    pub(super) fn sent(&mut self, now: Instant, others_in_flight: bool) {
        if !others_in_flight {
            // After silence, time in which nothing was sent must not count.
            (self.first_sent_at, self.delivered_at) = (now, now);
        }
        if self.records.back().is_some_and(|last| last.sent_at == now) {
            return;
        }
        if self.records.len() >= RECORDS_MAX {
            self.records.pop_front();
        }
        let (delivered, delivered_at, first_sent_at) = (self.delivered, self.delivered_at, self.first_sent_at);
        self.records.push_back(Record { sent_at: now, delivered, delivered_at, first_sent_at });
    }

    /// A packet that left at `sent_at` was acknowledged.
    pub(super) fn acknowledged(&mut self, sent_at: Instant, bytes: u64) {
        self.delivered += bytes;
        self.newest = self.newest.max(Some(sent_at));
    }

    /// All packets of an acknowledgement are told.
    pub(super) fn sample(&mut self, now: Instant, is_app_limited: bool) -> Option<Sample> {
        let newest = self.newest.take()?;
        while self.records.front().is_some_and(|record| record.sent_at < newest) {
            self.records.pop_front();
        }
        let record = *self.records.front().filter(|record| record.sent_at == newest)?;
        self.first_sent_at = record.sent_at;
        self.delivered_at = now;
        let ends_round = record.delivered >= self.round_begins_at_delivered;
        if ends_round {
            self.round += 1;
            self.round_begins_at_delivered = self.delivered;
        }
        let sending = record.sent_at.saturating_duration_since(record.first_sent_at);
        let acknowledging = now.saturating_duration_since(record.delivered_at);
        let interval = sending.max(acknowledging);
        if interval >= INTERVAL_MIN {
            let rate = (self.delivered - record.delivered) as f64 / interval.as_secs_f64();
            self.latest = rate;
            // Where the application had nothing to send, a low rate says nothing of the link.
            if !is_app_limited || rate >= self.highest() {
                self.remember(rate);
            }
        }
        Some(Sample { rtt: now.saturating_duration_since(newest), ends_round })
    }

    fn remember(&mut self, rate: f64) {
        while self.highest.back().is_some_and(|(_, lower)| *lower <= rate) {
            self.highest.pop_back();
        }
        self.highest.push_back((self.round, rate));
        while self.highest.len() > 1 && self.highest.front().is_some_and(|(round, _)| round + ROUNDS < self.round) {
            self.highest.pop_front();
        }
    }

    /// The highest rate of the last rounds, in bytes a second.
    pub(super) fn highest(&self) -> f64 {
        self.highest.front().map_or(0.0, |(_, rate)| *rate)
    }

    /// The newest rate, in bytes a second.
    pub(super) fn latest(&self) -> f64 {
        self.latest
    }

    /// Forgets all rates but the newest: the link has become slower.
    pub(super) fn forget(&mut self) {
        self.highest.clear();
        self.highest.push_back((self.round, self.latest));
    }

    /// Rounds so far.
    pub(super) fn round(&self) -> u64 {
        self.round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sends ten packets of 1000 bytes, one each millisecond, and acknowledges each after 50 ms.
    fn paced(rate: &mut DeliveryRate, from: Instant, app_limited: bool) {
        for number in 0..10 {
            rate.sent(from + MS * number, number > 0);
        }
        for number in 0..10 {
            rate.acknowledged(from + MS * number, 1000);
            rate.sample(from + MS * (50 + number), app_limited);
        }
    }

    #[test]
    fn bytes_count_over_the_longer_of_sending_and_acknowledging() {
        let base = Instant::now();
        let mut rate = DeliveryRate::new(base);
        for number in 0..10 {
            rate.sent(base + MS * number, number > 0);
        }
        // All are acknowledged at once, after a link that held them back: 10 kB in 50 ms, not in 9.
        for number in 0..10 {
            rate.acknowledged(base + MS * number, 1000);
        }
        let sample = rate.sample(base + MS * 50, false).expect("a packet was acknowledged");
        assert_eq!(sample.rtt, MS * 41);
        assert!((rate.highest() - 10_000.0 / 0.05).abs() < 1.0, "{}", rate.highest());
    }

    #[test]
    fn the_highest_rate_is_forgotten_after_its_rounds() {
        let base = Instant::now();
        let mut rate = DeliveryRate::new(base);
        paced(&mut rate, base, false);
        let fast = rate.highest();
        let slow = |rate: &mut DeliveryRate, round: u32| {
            let at = base + MS * 100 * round;
            rate.sent(at, false);
            rate.acknowledged(at, 1000);
            rate.sample(at + MS * 50, false);
        };
        slow(&mut rate, 1);
        assert!((rate.highest() - fast).abs() < 1.0);
        for round in 2..=12 {
            slow(&mut rate, round);
        }
        assert!(rate.highest() < fast / 2.0, "{} after {fast}", rate.highest());
    }

    #[test]
    fn what_an_idle_application_sends_says_nothing_of_the_link() {
        let base = Instant::now();
        let mut rate = DeliveryRate::new(base);
        paced(&mut rate, base, false);
        let fast = rate.highest();
        for round in 1..30 {
            let at = base + MS * 100 * round;
            rate.sent(at, false);
            rate.acknowledged(at, 100);
            rate.sample(at + MS * 50, true);
        }
        assert!((rate.highest() - fast).abs() < 1.0);
    }
}
