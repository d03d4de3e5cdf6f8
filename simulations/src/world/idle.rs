//! What a device costs that has nothing to do: the shipping daemons over virtual days, every byte of every datagram to and from the
//! device counted, with the headers of IP and UDP. And how long the next model update takes to reach it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use core_node::catalog::DatasetTable;
use tokio::time::Instant;

use super::core::CoreMachine;
use super::device::{DeviceMachine, DeviceOptions};
use super::history::{Fact, Files};
use super::net::{CORE, Network};
use super::plan::Range;
use super::process::{DiskSpeed, Machine, WallClock};
use super::setup::good_line;
use super::trace::Trace;
use super::users::Folder;
use crate::random::Random;

/// A day.
pub const DAY: Duration = Duration::from_hours(24);
/// Until then everything has been sent that there was at the start.
const SETTLED: Duration = Duration::from_mins(10);
/// How often is looked whether the update has come.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The device that publishes the model, which is not measured.
const TRAINER: usize = 1;
/// Its dataset.
const MODEL: &str = "open/model";

/// How a device is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idling {
    /// In words.
    pub name: &'static str,
    /// It checks in so often, instead of staying connected.
    pub check_in: Option<Duration>,
    /// Between it and the core is a NAT that forgets it after so much silence of the device.
    pub nat: Option<Duration>,
    /// Its address changes so often.
    pub readdressed: Option<Duration>,
    /// The most bytes that a day may cost.
    pub bar_bytes: Option<u64>,
}

/// What it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleCost {
    /// Bytes that the device sent in a day.
    pub up_bytes: u64,
    /// Bytes that were sent to it.
    pub down_bytes: u64,
    /// How long after the core had an update the device had it.
    pub update_after: Duration,
}

impl IdleCost {
    /// Both ways.
    pub const fn bytes(&self) -> u64 {
        self.up_bytes + self.down_bytes
    }
}

/// What is measured.
pub const IDLING: &[Idling] = &[
    Idling { name: "kept", check_in: None, nat: None, readdressed: None, bar_bytes: None },
    Idling {
        name: "kept, behind a NAT that forgets after 30 s",
        check_in: None,
        nat: Some(Duration::from_secs(30)),
        readdressed: None,
        bar_bytes: None,
    },
    Idling {
        name: "kept, behind a NAT that forgets after 10 s",
        check_in: None,
        nat: Some(Duration::from_secs(10)),
        readdressed: None,
        bar_bytes: None,
    },
    Idling {
        name: "kept, another address every hour",
        check_in: None,
        nat: None,
        readdressed: Some(Duration::from_hours(1)),
        bar_bytes: None,
    },
    Idling {
        name: "check-ins every hour",
        check_in: Some(Duration::from_hours(1)),
        nat: Some(Duration::from_secs(30)),
        readdressed: None,
        bar_bytes: Some(200_000),
    },
    Idling {
        name: "check-ins every ten minutes",
        check_in: Some(Duration::from_mins(10)),
        nat: Some(Duration::from_secs(30)),
        readdressed: None,
        bar_bytes: Some(800_000),
    },
];

/// Lets a device idle for so long, and then publishes an update for it; the bytes are those of a day.
pub fn idle(idling: Idling, lasts: Duration) -> IdleCost {
    super::alone(async move { play(idling, lasts).await })
}

async fn play(idling: Idling, lasts: Duration) -> IdleCost {
    let network = Network::new(Random::new(1), Arc::new(Trace::new(None)));
    let mut world = Pair::new(&network, idling.check_in, Random::new(2));
    network.set_nat(0, idling.nat);
    let carrying = tokio::spawn(Arc::clone(&network).carry());
    world.start();
    tokio::time::sleep(SETTLED).await;
    let (before, ends) = (network.bytes(0), Instant::now() + lasts);
    while let Some(every) = idling.readdressed.filter(|every| Instant::now() + *every < ends) {
        tokio::time::sleep(every).await;
        network.change_address(0);
    }
    tokio::time::sleep_until(ends).await;
    let after = network.bytes(0);
    let update_after = world.update().await;
    world.stop();
    carrying.abort();
    let of_a_day = |bytes: u64| (u128::from(bytes) * DAY.as_millis() / lasts.as_millis()) as u64;
    IdleCost { up_bytes: of_a_day(after.up - before.up), down_bytes: of_a_day(after.down - before.down), update_after }
}

/// A core, a device that has a camera and follows a model, and the device that publishes the model.
struct Pair {
    core: CoreMachine,
    devices: Vec<DeviceMachine>,
}

impl Pair {
    fn new(network: &Arc<Network>, check_in: Option<Duration>, mut random: Random) -> Self {
        let machine = |address| Machine {
            network: Arc::clone(network),
            address,
            clock: Arc::new(Mutex::new(WallClock::new(0))),
            disk: DiskSpeed { latency: Duration::ZERO, free_one_in: 1 },
        };
        let core = CoreMachine::new(machine(CORE.ip()), 1 << 20, 0, None, random.split());
        let mut devices = Vec::new();
        for index in 0..2u8 {
            network.add_link(good_line(), good_line());
            let is_trainer = usize::from(index) == TRAINER;
            core.add_device(index, if is_trainer { Vec::new() } else { vec![MODEL.to_owned()] });
            let options = DeviceOptions {
                scan_every: Duration::from_mins(5),
                subscription: (!is_trainer).then(|| MODEL.to_owned()),
                check_in: check_in.filter(|_| !is_trainer),
                ..DeviceOptions::new(Arc::new(Trace::new(None)))
            };
            let mut device = DeviceMachine::new(index, machine(Network::address_of(index)), options, random.split());
            let name = if is_trainer { MODEL } else { "cam/north" };
            let path = device.path("files");
            let mut folder = Folder::new(name.to_owned(), path, false, Range::of(1000, 20_000), random.split());
            for _ in 0..4 {
                folder.add(Duration::from_secs(1_700_000_000), &mut Vec::new());
            }
            device.add_folder(folder, true);
            device.set_up();
            devices.push(device);
        }
        Self { core, devices }
    }

    fn start(&mut self) {
        self.core.start();
        self.devices.iter_mut().for_each(DeviceMachine::start);
    }

    fn stop(&mut self) {
        self.devices.iter_mut().for_each(DeviceMachine::kill);
        self.core.kill(false);
    }

    /// Another version of the model: how long after the core has it the device has it.
    async fn update(&mut self) -> Duration {
        let head = self.head();
        let clock = self.devices[TRAINER].clock();
        self.devices[TRAINER].folders[0].add(clock, &mut Vec::new());
        while self.head() == head {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let since = Instant::now();
        let newest = self.devices[TRAINER].folders[0].files.clone();
        while self.held().get(MODEL) != Some(&newest) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        since.elapsed()
    }

    fn head(&self) -> u64 {
        let found = self.core.catalog.dataset(MODEL).expect("in memory");
        found.and_then(|record| record.head).map_or(0, |head| head.number)
    }

    fn held(&self) -> BTreeMap<String, Files> {
        let held = self.devices[0].held().into_iter();
        held.filter_map(|fact| match fact {
            Fact::Held { dataset, files, .. } => Some((dataset, files)),
            _ => None,
        })
        .collect()
    }
}
