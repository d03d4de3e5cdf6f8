//! What a device's people have allowed its link: caps, hours in which it is closed, and what a month may cost.

use std::fmt::Write;

use super::bugs::Bug;
use super::plan::LinkPlan;
use crate::random::Random;

/// Bytes per second of a kilobit.
const KBIT_BYTES: u64 = 125;
/// Bytes of a MiB.
const MIB_BYTES: u64 = 1 << 20;
/// The least that a month may cost beside its reserve, in MiB.
const MONTH_MIB_MIN: u64 = 10;

/// The rules of a device's link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The most that it may send in any second, in kilobits.
    pub up_kbit: Option<u64>,
    /// The most that the core may send it, in kilobits in a second.
    pub down_kbit: Option<u64>,
    /// Minutes of each day, by its clock, from the first to before the second, in which nothing goes over it.
    pub closed: Option<(u64, u64)>,
    /// What may go over it in a month of its clock, in MiB, both ways; and what of that is for model updates alone.
    pub month_mib: Option<(u64, u64)>,
}

impl Rules {
    /// Draws some.
    pub(super) fn draw(plan: &LinkPlan, random: &mut Random) -> Self {
        let up_kbit = plan.capped.draw(random).then(|| plan.cap_kbit.draw_scaled(random));
        let down_kbit = plan.down_capped.draw(random).then(|| plan.down_cap_kbit.draw_scaled(random));
        let closed = plan.scheduled.draw(random).then(|| {
            let from = plan.closes_minute.draw(random);
            (from, from + plan.closed_minutes.draw(random).max(1))
        });
        let month_mib = plan.budgeted.draw(random).then(|| {
            let reserve = plan.reserve_mib.draw(random);
            (reserve + plan.month_mib.draw(random).max(MONTH_MIB_MIN), reserve)
        });
        Self { up_kbit, down_kbit, closed, month_mib }
    }

    /// The most bytes that it may send in any second.
    pub fn up_bytes_per_s(&self) -> Option<u64> {
        self.up_kbit.map(|cap| cap * KBIT_BYTES)
    }

    /// The most bytes that the core may send it in a second.
    pub fn down_bytes_per_s(&self) -> Option<u64> {
        self.down_kbit.map(|cap| cap * KBIT_BYTES)
    }

    /// What a month may cost a device without model updates.
    pub fn month_bytes(&self) -> Option<u64> {
        self.month_mib.map(|(month, reserve)| (month - reserve) * MIB_BYTES)
    }

    /// Since when, in seconds, the link is closed at a time of the device's clock in seconds.
    pub fn closed_since_s(&self, now_s: u64) -> Option<u64> {
        let (from, to) = self.closed?;
        let of_day = now_s % 86_400;
        (from * 60..to * 60).contains(&of_day).then(|| of_day - from * 60)
    }

    /// The keys of `[link]`, and its tables, as the device's settings have them; a planted bug leaves one out.
    pub(super) fn settings(&self, bug: Option<Bug>) -> (String, String) {
        let unless = |bad| bug != Some(bad);
        let (mut keys, mut tables) = (String::new(), String::new());
        // Writing into a string can't fail.
        if let Some(cap) = self.up_kbit.filter(|_| unless(Bug::IgnoresCap)) {
            let _ = writeln!(keys, "up = \"{cap} kbit/s\"");
        }
        if let Some(cap) = self.down_kbit.filter(|_| unless(Bug::IgnoresDownCap)) {
            let _ = writeln!(keys, "down = \"{cap} kbit/s\"");
        }
        if let Some((month, reserve)) = self.month_mib {
            let _ = write!(tables, "[link.budget]\nmonth = \"{month}MiB\"\nreserve = \"{reserve}MiB\"\n");
        }
        if let Some((from, to)) = self.closed.filter(|_| unless(Bug::IgnoresSchedule)) {
            let time = |minute: u64| format!("{:02}:{:02}", minute / 60, minute % 60);
            let (from, to) = (time(from), time(to));
            let _ = write!(tables, "[[link.schedule]]\nfrom = \"{from}\"\nto = \"{to}\"\nup = \"0\"\n");
        }
        (keys, tables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_closed_from_its_minute_on() {
        let rules = Rules { closed: Some((2, 4)), ..Rules::default() };
        let day = 86_400 * 20_000;
        for (second, since) in [(119, None), (120, Some(0)), (239, Some(119)), (240, None), (0, None)] {
            assert_eq!(rules.closed_since_s(day + second), since, "{second}");
        }
    }
}
