//! What the core has acknowledged it never loses: no chunk that its catalog has, and no version that somebody has seen, but for
//! those that it was told to keep no longer.

use std::collections::BTreeMap;

use crate::world::history::{Fact, GONE, History};

pub(super) fn check(history: &History) -> Option<String> {
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut kept, mut was_damaged) = (None, false);
    for (at, fact) in &history.facts {
        match fact {
            Fact::Collected { keep_last } => kept = *keep_last,
            Fact::Version { dataset, number, .. } => {
                newest.insert(dataset, *number);
            }
            Fact::Passed { dataset, number } if kept.is_none() => {
                return Some(format!("`{dataset}@{number}` came and went by {at} ms, and everything is to be kept"));
            }
            Fact::Damaged { .. } => was_damaged = true,
            Fact::Started { lost_chunks } if *lost_chunks > 0 => {
                return Some(format!("{lost_chunks} chunks were lost, found at {at} ms"));
            }
            // What is damaged is not forgotten: it is for another checker.
            Fact::Again { version: Err(reason), .. } if was_damaged && reason != GONE => {}
            Fact::Again { dataset, number, version: Err(reason) } => {
                let newest = newest.get(dataset.as_str()).copied().unwrap_or_default();
                let is_old = kept.is_some_and(|kept| number + kept <= newest);
                if !(is_old && reason == GONE) {
                    return Some(format!("`{dataset}@{number}` was there and is lost at {at} ms: {reason}"));
                }
            }
            _ => {}
        }
    }
    None
}
