//! Sets of chunk positions as runs: what acknowledgements and requests consist of.

use std::collections::BTreeMap;

use crate::wire::OrdinalRange;

/// A set of positions in manifest order, kept as runs that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// First position of each run, and the one after its last.
    runs: BTreeMap<u64, u64>,
}

impl Ranges {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the positions of a run.
    pub fn insert(&mut self, range: OrdinalRange) {
        if range.count == 0 {
            return;
        }
        let (mut first, mut end) = (range.first, range.first.saturating_add(range.count));
        while let Some((&run_first, &run_end)) = self.runs.range(..=end).next_back() {
            if run_end < first {
                break;
            }
            first = first.min(run_first);
            end = end.max(run_end);
            self.runs.remove(&run_first);
        }
        self.runs.insert(first, end);
    }

    /// Adds one position.
    pub fn insert_one(&mut self, ordinal: u64) {
        self.insert(OrdinalRange { first: ordinal, count: 1 });
    }

    /// Whether a position is in the set.
    pub fn contains(&self, ordinal: u64) -> bool {
        self.runs.range(..=ordinal).next_back().is_some_and(|(_, &end)| ordinal < end)
    }

    /// Runs in the set.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Positions in the set.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|(first, end)| end - first).sum()
    }

    /// The runs in rising order.
    pub fn iter(&self) -> impl Iterator<Item = OrdinalRange> + '_ {
        self.runs.iter().map(|(&first, &end)| OrdinalRange { first, count: end - first })
    }

    /// Takes the first runs out of the set, at most `runs_max` of them.
    pub fn take(&mut self, runs_max: usize) -> Vec<OrdinalRange> {
        let mut taken = Vec::new();
        while taken.len() < runs_max
            && let Some((first, end)) = self.runs.pop_first()
        {
            taken.push(OrdinalRange { first, count: end - first });
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_of_runs_is_a_set(parts in proptest::collection::vec((0..60u64, 0..9u64), 0..30)) {
            let (mut ranges, mut set) = (Ranges::new(), BTreeSet::new());
            for (first, count) in parts {
                ranges.insert(OrdinalRange { first, count });
                set.extend(first..first + count);
                prop_assert_eq!(ranges.count(), set.len() as u64);
            }
            for ordinal in 0..70 {
                prop_assert_eq!(ranges.contains(ordinal), set.contains(&ordinal));
            }
            let runs: Vec<_> = ranges.iter().collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0].first + pair[0].count < pair[1].first));
            prop_assert_eq!(ranges.take(2).len(), runs.len().min(2));
        }
    }
}
