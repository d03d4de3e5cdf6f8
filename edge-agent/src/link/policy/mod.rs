//! What may go over the link now, why not more, and when that changes: decided from the settings, from what the device
//! believes the time to be, and from what was spent this month. Pure: [`super`] carries it out.

mod budget;
pub mod calendar;
mod schedule;
#[cfg(test)]
mod tests;

pub use budget::{Budget, CLOSING_BYTES};
pub use calendar::Month;
pub use schedule::{Schedule, ScheduleRule};

/// The rules of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What the week allows.
    pub schedule: Schedule,
    /// What the month allows, if that is limited.
    pub budget: Option<Budget>,
    /// How far the people's clock is ahead of UTC, in seconds.
    pub utc_offset_s: i64,
}

/// Why nothing may go over the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The schedule says so.
    Schedule,
    /// The month's bytes are spent, but for the reserve of model updates.
    Budget,
}

/// What holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Bytes may be sent, so many in any second at most.
    Open {
        /// None is no cap.
        up_bytes_per_s: Option<u64>,
    },
    /// Nothing may be sent or asked for.
    Closed(Closed),
}

/// What holds now, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// What holds.
    pub verdict: Verdict,
    /// When the clock changes that, in seconds since the Unix epoch; none if it never does.
    pub until_s: Option<i64>,
}

impl Policy {
    /// Whether something of it depends on time or on what is spent.
    pub fn is_constant(&self) -> bool {
        self.budget.is_none() && self.schedule.is_constant()
    }

    /// The month at this time, by the people's clock.
    pub fn month(&self, now_s: i64) -> Month {
        Month::at(now_s.saturating_add(self.utc_offset_s))
    }

    /// What holds at a time, as the device believes, after so many bytes were spent in its month. The reserve is only for
    /// a model update that waits.
    pub fn outlook(&self, now_s: i64, spent_bytes: u64, is_model_update: bool) -> Outlook {
        let local_s = now_s.saturating_add(self.utc_offset_s);
        let to_utc = |local_s: i64| local_s.saturating_sub(self.utc_offset_s);
        if self.budget.is_some_and(|budget| budget.is_spent(spent_bytes, is_model_update)) {
            let until_s = Some(to_utc(Month::at(local_s).next().begin_s()));
            return Outlook { verdict: Verdict::Closed(Closed::Budget), until_s };
        }
        let (up_bytes_per_s, until_s) = self.schedule.at(local_s);
        let verdict = match up_bytes_per_s {
            Some(0) => Verdict::Closed(Closed::Schedule),
            up_bytes_per_s => Verdict::Open { up_bytes_per_s },
        };
        Outlook { verdict, until_s: until_s.map(to_utc) }
    }
}
