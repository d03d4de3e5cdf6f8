//! A receipt is true: its signatures are good, and the core has the version that it is for.

use std::collections::BTreeSet;

use crate::world::history::{Fact, History};

pub(super) fn check(history: &History) -> Option<String> {
    let mut at_core = BTreeSet::new();
    let mut passed = BTreeSet::new();
    for (at, fact) in &history.facts {
        match fact {
            Fact::Version { dataset, number, version, .. } => {
                at_core.insert((dataset.as_str(), *number, *version));
            }
            Fact::Passed { dataset, number } => {
                passed.insert((dataset.as_str(), *number));
            }
            Fact::Receipt { dataset, number, is_good: false, .. } => {
                return Some(format!("the receipt for `{dataset}@{number}` is not good"));
            }
            Fact::Receipt { dataset, number, version, .. }
                if !at_core.contains(&(dataset.as_str(), *number, *version))
                    && !passed.contains(&(dataset.as_str(), *number)) =>
            {
                return Some(format!("there is a receipt for `{dataset}@{number}` at {at} ms, and no such version"));
            }
            _ => {}
        }
    }
    None
}
