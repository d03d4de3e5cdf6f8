//! No cap is exceeded: whatever a device sends in any second, with all headers, stays below what its settings say; and what the
//! core sends it in any ten seconds exceeds theirs by a twentieth at most.

use crate::world::history::History;

/// The span, in seconds, in which what comes is shaped.
const DOWN_SPAN_S: u64 = 10;
/// What may come beside it: the core is told of a cap when a session has begun, and what greets a device comes before.
const GREETING_BYTES: u64 = 8 << 10;

pub(super) fn check(history: &History) -> Option<String> {
    history.rules.iter().zip(&history.wire).enumerate().find_map(|(device, (rules, wire))| {
        let up = rules.up_bytes_per_s().filter(|cap| wire.up_second_max > *cap);
        if let Some(cap) = up {
            return Some(format!("device {device} sent {} bytes in a second, of {cap}", wire.up_second_max));
        }
        let allowed = rules.down_bytes_per_s()? * DOWN_SPAN_S * 21 / 20 + GREETING_BYTES;
        let sent = wire.down_span_max;
        (sent > allowed).then(|| format!("device {device} was sent {sent} bytes in {DOWN_SPAN_S} s, of {allowed}"))
    })
}
