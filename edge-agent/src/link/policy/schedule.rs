//! What each minute of the week allows.

use super::Caps;
use super::calendar::{WEEK_MIN, minute_of_week};

/// A day, in minutes.
const DAY_MIN: u32 = 24 * 60;

/// A stretch of some days with a cap of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleRule {
    /// The days on which it begins, Monday first.
    pub days: [bool; 7],
    /// Minute of the day at which it begins.
    pub from_min: u32,
    /// Minute of the day before which it ends; of the next day, if that is not after its beginning.
    pub to_min: u32,
    /// What may go in a second then.
    pub caps: Caps,
}

impl ScheduleRule {
    fn covers(&self, minute: u32) -> bool {
        let length = if self.to_min > self.from_min { self.to_min } else { self.to_min + DAY_MIN } - self.from_min;
        (0..7).filter(|&day| self.days[day as usize]).any(|day| {
            let begin = day * DAY_MIN + self.from_min;
            (minute + WEEK_MIN - begin) % WEEK_MIN < length
        })
    }
}

/// A week.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// What may go in a second when no rule says anything else.
    pub caps: Caps,
    /// The first that covers a minute counts.
    pub rules: Vec<ScheduleRule>,
}

impl Schedule {
    /// Whether every minute is like every other.
    pub fn is_constant(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether there is a minute that allows something.
    pub fn ever_allows(&self) -> bool {
        (0..WEEK_MIN).any(|minute| self.of_minute(minute).up_bytes_per_s != Some(0))
    }

    /// What a second allows, and when that changes.
    pub(super) fn at(&self, local_s: i64) -> (Caps, Option<i64>) {
        let minute = minute_of_week(local_s);
        let now = self.of_minute(minute);
        let minutes = (1..WEEK_MIN).find(|ahead| self.of_minute((minute + ahead) % WEEK_MIN) != now);
        let begin_s = local_s - local_s.rem_euclid(60);
        (now, minutes.map(|minutes| begin_s.saturating_add(i64::from(minutes) * 60)))
    }

    fn of_minute(&self, minute: u32) -> Caps {
        let rule = self.rules.iter().find(|rule| rule.covers(minute));
        rule.map_or(self.caps, |rule| rule.caps)
    }
}
