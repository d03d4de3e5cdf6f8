//! Values as people write them in a configuration: `5m`, `64MiB`, `2 Mbit/s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value that is not in the form people write it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}; write it as {example}")]
pub struct ParseUnitError {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// A span of time: `250ms`, `30s`, `5m`, `1h30m`, `7d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(pub Duration);

/// A number of bytes: `4096`, `64KiB`, `1.5GiB`, `10GB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanBytes(pub u64);

/// A rate: `256 kbit/s`, `2 Mbit/s`, `1.5MiB/s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanRate {
    /// In bits per second.
    pub bits_per_s: u64,
}

impl HumanRate {
    /// In whole bytes per second.
    pub const fn bytes_per_s(self) -> u64 {
        self.bits_per_s / 8
    }

    /// A rate in bytes per second.
    pub const fn of_bytes_per_s(bytes_per_s: u64) -> Self {
        Self { bits_per_s: bytes_per_s.saturating_mul(8) }
    }
}

/// Only what can't be read in two ways: `Mb/s` may be meant as bits or as bytes.
const RATE_UNITS_BITS: [(&str, u64); 7] = [
    ("bit/s", 1),
    ("kbit/s", 1000),
    ("mbit/s", 1_000_000),
    ("gbit/s", 1_000_000_000),
    ("kib/s", 8 << 10),
    ("mib/s", 8 << 20),
    ("gib/s", 8 << 30),
];

const DURATION_UNITS_MS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

const BYTE_UNITS: [(&str, u64); 15] = [
    ("b", 1),
    ("k", 1000),
    ("kb", 1000),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("t", 1_000_000_000_000),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
    ("ki", 1 << 10),
    ("mi", 1 << 20),
];

impl FromStr for HumanDuration {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let error =
            || ParseUnitError { text: text.to_owned(), what: "span of time", example: "`30s`, `5m` or `1h30m`" };
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Self::default());
        }
        let mut total_ms = 0u64;
        if rest.is_empty() {
            return Err(error());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
            let number: u64 = rest[..digits].parse().map_err(|_| error())?;
            rest = rest[digits..].trim_start();
            let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let unit = &rest[..letters];
            rest = rest[letters..].trim_start();
            let (_, factor) = DURATION_UNITS_MS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
            total_ms = number.checked_mul(*factor).and_then(|ms| total_ms.checked_add(ms)).ok_or_else(error)?;
        }
        Ok(Self(Duration::from_millis(total_ms)))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest_ms = self.0.as_millis() as u64;
        if rest_ms == 0 {
            return f.write_str("0s");
        }
        for (unit, factor) in DURATION_UNITS_MS.iter().rev().skip(1) {
            if rest_ms >= *factor {
                write!(f, "{}{unit}", rest_ms / factor)?;
                rest_ms %= factor;
            }
        }
        Ok(())
    }
}

impl FromStr for HumanBytes {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        scaled(text, &BYTE_UNITS).map(Self).ok_or_else(|| ParseUnitError {
            text: text.to_owned(),
            what: "size",
            example: "`64MiB`, `10GB` or `4096`",
        })
    }
}

impl fmt::Display for HumanBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= factor {
                return if self.0.is_multiple_of(factor) {
                    write!(f, "{}{unit}", self.0 / factor)
                } else {
                    write!(f, "{:.1}{unit}", self.0 as f64 / factor as f64)
                };
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl FromStr for HumanRate {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let has_unit = text.trim() == "0" || text.contains("/s");
        let bits_per_s = scaled(text, &RATE_UNITS_BITS).filter(|_| has_unit).ok_or_else(|| ParseUnitError {
            text: text.to_owned(),
            what: "rate",
            example: "`2 Mbit/s`, `256 kbit/s` or `1 MiB/s`",
        })?;
        Ok(Self { bits_per_s })
    }
}

impl fmt::Display for HumanRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, factor) in [("Gbit/s", 1_000_000_000), ("Mbit/s", 1_000_000), ("kbit/s", 1000)] {
            if self.bits_per_s >= factor {
                // Thousandths of a unit, without zeros at the end.
                let thousandths = self.bits_per_s / (factor / 1000);
                let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
                return write!(f, "{}{unit}", text.trim_end_matches('0').trim_end_matches('.'));
            }
        }
        write!(f, "{}bit/s", self.bits_per_s)
    }
}

/// A number with an optional fraction of at most six digits, times its unit; exact.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let number = text[..split].replace('_', "");
    let unit = text[split..].trim().to_ascii_lowercase();
    let factor = if unit.is_empty() { 1 } else { units.iter().find(|(name, _)| *name == unit)?.1 };
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if fraction.len() > 6 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let parts = format!("{fraction:0<6}").parse::<u128>().ok()?;
    let millionths = whole.parse::<u64>().ok()? as u128 * 1_000_000 + parts;
    u64::try_from(millionths * u128::from(factor) / 1_000_000).ok()
}

macro_rules! human_serde {
    ($type:ident, $expects:literal, $number:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expects)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$type, E> {
                        let number = u64::try_from(number).map_err(|_| E::custom("it can't be negative"))?;
                        self.visit_u64(number)
                    }

                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$type, E> {
                        let convert: fn(u64) -> Option<$type> = $number;
                        convert(number).ok_or_else(|| E::custom(format!("{number} needs a unit: {}", $expects)))
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }
    };
}

human_serde!(HumanDuration, "a span of time such as \"30s\" or \"5m\"", |number| (number == 0)
    .then(HumanDuration::default));
human_serde!(HumanRate, "a rate such as \"2 Mbit/s\"", |number| (number == 0).then(HumanRate::default));
human_serde!(HumanBytes, "a size such as \"64MiB\"", |number| Some(HumanBytes(number)));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, ms) in [("5m", 300_000), ("1h30m", 5_400_000), ("250ms", 250), ("2 s", 2000), ("7d", 604_800_000)] {
            assert_eq!(text.parse(), Ok(HumanDuration(Duration::from_millis(ms))), "{text}");
        }
        for (text, bytes) in [("64MiB", 64 << 20), ("4096", 4096), ("1.5GiB", 3 << 29), ("10 GB", 10_000_000_000)] {
            assert_eq!(text.parse(), Ok(HumanBytes(bytes)), "{text}");
        }
        for (text, bits_per_s) in [
            ("2 Mbit/s", 2_000_000),
            ("256kbit/s", 256_000),
            ("1.5 MiB/s", 12 << 20),
            ("0", 0),
            ("1 Gbit/s", 1_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(HumanRate { bits_per_s }), "{text}");
        }
        for bad in ["", "5", "2 Mb/s", "2 Mbit", "-1 bit/s"] {
            assert!(bad.parse::<HumanRate>().is_err(), "{bad:?}");
        }
        for bad in ["", "5", "m", "5 parsecs", "-1s", "99999999999999999999s"] {
            assert!(bad.parse::<HumanDuration>().is_err(), "{bad:?}");
        }
        for bad in ["", "MiB", "1.MiB", "-1", "1e9", "99999999TiB"] {
            assert!(bad.parse::<HumanBytes>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn shows_what_it_reads() {
        for text in ["5m", "1h30m", "250ms", "7d"] {
            assert_eq!(text.parse::<HumanDuration>().unwrap().to_string(), text);
        }
        for text in ["2Mbit/s", "256kbit/s", "1.5Gbit/s", "0bit/s", "12.345kbit/s"] {
            assert_eq!(text.parse::<HumanRate>().unwrap().to_string(), text);
        }
        for text in ["64MiB", "1.5GiB", "17B"] {
            assert_eq!(text.parse::<HumanBytes>().unwrap().to_string(), text);
        }
    }
}
