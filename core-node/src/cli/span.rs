//! Spans of time as people type them: `90s`, `30m`, `12h`, `1d`, `2w`.

const UNITS: [(char, u64); 5] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400), ('w', 604_800)];

/// Seconds in `text`.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no span of time; write 90s, 30m, 12h, 1d or 2w");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let (digits, scale) = match UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, scale)) => (&text[..text.len() - 1], *scale),
        None => (text, 1),
    };
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    count.checked_mul(scale).filter(|&seconds| seconds > 0).ok_or_else(wrong)
}

/// `seconds` in the largest unit that says it without being long: `3 d`, `5 h`, `90 s`.
pub(super) fn show(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read() {
        for (text, seconds) in
            [("90", 90), ("90s", 90), ("30m", 1800), ("12h", 43_200), ("1d", 86_400), ("2w", 1_209_600)]
        {
            assert_eq!(parse(text), Ok(seconds), "{text}");
        }
        for bad in ["", "d", "0s", "-1d", "1y", "99999999999999999w"] {
            assert!(parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
