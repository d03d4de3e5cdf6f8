//! What may go over the link now, why not more, and when that changes: decided from the settings, from what the device
//! believes the time to be, and from what was spent this month. Pure: [`super`] carries it out.

mod budget;
pub mod calendar;
mod interface;
mod schedule;
#[cfg(test)]
mod tests;

pub use budget::{Budget, CLOSING_BYTES};
pub use calendar::Month;
pub use interface::Interface;
pub use schedule::{Schedule, ScheduleRule};

/// The rules of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What the week allows.
    pub schedule: Schedule,
    /// What is known of interfaces; the first that fits counts.
    pub interfaces: Vec<Interface>,
    /// What the month allows, if that is limited.
    pub budget: Option<Budget>,
    /// How far the people's clock is ahead of UTC, in seconds.
    pub utc_offset_s: i64,
}

/// How many bytes may go over the link in any second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// From this device: none is no cap, 0 nothing at all, in either direction.
    pub up_bytes_per_s: Option<u64>,
    /// To this device: none is no cap.
    pub down_bytes_per_s: Option<u64>,
}

impl Caps {
    /// What both allow.
    fn and(self, other: Self) -> Self {
        let least = |one: Option<u64>, other: Option<u64>| [one, other].into_iter().flatten().min();
        Self {
            up_bytes_per_s: least(self.up_bytes_per_s, other.up_bytes_per_s),
            down_bytes_per_s: least(self.down_bytes_per_s, other.down_bytes_per_s),
        }
    }
}

/// Why nothing may go over the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The schedule says so.
    Schedule,
    /// The interface that leads to the core is not to be used.
    Interface,
    /// The month's bytes are spent, but for the reserve of model updates.
    Budget,
}

/// What holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Bytes may go, so many in any second at most.
    Open(Caps),
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
    /// Only model updates may go: the rest of the month's bytes is spent.
    pub is_reserve: bool,
}

/// What a verdict is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now<'a> {
    /// Seconds since the Unix epoch, as the device believes.
    pub now_s: i64,
    /// What was spent in the month.
    pub spent_bytes: u64,
    /// Whether a model update waits: the reserve is only for these.
    pub is_model_update: bool,
    /// The interface that leads to the core, if that is known.
    pub interface: Option<&'a str>,
}

impl Policy {
    /// Whether something of it depends on time or on what is spent.
    pub fn is_constant(&self) -> bool {
        self.budget.is_none() && self.interfaces.is_empty() && self.schedule.is_constant()
    }

    /// Whether bytes over the interface in use are paid for: all are where no interface is named, and where nobody knows which
    /// is in use.
    pub fn is_metered(&self, interface: Option<&str>) -> bool {
        self.interfaces.is_empty()
            || interface.is_none_or(|name| self.interface(name).is_some_and(|interface| interface.is_metered))
    }

    fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.is_named(name))
    }

    /// The month at this time, by the people's clock.
    pub fn month(&self, now_s: i64) -> Month {
        Month::at(now_s.saturating_add(self.utc_offset_s))
    }

    /// What holds at a time, as the device believes, over the interface that leads to the core, after so many bytes were
    /// spent in the month.
    pub fn outlook(&self, now: &Now<'_>) -> Outlook {
        let &Now { now_s, spent_bytes, is_model_update, interface } = now;
        let local_s = now_s.saturating_add(self.utc_offset_s);
        let to_utc = |local_s: i64| local_s.saturating_sub(self.utc_offset_s);
        let next_month_s = to_utc(Month::at(local_s).next().begin_s());
        let budget = self.budget.filter(|_| self.is_metered(interface));
        let is_spent = |is_model_update| budget.is_some_and(|budget| budget.is_spent(spent_bytes, is_model_update));
        if is_spent(is_model_update) {
            let verdict = Verdict::Closed(Closed::Budget);
            return Outlook { verdict, until_s: Some(next_month_s), is_reserve: false };
        }
        let is_reserve = is_spent(false);
        let (of_week, until_s) = self.schedule.at(local_s);
        let until_s = until_s.map(to_utc);
        let until_s = [until_s, is_reserve.then_some(next_month_s)].into_iter().flatten().min();
        let of_interface = interface.and_then(|name| self.interface(name)).map(|found| found.caps).unwrap_or_default();
        if of_interface.up_bytes_per_s == Some(0) {
            let verdict = Verdict::Closed(Closed::Interface);
            return Outlook { verdict, until_s: None, is_reserve: false };
        }
        let verdict = match of_week.and(of_interface) {
            Caps { up_bytes_per_s: Some(0), .. } => Verdict::Closed(Closed::Schedule),
            caps => Verdict::Open(caps),
        };
        Outlook { verdict, until_s, is_reserve }
    }
}
