//! When a connection counts as silent, and when others are dialled beside it.
//!
//! A connection on which something is under way and from which nothing comes for a second is asked for a sign of life. When
//! that brings nothing either, for another second, others are dialled beside it, and whichever hears from the other side first
//! is used from then on. QUIC alone would take longer: each packet that stays unanswered doubles the wait for the next, so that
//! after a link was down for 20 seconds it may be silent for as long again. The same holds for an attempt to connect, so
//! the next begins while the ones before still try.
//!
//! One packet does not mean that the old connection is well: after a long silence its round trip is taken for as long as that,
//! and it waits accordingly. It has to answer several times, or something has to move on it.
//!
//! ```text
//!             silent for 1 s             silent for 1 s more         2 to 5 s later, again and again
//!   heard  ------------------->  asked  --------------------> Dial --------------------> Dial ...
//!     ^                            |                            |
//!     |        it is heard         |                            |
//!     +----------------------------+                            |
//!     |        it is heard several times, or something moves    |
//!     +---------------------------------------------------------+--- a new one stands: it takes the old one's place
//! ```

use std::time::Duration;

use crate::time::Timestamp;

/// Silence after which a sign of life is asked for, and how long the answer may take.
const SILENCE: Duration = Duration::from_secs(1);
/// The same in round trips, for links on which one takes longer.
const SILENCE_ROUND_TRIPS: u32 = 2;
/// Where nothing but answers to these questions comes, they become as rare as this: the other side is working, or has others
/// to serve first.
const SILENCE_MAX: Duration = Duration::from_secs(16);
/// What an answer and its acknowledgements are at most; more than that is something moving.
const ANSWER_BYTES_MAX: u64 = 512;
/// Looks at which the old connection must have been heard while others are dialled, so that it is well again.
const SIGNS_MIN: u32 = 3;
/// The waits between attempts to connect: the first, what each is longer by, and the longest.
const ATTEMPT_WAIT_FIRST: Duration = Duration::from_secs(2);
const ATTEMPT_WAIT_STEP: Duration = Duration::from_secs(1);
const ATTEMPT_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long after a good session its link counts as one that will be back soon.
const SOON_BACK: Duration = Duration::from_mins(10);
/// Rounds that may fail one after the other with a short wait after each; they take a few minutes.
const SHORT_ROUNDS_MAX: u32 = 6;

/// Attempts to connect that may be under way at once; the oldest is given up for a new one. It is some 15 seconds old then, and
/// on the slowest link that is enough.
pub const ATTEMPTS_AT_ONCE_MAX: usize = 4;

/// When to begin attempts to connect.
#[derive(Clone, Copy, Debug)]
pub struct Attempts {
    begun: u32,
    next_at: Timestamp,
}

impl Attempts {
    /// The first is due now.
    pub const fn new(now: Timestamp) -> Self {
        Self { begun: 0, next_at: now }
    }

    /// Whether one is due; then it is to begin. `random` makes the wait for the next one different from device to device.
    pub fn poll(&mut self, now: Timestamp, random: u8) -> bool {
        if now < self.next_at {
            return false;
        }
        let step = (ATTEMPT_WAIT_FIRST + ATTEMPT_WAIT_STEP * self.begun).min(ATTEMPT_WAIT_MAX);
        self.begun = self.begun.saturating_add(1);
        self.next_at = now + step * 3 / 4 + step * u32::from(random) / (4 * 255);
        true
    }

    /// When the next is due.
    pub const fn next_at(&self) -> Timestamp {
        self.next_at
    }

    /// How many have begun.
    pub const fn begun(&self) -> u32 {
        self.begun
    }
}

/// How trying to reach the other side has gone since the last good session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// Rounds that failed.
    pub failed: u32,
    /// The other side was reached the last time, and would not have us now: what it asks for then is patience.
    pub is_sent_away: bool,
}

impl Tries {
    /// After another round that failed.
    #[must_use]
    pub const fn after(self, is_sent_away: bool) -> Self {
        Self { failed: self.failed.saturating_add(1), is_sent_away }
    }
}

/// The longest wait before another attempt, where there is no connection: short while work waits and the last good session
/// ended not long ago, for then the link is one that comes and goes; none where it need not be short. It is short for a
/// few rounds only, and never for one who was sent away: what is gone for longer is the other side, and then a whole fleet
/// knocks.
pub fn retry_within(work_waits: bool, since_good_session: Option<Duration>, tries: Tries) -> Option<Duration> {
    let is_soon_back = since_good_session.is_some_and(|since| since < SOON_BACK);
    let is_patient = tries.is_sent_away || tries.failed > SHORT_ROUNDS_MAX;
    (work_waits && is_soon_back && !is_patient).then_some(ATTEMPT_WAIT_MAX)
}

/// What is to be done about a silent connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaceStep {
    /// Ask for a sign of life.
    Ask,
    /// Begin another attempt beside it.
    Dial,
}

/// Watches one connection.
#[derive(Clone, Copy, Debug)]
pub struct Race {
    heard_at: Timestamp,
    heard_bytes: u64,
    asked_at: Option<Timestamp>,
    /// The silence after which it asks; longer while only answers come.
    ask_after: Duration,
    /// The shortest round trip that the connection told.
    round_trip: Duration,
    dialling: Option<Dialling>,
}

/// Others are dialled beside the connection.
#[derive(Clone, Copy, Debug)]
struct Dialling {
    attempts: Attempts,
    /// What was heard of the old connection since.
    signs: u32,
    signs_bytes: u64,
    ask: bool,
}

impl Race {
    /// How often to look at the counters of the connection.
    pub const LOOK_EVERY: Duration = Duration::from_millis(250);

    /// Begins to watch a connection on which so many bytes have arrived.
    pub const fn new(now: Timestamp, heard_bytes: u64) -> Self {
        Self {
            heard_at: now,
            heard_bytes,
            asked_at: None,
            ask_after: SILENCE,
            round_trip: Duration::MAX,
            dialling: None,
        }
    }

    /// So many bytes have arrived by now, and something is under way or not.
    pub fn handle_look(&mut self, now: Timestamp, under_way: bool, heard_bytes: u64) {
        let more = heard_bytes.saturating_sub(self.heard_bytes);
        if more > ANSWER_BYTES_MAX {
            self.ask_after = SILENCE;
        } else if more > 0 && self.asked_at.is_some() && self.dialling.is_none() {
            self.ask_after = (self.ask_after * 2).min(SILENCE_MAX);
        }
        let mut is_well = more > 0 || !under_way;
        if let Some(dialling) = &mut self.dialling {
            dialling.signs += u32::from(more > 0);
            dialling.signs_bytes += more;
            dialling.ask = more > 0;
            is_well = !under_way || dialling.signs >= SIGNS_MIN || dialling.signs_bytes > ANSWER_BYTES_MAX;
        }
        self.heard_bytes = heard_bytes;
        if is_well {
            self.heard_at = now;
            (self.asked_at, self.dialling) = (None, None);
        }
    }

    /// What is to be done now, for a connection that tells such a round trip.
    pub fn poll(&mut self, now: Timestamp, round_trip: Duration, random: u8) -> Option<RaceStep> {
        self.round_trip = self.round_trip.min(round_trip);
        let round_trips = self.round_trip.saturating_mul(SILENCE_ROUND_TRIPS);
        if let Some(dialling) = &mut self.dialling {
            if std::mem::take(&mut dialling.ask) {
                return Some(RaceStep::Ask);
            }
            return dialling.attempts.poll(now, random).then_some(RaceStep::Dial);
        }
        match self.asked_at {
            None if now.since(self.heard_at) >= self.ask_after.max(round_trips) => {
                self.asked_at = Some(now);
                Some(RaceStep::Ask)
            }
            Some(asked_at) if now.since(asked_at) >= SILENCE.max(round_trips) => {
                let mut attempts = Attempts::new(now);
                let due = attempts.poll(now, random).then_some(RaceStep::Dial);
                self.dialling = Some(Dialling { attempts, signs: 0, signs_bytes: 0, ask: false });
                due
            }
            _ => None,
        }
    }

    /// Whether others are dialled beside it. Once it is well again, they are given up.
    pub const fn is_on(&self) -> bool {
        self.dialling.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(200);

    fn at(ms: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(ms)
    }

    /// Looks each quarter of a second until `to_ms`, with what `heard` says; the steps, with their times in milliseconds.
    fn play(
        race: &mut Race,
        from_ms: u64,
        to_ms: u64,
        rtt: Duration,
        heard: impl Fn(u64) -> u64,
    ) -> Vec<(u64, RaceStep)> {
        let mut steps = Vec::new();
        for ms in (from_ms..to_ms).step_by(250) {
            race.handle_look(at(ms), true, heard(ms));
            steps.extend(race.poll(at(ms), rtt, 255).map(|step| (ms, step)));
        }
        steps
    }

    #[test]
    fn two_seconds_of_silence_begin_a_race() {
        let mut race = Race::new(at(0), 0);
        let steps = play(&mut race, 250, 20_000, RTT, |_| 0);
        assert_eq!(
            steps,
            [
                (1000, RaceStep::Ask),
                (2000, RaceStep::Dial),
                (4000, RaceStep::Dial),
                (7000, RaceStep::Dial),
                (11_000, RaceStep::Dial),
                (16_000, RaceStep::Dial)
            ]
        );
        assert!(race.is_on());
        // Something moves again.
        race.handle_look(at(20_000), true, 600);
        assert!(!race.is_on());
        assert_eq!(race.poll(at(20_500), RTT, 0), None);
    }

    #[test]
    fn a_race_goes_on_until_the_old_connection_has_answered_several_times() {
        let mut race = Race::new(at(0), 0);
        play(&mut race, 250, 3000, RTT, |_| 0);
        for (number, ms) in [3000, 3500, 4000].into_iter().enumerate() {
            assert!(race.is_on());
            race.handle_look(at(ms), true, 60 * (number as u64 + 1));
            // A round trip that a single late packet has made long changes nothing.
            let step = race.poll(at(ms), Duration::from_secs(20), 255);
            assert_eq!(step, race.is_on().then_some(RaceStep::Ask));
        }
        assert!(!race.is_on());
        let again = play(&mut race, 4250, 7000, RTT, |_| 180);
        assert_eq!(again.last(), Some(&(6000, RaceStep::Dial)));
    }

    #[test]
    fn bytes_or_nothing_to_wait_for_are_no_silence() {
        let mut race = Race::new(at(0), 0);
        assert_eq!(play(&mut race, 250, 60_000, RTT, |ms| ms / 900), []);
        for ms in (60_000..120_000).step_by(250) {
            race.handle_look(at(ms), false, 67);
            assert_eq!(race.poll(at(ms), RTT, 0), None);
        }
    }

    #[test]
    fn a_long_round_trip_is_no_silence() {
        let steps = play(&mut Race::new(at(0), 0), 250, 8000, Duration::from_millis(1500), |_| 0);
        assert_eq!(steps, [(3000, RaceStep::Ask), (6000, RaceStep::Dial)]);
    }

    #[test]
    fn a_peer_that_only_answers_is_asked_ever_less() {
        // Each question is answered at the next look, with 60 bytes.
        let mut race = Race::new(at(0), 0);
        let (mut heard, mut asked) = (0, Vec::new());
        for ms in (250..120_000).step_by(250) {
            race.handle_look(at(ms), true, heard);
            match race.poll(at(ms), RTT, 0) {
                Some(RaceStep::Ask) => {
                    asked.push(ms);
                    heard += 60;
                }
                Some(RaceStep::Dial) => unreachable!("it answers"),
                None => {}
            }
        }
        assert!((8..=12).contains(&asked.len()), "{asked:?}");
        // Something moves, so that its stop is noticed soon again.
        race.handle_look(at(120_000), true, heard + 5000);
        assert_eq!(play(&mut race, 120_250, 122_500, RTT, |_| heard + 5000).last(), Some(&(122_000, RaceStep::Dial)));
    }

    #[test]
    fn attempts_follow_each_other_within_five_seconds_however_long_it_takes() {
        for random in [0, 128, 255] {
            let mut attempts = Attempts::new(at(0));
            let begun: Vec<u64> = (0..600_000).step_by(250).filter(|ms| attempts.poll(at(*ms), random)).collect();
            for (number, pair) in begun.windows(2).enumerate() {
                let (wait, longest) = (pair[1] - pair[0], (2000 + 1000 * number as u64).min(5000));
                assert!(wait <= longest && wait * 4 >= longest * 3, "attempt {number} after {wait} ms");
            }
            assert_eq!(attempts.begun() as usize, begun.len());
        }
    }

    #[test]
    fn a_link_that_was_good_is_tried_often_while_work_waits() {
        let minutes = |minutes| Some(Duration::from_mins(minutes));
        let none = Tries::default();
        assert_eq!(retry_within(true, minutes(9), none), Some(ATTEMPT_WAIT_MAX));
        for (work_waits, since) in [(true, minutes(10)), (true, None), (false, minutes(1))] {
            assert_eq!(retry_within(work_waits, since, none), None);
        }
    }

    #[test]
    fn a_side_that_is_gone_or_asks_to_wait_is_not_pressed() {
        let within = |tries| retry_within(true, Some(Duration::from_mins(1)), tries);
        let mut tries = Tries::default();
        for round in 0..20 {
            assert_eq!(within(tries).is_some(), round <= SHORT_ROUNDS_MAX, "after {round} failures");
            tries = tries.after(false);
        }
        let sent_away = Tries::default().after(true);
        assert_eq!(within(sent_away), None);
        assert!(within(sent_away.after(false)).is_some(), "the way failed since");
    }
}
