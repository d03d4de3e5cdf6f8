//! The device's wall clock: for people, and for what people plan by it. Nothing that must be right is decided by it, because
//! it may be years off.

use std::time::UNIX_EPOCH;

use headwater_quic::work;

use crate::link::policy::calendar::{DAY_S, date};

/// Seconds since the Unix epoch, as the device believes.
pub(crate) fn now_s() -> i64 {
    work::wall_clock().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// A time as `2026-02-03 04:05:06`, in UTC.
pub(crate) fn shown(at_s: i64) -> String {
    let rest = at_s.rem_euclid(DAY_S);
    let (year, month, day) = date(at_s);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_right() {
        for (at_s, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_770_091_506, "2026-02-03 04:05:06"),
            (-1, "1969-12-31 23:59:59"),
        ] {
            assert_eq!(super::shown(at_s), text);
        }
    }
}
