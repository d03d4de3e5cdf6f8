//! What must hold of every run of the [world](crate::world). Each checker looks at a whole history and knows nothing of how it
//! came about.

mod acknowledged;
mod budgets;
mod caps;
mod converges;
mod damage;
mod freed;
mod hours;
mod once;
mod receipts;
mod scope;
mod sound;
#[cfg(test)]
mod tests;
mod whole;
mod wire;

use crate::world::history::History;

/// A checker: nothing, or what it found.
type Checker = fn(&History) -> Option<String>;

/// All checkers by name.
pub const CHECKERS: &[(&str, Checker)] = &[
    ("nothing acknowledged is lost", acknowledged::check),
    ("versions are whole", whole::check),
    ("versions commit once", once::check),
    ("receipts are true", receipts::check),
    ("nothing leaves its scope", scope::check),
    ("freed files stay", freed::check),
    ("wire bytes are bounded", wire::check),
    ("no cap is exceeded", caps::check),
    ("closed links are silent", hours::check),
    ("no budget is exceeded", budgets::check),
    ("damage is mended", damage::check),
    ("every run converges", converges::check),
    ("processes are sound", sound::check),
];

/// What all checkers found in a history.
pub fn check(history: &History) -> Vec<String> {
    CHECKERS.iter().filter_map(|(name, checker)| Some(format!("{name}: {}", checker(history)?))).collect()
}
