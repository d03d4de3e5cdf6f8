//! Every run converges: once links, machines and disks have been well for a while, everything is where it should be.

use crate::world::history::{Fact, History};

pub(super) fn check(history: &History) -> Option<String> {
    let ended = history.facts.iter().find_map(|(_, fact)| match fact {
        Fact::Ended(ended) => Some(ended),
        _ => None,
    });
    match ended {
        Some(Ok(())) => None,
        Some(Err(missing)) => Some(missing.clone()),
        None => Some("it did not end".to_owned()),
    }
}
