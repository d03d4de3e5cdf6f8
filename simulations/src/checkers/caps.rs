//! No cap is exceeded: whatever a device sends in any second, with all headers, stays below what its settings say.

use crate::world::history::History;

pub(super) fn check(history: &History) -> Option<String> {
    let capped = history.caps.iter().zip(&history.wire).enumerate();
    capped.filter_map(|(device, (cap, wire))| Some((device, (*cap)?, wire.up_second_max))).find_map(
        |(device, cap, most)| (most > cap).then(|| format!("device {device} sent {most} bytes in a second, of {cap}")),
    )
}
