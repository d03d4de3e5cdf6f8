//! Wire bytes stay within a bound of what had to move: everything that was written once to the core and once to each who
//! reads it, something for every connection and disturbance, and something for the time.

use crate::world::history::{Fact, History};

/// For each byte that has to move: losses and repeats cost some.
const FACTOR: u64 = 3;
/// For a connection: handshake, greeting, the comparison of catalogs.
const CONNECTION_BYTES: u64 = 48 << 10;
/// For what disturbs a transfer: what was under way then goes again.
const DISTURBANCE_BYTES: u64 = 512 << 10;
/// For a second of quiet.
const SECOND_BYTES: u64 = 100;
/// For the messages and pages of a version.
const VERSION_BYTES: u64 = 16 << 10;

pub(super) fn check(history: &History) -> Option<String> {
    let mut allowed = history.dialled * CONNECTION_BYTES;
    allowed += history.wire.len() as u64 * (history.took_ms / 1000) * SECOND_BYTES;
    for (_, fact) in &history.facts {
        match fact {
            Fact::Wrote { dataset, bytes, .. } => {
                let readers = history.datasets.get(dataset).map_or(0, |dataset| dataset.readers.len());
                allowed += FACTOR * bytes * (1 + readers as u64);
            }
            Fact::Version { dataset, .. } => {
                let readers = history.datasets.get(dataset).map_or(0, |dataset| dataset.readers.len());
                allowed += VERSION_BYTES * (1 + readers as u64);
            }
            Fact::Died { .. } | Fact::Cut { .. } => allowed += DISTURBANCE_BYTES,
            _ => {}
        }
    }
    let sent: u64 = history.wire.iter().map(|link| link.up + link.down).sum();
    (sent > allowed).then(|| format!("{sent} bytes were sent where {allowed} suffice"))
}
