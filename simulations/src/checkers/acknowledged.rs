//! What the core has acknowledged it never loses: no chunk that its catalog has, and no version that somebody has seen.

use crate::world::history::{Fact, History};

pub(super) fn check(history: &History) -> Option<String> {
    history.facts.iter().find_map(|(at, fact)| match fact {
        Fact::Started { lost_chunks } if *lost_chunks > 0 => {
            Some(format!("{lost_chunks} chunks were lost, found at {at} ms"))
        }
        Fact::Again { dataset, number, version: Err(reason) } => {
            Some(format!("`{dataset}@{number}` was there and is lost at {at} ms: {reason}"))
        }
        _ => None,
    })
}
