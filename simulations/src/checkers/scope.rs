//! Nothing leaves its scope: a subscriber holds only what it may read, and of a local dataset the core knows nothing.

use crate::world::history::{Fact, History};

pub(super) fn check(history: &History) -> Option<String> {
    history.facts.iter().find_map(|(_, fact)| match fact {
        Fact::Leaked(what) => Some(what.clone()),
        Fact::Held { device, dataset, .. } => {
            let may_read = history
                .datasets
                .get(dataset)
                .is_some_and(|found| found.writer == *device || found.readers.contains(device));
            (!may_read).then(|| format!("device {device} holds `{dataset}`"))
        }
        _ => None,
    })
}
