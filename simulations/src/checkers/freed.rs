//! Files are freed only under a receipt for a version that has them, and then they are in every later version, until
//! somebody writes another file there or deletes them by command.

use std::collections::BTreeMap;

use crate::world::history::{Fact, Files, History};

pub(super) fn check(history: &History) -> Option<String> {
    let mut versions: BTreeMap<(&str, u64), &Files> = BTreeMap::new();
    let mut covered: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    // With the newest version at the time: what is older need not have it.
    let mut freed = BTreeMap::new();
    for (at, fact) in &history.facts {
        match fact {
            Fact::Version { dataset, number, files: Ok(files), .. } => {
                versions.insert((dataset, *number), files);
                let lost = freed.iter().find(|((of, path), (hash, since))| {
                    *of == dataset.as_str() && *number > *since && files.get(*path) != Some(*hash)
                });
                if let Some(((_, path), _)) = lost {
                    return Some(format!("`{path}` was freed and is not in `{dataset}@{number}`"));
                }
            }
            Fact::Receipt { dataset, number, .. } => covered.entry(dataset).or_default().push(*number),
            Fact::Freed { dataset, path, hash } => {
                let numbers = covered.get(dataset.as_str()).map_or(&[][..], Vec::as_slice);
                let has = |number: &u64| {
                    versions.get(&(dataset.as_str(), *number)).is_some_and(|files| files.get(path) == Some(hash))
                };
                if !numbers.iter().any(has) {
                    return Some(format!("`{path}` of `{dataset}` was freed by {at} ms without a receipt"));
                }
                let newest = versions.range((dataset.as_str(), 0)..=(dataset.as_str(), u64::MAX)).next_back();
                let newest = newest.map_or(0, |((_, number), _)| *number);
                freed.insert((dataset.as_str(), path), (hash, newest));
            }
            Fact::Wrote { dataset, path, .. } | Fact::Deleted { dataset, path } => {
                freed.remove(&(dataset.as_str(), path));
            }
            _ => {}
        }
    }
    None
}
