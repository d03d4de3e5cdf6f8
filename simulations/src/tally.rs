//! How much happened in runs, by what it was: to see that they were worth their time, and that everything that can happen did.

use std::collections::BTreeMap;
use std::fmt;

/// What happened, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// `what` happened so many times more.
    pub fn count(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    /// How often `what` happened.
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    /// Adds what happened in other runs.
    pub fn add(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            self.count(what, *times);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (what, times)) in self.0.iter().enumerate() {
            write!(f, "{}{times} {what}", if place == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_adds_up() {
        let mut tally = Tally::default();
        tally.count("cuts", 2);
        let mut other = Tally::default();
        other.count("bytes", 7);
        other.count("cuts", 1);
        tally.add(&other);
        assert_eq!((tally.of("cuts"), tally.of("bytes"), tally.of("kills")), (3, 7, 0));
        assert_eq!(tally.to_string(), "7 bytes, 3 cuts");
    }
}
