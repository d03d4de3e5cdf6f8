//! Which samples of a version a job reads: all, those that a filter kept, or a fraction of either.

use std::ops::Range;

use rkyv::{Archive, Deserialize, Serialize};

use super::{key, permutation::Key};
use crate::id::ID_BYTES;

/// Parts of one whole that a fraction is counted in.
const WHOLE: u32 = 1_000_000_000;

/// A share of the samples, exact to the billionth, so that every machine counts the same.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction(u32);

impl Fraction {
    /// Every sample.
    pub const ALL: Self = Self(WHOLE);

    /// The fraction `value`, above 0 and up to 1, rounded to billionths.
    pub fn new(value: f64) -> Result<Self, SelectionError> {
        // What is not a number fails as well.
        if !(value > 0.0 && value <= 1.0) {
            return Err(SelectionError::Fraction { value });
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and one billion")]
        let parts = (value * f64::from(WHOLE)).round() as u32;
        if parts == 0 { Err(SelectionError::Fraction { value }) } else { Ok(Self(parts)) }
    }

    /// Itself, if it came from where it could be made.
    pub(super) fn checked(self) -> Result<Self, SelectionError> {
        let made = self.0 > 0 && self.0 <= WHOLE;
        if made { Ok(self) } else { Err(SelectionError::Fraction { value: f64::from(self.0) / f64::from(WHOLE) }) }
    }

    /// How many of `len` samples it takes: rounded down, but one at least where there is one.
    fn of(self, len: u64) -> u64 {
        let taken = u128::from(len) * u128::from(self.0) / u128::from(WHOLE);
        u64::try_from(taken).expect("a fraction is at most the whole").max(len.min(1))
    }
}

/// What is wrong with a selection.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SelectionError {
    /// Not a share of one whole.
    #[error("a fraction of {value} samples can't be taken: it has to be above 0 (a billionth at least) and up to 1")]
    Fraction {
        /// What was given.
        value: f64,
    },
    /// The runs that a filter kept are not ascending, apart from each other, or within the version.
    #[error("samples {}..{} were selected out of order or past the last of {samples}", run.start, run.end)]
    Run {
        /// The run that does not fit.
        run: Range<u64>,
        /// Number of samples of the version.
        samples: u64,
    },
}

/// The samples that a job reads, counted from 0 on in the order of the version.
///
/// A fraction takes one sample of each of as many equal stretches, by chance but always the same for a seed: it is spread over the
/// whole version as evenly as can be, and goes upwards, so that blocks of neighbours stay neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// What the filter kept: runs of neighbours, each with the number of samples in those before it.
    runs: Vec<(u64, Range<u64>)>,
    kept: u64,
    taken: u64,
    key: Key,
}

impl Selection {
    /// All `samples` of `source`.
    pub fn all(source: &[u8; ID_BYTES], samples: u64, seed: u64, fraction: Fraction) -> Self {
        let runs = if samples == 0 { Vec::new() } else { vec![(0, 0..samples)] };
        Self::of_runs(source, runs, samples, seed, fraction)
    }

    /// Those of the `samples` of `source` that lie in `runs`, which ascend.
    pub fn filtered(
        source: &[u8; ID_BYTES],
        samples: u64,
        runs: impl IntoIterator<Item = Range<u64>>,
        seed: u64,
        fraction: Fraction,
    ) -> Result<Self, SelectionError> {
        let mut joined: Vec<(u64, Range<u64>)> = Vec::new();
        let mut kept = 0;
        for run in runs {
            let end = joined.last().map_or(0, |(_, last)| last.end);
            if run.start < end || run.end < run.start || run.end > samples {
                return Err(SelectionError::Run { run, samples });
            }
            if run.is_empty() {
                continue;
            }
            let len = run.end - run.start;
            match joined.last_mut() {
                Some((_, last)) if last.end == run.start => last.end = run.end,
                _ => joined.push((kept, run)),
            }
            kept += len;
        }
        Ok(Self::of_runs(source, joined, kept, seed, fraction))
    }

    fn of_runs(
        source: &[u8; ID_BYTES],
        runs: Vec<(u64, Range<u64>)>,
        kept: u64,
        seed: u64,
        fraction: Fraction,
    ) -> Self {
        Self { runs, kept, taken: fraction.of(kept), key: key(source, seed, "fraction", 0) }
    }

    /// Number of samples in it.
    pub const fn len(&self) -> u64 {
        self.taken
    }

    /// Whether it takes none.
    pub const fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// The number, in the version, of the sample at `index` of the selection.
    pub fn sample(&self, index: u64) -> Option<u64> {
        (index < self.taken).then(|| self.kept_sample(self.chosen(index)))
    }

    /// Where in the selection the sample with this number of the version is, if it is in it.
    pub fn index(&self, sample: u64) -> Option<u64> {
        let run = self.runs.partition_point(|(_, run)| run.end <= sample);
        let (before, run) = self.runs.get(run).filter(|(_, run)| run.contains(&sample))?;
        let kept = before + (sample - run.start);
        // The last stretch that begins at or before it.
        let index = (u128::from(kept + 1) * u128::from(self.taken)).div_ceil(u128::from(self.kept)) - 1;
        let index = u64::try_from(index).expect("a place below the number of samples");
        (self.chosen(index) == kept).then_some(index)
    }

    /// Which of the kept samples stretch `index` gives.
    fn chosen(&self, index: u64) -> u64 {
        let start = self.stretch_start(index);
        start + self.key.number_below(index, self.stretch_start(index + 1) - start)
    }

    fn stretch_start(&self, index: u64) -> u64 {
        let start = u128::from(index) * u128::from(self.kept) / u128::from(self.taken);
        u64::try_from(start).expect("a stretch begins below the number of samples")
    }

    fn kept_sample(&self, kept: u64) -> u64 {
        let run = self.runs.partition_point(|(before, _)| *before <= kept) - 1;
        let (before, run) = &self.runs[run];
        run.start + (kept - before)
    }
}
