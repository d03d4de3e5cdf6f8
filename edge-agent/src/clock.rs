//! The device's wall clock, for people only: nothing is decided by it, because it may be years off.

use std::time::UNIX_EPOCH;

use headwater_quic::work;

/// Seconds since the Unix epoch, as the device believes.
pub(crate) fn now_s() -> i64 {
    work::wall_clock().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// A time as `2026-02-03 04:05:06`, in UTC.
pub(crate) fn shown(at_s: i64) -> String {
    let (days, rest) = (at_s.div_euclid(86_400), at_s.rem_euclid(86_400));
    // Days to a date: H. Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
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
