//! Processes are sound: they start, they don't panic, they end when they are killed, and they hold no more memory for what is
//! under way than their budget.

use crate::world::history::{Fact, History};

pub(super) fn check(history: &History) -> Option<String> {
    history.facts.iter().find_map(|(at, fact)| match fact {
        Fact::Broken(what) => Some(format!("{what} (seen at {at} ms)")),
        Fact::OverBudget(bytes) => Some(format!("{bytes} bytes were under way at {at} ms")),
        _ => None,
    })
}
