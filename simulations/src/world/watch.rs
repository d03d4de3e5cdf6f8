//! What went over a device's link, as somebody sees it who stands beside it and knows its rules.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::process::{WallClock, lock};
use super::rules::Rules;

/// The span in which what comes is shaped.
const DOWN_SPAN: Duration = Duration::from_secs(10);
/// Until a link that is closed is silent: a clock is looked at every second, a goodbye is half a second, and disks are slow.
const FALLS_SILENT: Duration = Duration::from_secs(3);
/// The first bit of packets that are not of a handshake is unset.
const HANDSHAKE_BIT: u8 = 0x80;

/// What went over a device's link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkBytes {
    /// Bytes that the device sent.
    pub up: u64,
    /// Bytes that the core sent to it.
    pub down: u64,
    /// The most that one process of the device sent within a second.
    pub up_second_max: u64,
    /// The most that one process of the core sent it within ten seconds, handshakes apart.
    pub down_span_max: u64,
    /// What it sent while its link was closed, and had been long enough for everybody to know.
    pub while_closed: u64,
    /// The most that went over it, both ways, in a month of its clock that may not cost more than so much.
    pub month_max: u64,
}

/// What was sent in the last while.
#[derive(Debug, Default)]
struct Window {
    sent: VecDeque<(Instant, u64)>,
    bytes: u64,
}

impl Window {
    /// So much is sent now; gives what the last `span` comes to.
    fn add(&mut self, span: Duration, bytes: u64) -> u64 {
        let now = Instant::now();
        self.sent.push_back((now, bytes));
        self.bytes += bytes;
        while let Some((at, old)) = self.sent.front()
            && now.duration_since(*at) >= span
        {
            self.bytes -= old;
            self.sent.pop_front();
        }
        self.bytes
    }
}

/// Who stands beside a link.
#[derive(Debug)]
pub(super) struct Watch {
    rules: Rules,
    clock: Option<Arc<Mutex<WallClock>>>,
    second: Window,
    span: Window,
    months: BTreeMap<(i64, u32), u64>,
    pub(super) bytes: LinkBytes,
}

impl Watch {
    /// Of a link without rules.
    pub(super) fn new() -> Self {
        Self {
            rules: Rules::default(),
            clock: None,
            second: Window::default(),
            span: Window::default(),
            months: BTreeMap::new(),
            bytes: LinkBytes::default(),
        }
    }

    /// From now on its rules are these, by that clock.
    pub(super) fn rule(&mut self, rules: Rules, clock: Arc<Mutex<WallClock>>) {
        (self.rules, self.clock) = (rules, Some(clock));
        self.months.clear();
    }

    /// The device's process has died: the next one knows nothing of what this one sent in the last second.
    pub(super) fn device_died(&mut self) {
        self.second = Window::default();
    }

    /// The core's process has.
    pub(super) fn core_died(&mut self) {
        self.span = Window::default();
    }

    /// The device sends so much.
    pub(super) fn sends(&mut self, bytes: u64) {
        self.bytes.up += bytes;
        self.bytes.up_second_max = self.bytes.up_second_max.max(self.second.add(Duration::from_secs(1), bytes));
        self.spends(bytes);
        let Some(clock) = &self.clock else { return };
        let (shows, set_for) = {
            let clock = lock(clock);
            (clock.now(), clock.set_for())
        };
        let closed_for = self.rules.closed_since_s(shows.as_secs()).map(Duration::from_secs);
        if closed_for.is_some_and(|closed_for| closed_for.min(set_for) > FALLS_SILENT) {
            self.bytes.while_closed += bytes;
        }
    }

    /// The core sends so much to the device, in a datagram with this payload.
    pub(super) fn is_sent(&mut self, payload: &[u8], bytes: u64) {
        self.bytes.down += bytes;
        if payload.first().is_some_and(|first| first & HANDSHAKE_BIT == 0) {
            self.bytes.down_span_max = self.bytes.down_span_max.max(self.span.add(DOWN_SPAN, bytes));
        }
    }

    /// So much comes to a socket of the device.
    pub(super) fn comes(&mut self, bytes: u64) {
        self.spends(bytes);
    }

    fn spends(&mut self, bytes: u64) {
        let (Some(_), Some(clock)) = (self.rules.month_mib, &self.clock) else { return };
        let month = month_of((lock(clock).now().as_secs() / 86_400) as i64);
        let spent = self.months.entry(month).or_default();
        *spent += bytes;
        self.bytes.month_max = self.bytes.month_max.max(*spent);
    }
}

/// Year and month of a day since 1970 (Hinnant, chrono-compatible low-level date algorithms).
fn month_of(day: i64) -> (i64, u32) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_in_their_months() {
        for (day, month) in
            [(0, (1970, 1)), (31, (1970, 2)), (19_781, (2024, 2)), (19_782, (2024, 2)), (19_783, (2024, 3))]
        {
            assert_eq!(month_of(day), month, "{day}");
        }
        assert_eq!(month_of(20_454), (2026, 1));
    }
}
