//! Months and minutes of the week, from seconds since the Unix epoch, which may lie far from the truth.

/// Seconds of a day.
pub const DAY_S: i64 = 86_400;
/// Minutes of a week.
pub const WEEK_MIN: u32 = 7 * 24 * 60;
/// 1970-01-01 was a Thursday, the fourth day of a week that begins on Monday.
const EPOCH_WEEKDAY: i64 = 3;

/// A month of a year of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month {
    /// The year.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
}

impl Month {
    /// The month in which this second lies.
    pub fn at(local_s: i64) -> Self {
        let (year, month, _) = date(local_s);
        Self { year, month }
    }

    /// The month after.
    pub fn next(self) -> Self {
        if self.month == 12 { Self { year: self.year + 1, month: 1 } } else { Self { month: self.month + 1, ..self } }
    }

    /// Its first second.
    pub fn begin_s(self) -> i64 {
        // H. Hinnant, "chrono-compatible low-level date algorithms", days_from_civil, for the first day of a month.
        let year = self.year - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let shifted = (i64::from(self.month) + 9) % 12;
        let day_of_year = (153 * shifted + 2) / 5;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        (era * 146_097 + day_of_era - 719_468) * DAY_S
    }
}

impl std::fmt::Display for Month {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

/// Year, month and day of a second.
pub fn date(local_s: i64) -> (i64, u8, u8) {
    // H. Hinnant, the same, civil_from_days.
    let shifted = local_s.div_euclid(DAY_S) + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u8, day as u8)
}

/// The minute of the week, from Monday 00:00.
pub fn minute_of_week(local_s: i64) -> u32 {
    let weekday = (local_s.div_euclid(DAY_S) + EPOCH_WEEKDAY).rem_euclid(7);
    (weekday * 24 * 60 + local_s.rem_euclid(DAY_S) / 60) as u32
}
