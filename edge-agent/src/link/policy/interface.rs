//! What is known of a network interface.

use super::Caps;

/// An interface, or several of similar names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name; a `*` at the end stands for any end.
    pub name: String,
    /// Whether its bytes are paid for.
    pub is_metered: bool,
    /// What may go over it in a second.
    pub caps: Caps,
}

impl Interface {
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.name.strip_suffix('*').map_or(self.name == name, |begin| name.starts_with(begin))
    }
}
