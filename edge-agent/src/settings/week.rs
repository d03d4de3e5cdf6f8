//! Days, times and offsets as people write them: `mon-fri`, `08:00`, `+01:00`.

use serde::{Deserialize, Serialize};

/// The days' names, Monday first.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// A day, in minutes.
const DAY_MIN: u32 = 24 * 60;
/// The clocks of the world are at most so far from UTC, in minutes.
const OFFSET_MIN_MAX: u32 = 15 * 60;

/// A day, or a stretch of days: `sat`, `mon-fri`, `sat-mon`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Days {
    first: usize,
    last: usize,
}

impl Days {
    /// Whether a day is one of them; Monday is 0.
    pub fn contains(self, day: usize) -> bool {
        (day + 7 - self.first) % 7 <= (self.last + 7 - self.first) % 7
    }
}

impl TryFrom<String> for Days {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let day = |name: &str| DAYS.iter().position(|day| *day == name.trim().to_ascii_lowercase());
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        match (day(first), day(last)) {
            (Some(first), Some(last)) => Ok(Self { first, last }),
            _ => Err(format!("`{text}` is no day; write `sat` or `mon-fri`")),
        }
    }
}

impl From<Days> for String {
    fn from(days: Days) -> Self {
        let Days { first, last } = days;
        if first == last { DAYS[first].to_owned() } else { format!("{}-{}", DAYS[first], DAYS[last]) }
    }
}

/// A time of the day, to the minute: `00:00` to `24:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay {
    /// Minutes since midnight.
    pub minute: u32,
}

impl TryFrom<String> for TimeOfDay {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let minute = minutes(&text).filter(|&minute| minute <= DAY_MIN);
        minute.map(|minute| Self { minute }).ok_or_else(|| format!("`{text}` is no time of day; write `08:00`"))
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        format!("{:02}:{:02}", time.minute / 60, time.minute % 60)
    }
}

/// How far a clock is ahead of UTC: `+01:00`, `-03:30`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UtcOffset {
    /// In minutes.
    pub minutes: i32,
}

impl TryFrom<String> for UtcOffset {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let signed = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(rest), _) => minutes(rest).map(|minutes| (1, minutes)),
            (_, Some(rest)) => minutes(rest).map(|minutes| (-1, minutes)),
            _ => None,
        };
        signed
            .filter(|&(_, minutes)| minutes <= OFFSET_MIN_MAX)
            .map(|(sign, minutes)| Self { minutes: sign * minutes as i32 })
            .ok_or_else(|| format!("`{text}` is no offset from UTC; write `+01:00`"))
    }
}

impl std::fmt::Display for UtcOffset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sign, minutes) = (if self.minutes < 0 { '-' } else { '+' }, self.minutes.abs());
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

impl From<UtcOffset> for String {
    fn from(offset: UtcOffset) -> Self {
        offset.to_string()
    }
}

/// `08:30` in minutes.
fn minutes(text: &str) -> Option<u32> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let is_number = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(hours) || !is_number(minutes) {
        return None;
    }
    let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
    (minutes < 60).then_some(hours * 60 + minutes)
}
