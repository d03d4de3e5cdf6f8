//! When a transfer is given up because the other side lets it stand still: judged by progress, never by how long a step may
//! take.

use std::time::Duration;

use crate::time::Timestamp;

/// How long a transfer may stand still.
pub const PATIENCE: Duration = Duration::from_mins(2);
/// A receiver that works or waits for its turn says so this often within the other side's patience: a grant of nothing.
const SIGNS_OF_LIFE: u32 = 4;
/// Bytes on the connection that count as progress: more than what keeps an idle one alive, less than the slowest link moves.
const PROGRESS_BYTES_MIN: u64 = 16 << 10;

/// So many times as long a sender may keep what it was granted without sending any of it, whatever signs of life it gives:
/// memory is set aside for it that others may wait for.
const SPANS_WITHOUT_PAYLOAD: u32 = 4;

/// Watches whether what was granted is used; at the sender, whether its own reading goes on.
#[derive(Clone, Copy, Debug)]
pub struct Hoarding {
    span: Duration,
    since: Timestamp,
    payload_bytes: u64,
}

impl Hoarding {
    /// Begins to watch, with the patience that a transfer has.
    pub fn new(patience: Duration, now: Timestamp) -> Self {
        Self { span: patience * SPANS_WITHOUT_PAYLOAD, since: now, payload_bytes: 0 }
    }

    /// So many payload bytes have come by now; `awaited` says whether any are due.
    pub const fn handle_payload(&mut self, now: Timestamp, payload_bytes: u64, awaited: bool) {
        if !awaited || payload_bytes > self.payload_bytes {
            self.payload_bytes = payload_bytes;
            self.since = now;
        }
    }

    /// Whether the sender has kept its grant for too long.
    pub fn is_over(&self, now: Timestamp) -> bool {
        now.since(self.since) >= self.span
    }
}

/// Watches one transfer. It moves if the other side says something of it, or bytes flow on its connection: on a slow link
/// one item can take minutes, and a message that stands behind it as long.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    span: Duration,
    since: Timestamp,
    bytes: u64,
}

impl Patience {
    /// Begins to watch: a transfer may stand still for `span`; `bytes` have travelled on its connection so far.
    pub const fn new(span: Duration, now: Timestamp, bytes: u64) -> Self {
        Self { span, since: now, bytes }
    }

    /// The other side did something for this transfer, or it is not the one whose turn it is.
    pub const fn handle_sign(&mut self, now: Timestamp) {
        self.since = now;
    }

    /// So many bytes have travelled on the connection by now.
    pub const fn handle_bytes(&mut self, now: Timestamp, bytes: u64) {
        if bytes.saturating_sub(self.bytes) >= PROGRESS_BYTES_MIN {
            self.bytes = bytes;
            self.since = now;
        }
    }

    /// Whether the transfer has stood still for too long.
    pub fn is_over(&self, now: Timestamp) -> bool {
        now.since(self.since) >= self.span
    }

    /// How often to look, and, at a receiver, to give a sign of life.
    pub fn look_every(&self) -> Duration {
        self.span / SIGNS_OF_LIFE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_not_kept_for_ever() {
        let at = |seconds| Timestamp::ZERO + Duration::from_secs(seconds);
        let mut slow = Hoarding::new(Duration::from_mins(2), at(0));
        for minute in 1..=100 {
            slow.handle_payload(at(60 * minute), minute, true);
            assert!(!slow.is_over(at(60 * minute)), "a byte a minute is progress");
        }
        for minute in 101..=107 {
            slow.handle_payload(at(60 * minute), 100, true);
            assert!(!slow.is_over(at(60 * minute)));
        }
        slow.handle_payload(at(60 * 108), 100, true);
        assert!(slow.is_over(at(60 * 108)));
        slow.handle_payload(at(60 * 109), 100, false);
        assert!(!slow.is_over(at(60 * 109)), "nothing was due");
    }

    #[test]
    fn standing_still_is_not_the_same_as_taking_long() {
        let at = |seconds| Timestamp::ZERO + Duration::from_secs(seconds);
        let span = Duration::from_mins(2);
        let begun = Patience::new(span, at(0), 5000);
        assert!(!begun.is_over(at(119)) && begun.is_over(at(120)));

        let mut silent = begun;
        for minute in 1..=2 {
            silent.handle_bytes(at(60 * minute), 5000 + 200 * minute);
        }
        assert!(silent.is_over(at(120)), "what keeps the connection alive is no progress");

        let mut slow = begun;
        for second in 1..=6000 {
            slow.handle_bytes(at(second), 5000 + 1000 * second);
            assert!(!slow.is_over(at(second)), "a slow link moves");
        }
        let mut working = begun;
        for quarter in 1..100 {
            working.handle_sign(at(30 * quarter));
            assert!(!working.is_over(at(30 * quarter + 29)));
        }
    }
}
