//! How soon a model update gets through while a device sends as much as its link carries: the shipping daemons in virtual time.
//!
//! The device sends a large file, and has an urgent dataset, in which a version becomes ready all of a sudden. Its datagrams are
//! encrypted; so what is watched is when its first item comes out at the core, and when the datagram with which that came
//! left the device.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use edge_agent::catalog::Role;
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::capacity::Capacity;
use super::core::CoreMachine;
use super::device::{DeviceMachine, DeviceOptions};
use super::net::{CORE, Line, Network};
use super::plan::Range;
use super::process::{DiskSpeed, Machine, WallClock, lock};
use super::trace::Trace;
use super::users::Folder;
use crate::random::Random;
use crate::trouble::Trouble;

/// 20 Mbit/s.
const RATE: u64 = 2_500_000;
/// Bytes of the large file.
const BULK_BYTES: u64 = 40_000_000;
/// When the update is written: the large file is being sent, and the link is full.
const UPDATE_AT: Duration = Duration::from_secs(8);
/// How often is looked whether it is ready.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// It must have come by then.
const PATIENCE: Duration = Duration::from_mins(2);

/// How soon an update got through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstByte {
    /// From when it was ready until its first byte left the device.
    pub left_after: Duration,
    /// The round trip as it was then, with what waited in the queue.
    pub round_trip: Duration,
}

/// The round trips of empty links, in milliseconds, and the losses, in a million each way, that are measured. Where packets are
/// lost the update's may be among them.
pub const FULL_LINKS: &[(u64, u32)] = &[(20, 0), (200, 0), (600, 0), (200, 20_000)];

/// Sends an update over a link of 20 Mbit/s that is full.
pub fn first_byte(round_trip: Duration, loss: u32) -> FirstByte {
    super::alone(async move { play(round_trip, loss).await })
}

async fn play(round_trip: Duration, loss: u32) -> FirstByte {
    let network = Network::new(Random::new(1), Arc::new(Trace::new(None)));
    let line = || Line {
        capacity: Capacity::Constant(RATE),
        delay: round_trip / 2,
        jitter: Duration::ZERO,
        loss: [loss; 2],
        turns: [0; 2],
        twice: 0,
        queue: round_trip,
        trouble: Trouble::default(),
    };
    network.add_link(line(), line());
    let machine = |address| Machine {
        network: Arc::clone(&network),
        address,
        clock: Arc::new(Mutex::new(WallClock::new(0))),
        disk: DiskSpeed { latency: Duration::ZERO, free_one_in: 1 },
    };
    let mut core = CoreMachine::new(machine(CORE.ip()), 64 << 20, 0, None, Random::new(2));
    core.set_default_memory();
    core.add_device(0, Vec::new());
    let options =
        DeviceOptions { scan_every: Duration::from_secs(1), ..DeviceOptions::new(Arc::new(Trace::new(None))) };
    let mut device = DeviceMachine::new(0, machine(Network::address_of(0)), options, Random::new(3));
    for (name, bytes, is_urgent) in [("bulk", BULK_BYTES, false), ("update", 300_000, true)] {
        let path = device.path(name);
        let mut folder = Folder::new(name.to_owned(), path, false, Range::of(bytes, bytes), Random::new(bytes));
        folder.add_noise(Duration::from_secs(1_700_000_000), bytes.min(BULK_BYTES));
        device.add_folder(folder, true);
        if is_urgent {
            device.set_urgent(name);
        }
    }
    device.set_up();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let watching = tracing::subscriber::set_default(Watch { network: Arc::clone(&network), seen: Arc::clone(&seen) });
    let carrying = tokio::spawn(Arc::clone(&network).carry());
    core.start();
    device.start();
    tokio::time::sleep(UPDATE_AT).await;
    let clock = device.clock();
    device.folders[1].add_noise(clock, 300_000);
    let ready = until_ready(&device).await;
    let known = lock(&seen).transfers.len();
    let agent = device.agent().expect("it runs");
    let connected = agent.link().borrow().connected.clone().expect("it is sending");
    let round_trip = connected.link.stats().rtt;
    drop((agent, connected));
    let until = Instant::now() + PATIENCE;
    while lock(&seen).transfers.len() == known {
        assert!(Instant::now() < until, "the update did not come");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let (_, left) = lock(&seen).transfers[known];
    drop(watching);
    device.kill();
    core.kill(false);
    carrying.abort();
    FirstByte { left_after: left.saturating_duration_since(ready), round_trip }
}

/// Waits until the device's catalog has the update's version, which is then ready to be sent.
async fn until_ready(device: &DeviceMachine) -> Instant {
    loop {
        if let Some(agent) = device.agent() {
            let catalog = agent.catalog();
            let rows = catalog.datasets().unwrap_or_default();
            let row = rows.into_iter().find(|row| row.name == "update" && row.role == Role::Publish);
            let pending = row.and_then(|row| catalog.pending(row.id).ok().flatten());
            if pending.is_some_and(|version| version.number > 1) {
                return Instant::now();
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What came out at the core.
#[derive(Debug, Default)]
struct Seen {
    /// Transfers in the order of their first items, and when the datagram that completed the first one's header left.
    transfers: Vec<(u64, Instant)>,
}

/// Listens to what the session says of items.
struct Watch {
    network: Arc<Network>,
    seen: Arc<Mutex<Seen>>,
}

impl Subscriber for Watch {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("headwater_quic::transfer::items")
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut found = TransferOf(None);
        event.record(&mut found);
        let (Some(transfer), Some(left)) = (found.0, self.network.last_up_left(0)) else { return };
        let mut seen = lock(&self.seen);
        if !seen.transfers.iter().any(|(known, _)| *known == transfer) {
            seen.transfers.push((transfer, left));
        }
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

/// The number of the transfer that an event is about.
struct TransferOf(Option<u64>);

impl Visit for TransferOf {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "transfer" {
            self.0 = Some(value);
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn std::fmt::Debug) {}
}
