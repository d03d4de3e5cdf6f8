//! How much a line carries over time: a constant rate, or one that wanders as those of cellular networks do.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::random::Random;

/// Bytes that one crossing of a wandering line lets pass.
const CROSSING_BYTES: u64 = 1500;
/// After so many milliseconds a wandering line begins again.
const WANDERING_MS: u32 = 8_000;
/// For so many milliseconds its rate stays as it is.
const STEP_MS: u32 = 100;
/// More crossings in one millisecond than this don't matter.
const CROSSINGS_PER_MS_MAX: u64 = 4;

/// What a line carries.
#[derive(Clone, Debug)]
pub(super) enum Capacity {
    /// So many bytes per second.
    Constant(u64),
    /// The times, in milliseconds from its begin, at which 1500 bytes may cross, over and over: the form in which
    /// recordings come (Winstein, Sivaraman and Balakrishnan, NSDI 2013).
    Crossings {
        /// They rise; with the last one they begin again.
        crossings_ms: Arc<[u32]>,
        /// When the line was made.
        began: Instant,
        /// How far it was by then, in milliseconds.
        ahead_ms: u64,
    },
}

impl Capacity {
    /// A line whose rate wanders between nothing and twice `rate`, in bytes per second.
    pub(super) fn wandering(rate: u64, random: &mut Random) -> Self {
        let per_step = rate * u64::from(STEP_MS) / 1000;
        let most = CROSSINGS_PER_MS_MAX * u64::from(STEP_MS);
        let (mut crossings_ms, mut share, mut owed) = (Vec::new(), 100, 0);
        for step in 0..WANDERING_MS / STEP_MS {
            share = (share + random.between(0, 80)).saturating_sub(40).min(200);
            // Now and then there is nothing at all for a while.
            let share = if random.once_in(20) { 0 } else { share };
            owed += per_step * share / 100;
            let count = (owed / CROSSING_BYTES).min(most);
            owed %= CROSSING_BYTES;
            crossings_ms.extend((0..count).map(|index| step * STEP_MS + (index * u64::from(STEP_MS) / count) as u32));
        }
        crossings_ms.push(WANDERING_MS);
        Self::Crossings { crossings_ms: crossings_ms.into(), began: Instant::now(), ahead_ms: 0 }
    }

    /// A line that was recorded, from somewhere on.
    pub(super) fn recorded(recording: &Arc<[u32]>, random: &mut Random) -> Self {
        let length = u64::from(recording.last().copied().unwrap_or(1)).max(1);
        Self::Crossings { crossings_ms: Arc::clone(recording), began: Instant::now(), ahead_ms: random.below(length) }
    }

    /// When so many bytes have crossed that begin at `from`.
    pub(super) fn ends(&self, from: Instant, bytes: u64) -> Instant {
        match self {
            Self::Constant(rate) => from + Duration::from_nanos(bytes * 1_000_000_000 / (*rate).max(1)),
            Self::Crossings { crossings_ms, began, ahead_ms } => {
                let length = u64::from(crossings_ms.last().copied().unwrap_or(1)).max(1);
                let since = u64::try_from(from.duration_since(*began).as_millis()).unwrap_or(u64::MAX);
                let since = since.saturating_add(*ahead_ms);
                let (rounds, within) = (since / length, (since % length) as u32);
                let next = crossings_ms.partition_point(|&crossing| crossing <= within);
                // A short datagram waits for a crossing of its own, as in recordings.
                let last = next + (bytes.div_ceil(CROSSING_BYTES).max(1) - 1) as usize;
                let (more, index) = (last / crossings_ms.len(), last % crossings_ms.len());
                let at = (rounds + more as u64) * length + u64::from(crossings_ms[index]);
                *began + Duration::from_millis(at.saturating_sub(*ahead_ms))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crossings_are_played_over_and_over() {
        let began = Instant::now();
        let capacity = Capacity::Crossings { crossings_ms: [10, 10, 50, 100].into(), began, ahead_ms: 0 };
        let ends = |from_ms, bytes| {
            let end = capacity.ends(began + Duration::from_millis(from_ms), bytes);
            end.duration_since(began).as_millis()
        };
        assert_eq!((ends(0, 100), ends(0, 1500), ends(0, 3000), ends(0, 4500)), (10, 10, 10, 50));
        assert_eq!((ends(10, 1), ends(50, 1), ends(50, 1501)), (50, 100, 110));
        assert_eq!((ends(100, 1), ends(250, 3000)), (110, 310));
        let capacity = Capacity::Crossings { crossings_ms: [10, 10, 50, 100].into(), began, ahead_ms: 40 };
        assert_eq!(capacity.ends(began, 1500).duration_since(began).as_millis(), 10);
        assert_eq!(capacity.ends(began, 4500).duration_since(began).as_millis(), 70);
    }
}
