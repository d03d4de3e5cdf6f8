//! No budget is exceeded: what goes over a device's link in a month of its clock, both ways, is no more than that may cost.

use crate::world::history::History;

pub(super) fn check(history: &History) -> Option<String> {
    history.rules.iter().zip(&history.wire).enumerate().find_map(|(device, (rules, wire))| {
        let (allowed, cost) = (rules.month_bytes()?, wire.month_max);
        (cost > allowed).then(|| format!("a month of device {device} cost {cost} bytes, of {allowed}"))
    })
}
