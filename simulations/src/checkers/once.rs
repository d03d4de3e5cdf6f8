//! A version is committed once: numbers have no gaps and never mean another version, and no version has two numbers.

use std::collections::{BTreeMap, BTreeSet};

use crate::world::history::{Fact, History};

pub(super) fn check(history: &History) -> Option<String> {
    let mut numbers = BTreeMap::new();
    let mut versions = BTreeMap::new();
    let mut passed = BTreeSet::new();
    for (_, fact) in &history.facts {
        let (dataset, number, version) = match fact {
            Fact::Version { dataset, number, version, .. } => {
                let before = (dataset.as_str(), number - 1);
                if *number > 1 && !versions.contains_key(&before) && !passed.contains(&before) {
                    return Some(format!("`{dataset}@{number}` came without the version before it"));
                }
                if let Some(before) = numbers.insert((dataset.as_str(), *version), *number) {
                    return Some(format!("`{dataset}@{number}` was committed before, as number {before}"));
                }
                (dataset, number, version)
            }
            Fact::Passed { dataset, number } => {
                passed.insert((dataset.as_str(), *number));
                continue;
            }
            Fact::Again { dataset, number, version: Ok(version) } | Fact::Receipt { dataset, number, version, .. } => {
                (dataset, number, version)
            }
            _ => continue,
        };
        let known = versions.entry((dataset.as_str(), *number)).or_insert(*version);
        if known != version {
            return Some(format!("`{dataset}@{number}` was {} and is {}", known.short(), version.short()));
        }
    }
    None
}
