//! A link that is closed by the week is silent: once everybody has had the time to notice, its device sends nothing.

use crate::world::history::History;

pub(super) fn check(history: &History) -> Option<String> {
    let (device, wire) = history.wire.iter().enumerate().find(|(_, wire)| wire.while_closed > 0)?;
    Some(format!("device {device} sent {} bytes over a closed link", wire.while_closed))
}
