//! How long to wait before trying again: longer each time, and never the same for a whole fleet.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
pub(super) const LONGEST: Duration = Duration::from_mins(5);

/// Waits that double, each with jitter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    next: Duration,
    longest: Duration,
    /// The wait that was given last.
    last: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::up_to(LONGEST)
    }
}

impl Backoff {
    /// Waits that grow to `longest`.
    pub(super) fn up_to(longest: Duration) -> Self {
        Self { next: FIRST.min(longest), longest, last: Duration::ZERO }
    }

    /// From now on waits grow to `longest`.
    pub(super) fn grow_to(&mut self, longest: Duration) {
        self.longest = longest;
    }

    /// The next wait: between half of the step and all of it, chosen by `random`.
    pub(super) fn next(&mut self, random: u8) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.longest);
        self.last = step / 2 + step * u32::from(random) / 510;
        self.last
    }

    /// What was waited for was there for this long. Begins anew if that was as long as the wait before it: a core or a link
    /// that comes and goes is then tried about as often as it goes, and one that sends everybody away at once more and more
    /// rarely.
    pub(super) fn was_there(&mut self, lasted: Duration) {
        if lasted >= self.last {
            self.reset();
        }
    }

    /// Something went well: begin anew.
    pub(super) fn reset(&mut self) {
        self.next = FIRST.min(self.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_stay_in_their_range() {
        let mut backoff = Backoff::default();
        let mut step = FIRST;
        for round in 0..20u8 {
            let wait = backoff.next(round.wrapping_mul(37));
            assert!(wait >= step / 2 && wait <= step, "round {round}: {wait:?} of {step:?}");
            step = (step * 2).min(LONGEST);
        }
        backoff.reset();
        assert!(backoff.next(255) <= FIRST);
    }

    #[test]
    fn who_comes_and_goes_is_not_waited_for_longer_and_longer() {
        let mut backoff = Backoff::default();
        for round in 0..50u8 {
            let wait = backoff.next(round.wrapping_mul(37));
            assert!(wait <= Duration::from_secs(16), "round {round}: {wait:?} for sessions of eight seconds");
            backoff.was_there(Duration::from_secs(8));
        }
        for _ in 0..20 {
            backoff.next(255);
            backoff.was_there(Duration::from_millis(10));
        }
        assert_eq!(backoff.next(255), LONGEST, "it ends every session at once");
    }
}
