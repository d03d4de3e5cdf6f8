//! The links that a sender is put onto.

use std::path::Path;

use headwater_quic::Congestion;

use super::link::{Capacity, MS, Nanos, SECOND, Turns};
use super::world::{Bar, Scenario};
use crate::recording;

const MIB: u64 = 1 << 20;
const MBIT: u64 = 1_000_000;
/// A queue as cellular networks have them, and longer ones.
const CELL_QUEUE_BYTES: u64 = 100 * 1500;

fn constant(name: &str, bits: u64, rtt: Nanos, loss_permille: u64, share: f64) -> Scenario {
    Scenario {
        name: name.to_owned(),
        capacity: Capacity::Constant(bits),
        rtt,
        loss_permille,
        turns: None,
        bytes: Some(100 * MIB),
        time: 600 * SECOND,
        rival: None,
        queue_bytes: None,
        bar: Bar::Share(share, 1.5),
    }
}

/// Long round trips, loss, a narrow link, a rival, and a link that comes and goes.
pub fn all() -> Vec<Scenario> {
    let base = || constant("", 20 * MBIT, 200 * MS, 0, 0.92);
    vec![
        constant("20 Mbit/s, 200 ms, no loss", 20 * MBIT, 200 * MS, 0, 0.92),
        constant("20 Mbit/s, 200 ms, 2 % loss", 20 * MBIT, 200 * MS, 20, 0.88),
        constant("20 Mbit/s, 200 ms, 10 % loss", 20 * MBIT, 200 * MS, 100, 0.75),
        constant("20 Mbit/s, 600 ms, 1 % loss", 20 * MBIT, 600 * MS, 10, 0.85),
        Scenario {
            bytes: Some(2 * MIB),
            bar: Bar::Share(0.6, 2.0),
            ..constant("256 kbit/s, 1 s, 5 % loss", 256_000, SECOND, 50, 0.6)
        },
        Scenario {
            name: "20 Mbit/s, 200 ms, beside CUBIC".to_owned(),
            rival: Some(Congestion::Cubic),
            bytes: None,
            time: 120 * SECOND,
            bar: Bar::Between(0.3, 0.7),
            ..base()
        },
        Scenario {
            name: "20 Mbit/s, 200 ms, 10 s up, 20 s down".to_owned(),
            turns: Some(Turns { up: 10 * SECOND, down: 20 * SECOND }),
            bytes: None,
            bar: Bar::UpTime(0.65),
            ..base()
        },
    ]
}

/// A minute over a recorded link: a file with one time in milliseconds a line, at each of which 1500 bytes may cross. Once with
/// a queue of one product, which is a few packets, and once with [`CELL_QUEUE_BYTES`], as base stations have them.
pub fn recorded(path: &Path) -> Result<[Scenario; 2], String> {
    let times = recording::read(path)?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let link = constant(&name, MBIT, 50 * MS, 0, 0.8);
    let short = Scenario {
        capacity: Capacity::Recorded(times),
        bytes: None,
        time: 60 * SECOND,
        bar: Bar::Share(0.8, 3.0),
        ..link
    };
    let long = Scenario {
        name: format!("{name}, queue of {} packets", CELL_QUEUE_BYTES / 1500),
        queue_bytes: Some(CELL_QUEUE_BYTES),
        ..short.clone()
    };
    Ok([short, long])
}
