//! From a plan and a seed to a world: its machines, links and folders, and what is to happen to them when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::bugs::Bug;
use super::capacity::Capacity;
use super::core::CoreMachine;
use super::device::{DeviceMachine, DeviceOptions};
use super::history::{Dataset, Fact};
use super::identities::DEVICES_MAX;
use super::net::{CORE, Line, Network};
use super::plan::{LinkPlan, MachinePlan, Plan, Range};
use super::process::{DiskSpeed, Machine, WallClock};
use super::rules::Rules;
use super::trace::Trace;
use super::users::Folder;
use crate::random::Random;
use crate::trouble::Trouble;

/// Wandering lines are no faster than this, in bytes per second.
const WANDERING_RATE_MAX: u64 = 2_500_000;
/// What passes a link that stalls: acknowledgements and signs of life, and no payload.
const SHORT_BYTES: usize = 200;
/// How often devices check in that do.
const CHECK_IN: Duration = Duration::from_mins(1);
/// The core may die within as many operations of its disk.
const AT_DISK_MAX: u64 = 6;
/// A device's disk that is full has room for less than this.
const DEVICE_ROOM_MAX: u64 = 1 << 17;
/// The link of a device once all is well.
const GOOD_RATE: u64 = 2_500_000;

/// Something that happens to the world. `None` for a device is the core.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Cut {
        device: u8,
        up: bool,
        down: bool,
    },
    Mend {
        device: u8,
    },
    ChangeAddress {
        device: u8,
    },
    ChangeLink {
        device: u8,
        up: Box<Line>,
        down: Box<Line>,
    },
    /// Only short datagrams pass from now on, or all again.
    LetPass {
        device: u8,
        longest: usize,
    },
    KillCore {
        power: bool,
    },
    KillCoreAtDisk {
        operations: u32,
        power: bool,
    },
    /// Somebody takes the core's place, until the core starts again.
    TakeOver,
    StartCore,
    KillDevice {
        device: u8,
        power: bool,
    },
    FillDevice {
        device: u8,
        room: u64,
    },
    EmptyDevice {
        device: u8,
    },
    StartDevice {
        device: u8,
    },
    FillDisk {
        room: u64,
    },
    EmptyDisk,
    FailDisk {
        operations: u32,
    },
    CollectGarbage,
    Verify,
    Damage,
    SetClock {
        device: Option<u8>,
        seconds: u64,
    },
    Change {
        device: u8,
    },
    Free {
        device: u8,
    },
    Delete {
        device: u8,
    },
}

/// What is to happen, in order.
pub(super) type Schedule = BTreeMap<(Duration, u64), Event>;

/// Draws what a run is like.
pub(super) struct Setup<'a> {
    pub(super) plan: &'a Plan,
    pub(super) random: Random,
    pub(super) bug: Option<Bug>,
    pub(super) trace: Arc<Trace>,
    /// What is there before anything happens.
    pub(super) facts: Vec<Fact>,
}

impl Setup<'_> {
    /// The machine at an address.
    fn machine(&mut self, network: &Arc<Network>, address: std::net::IpAddr) -> Machine {
        let MachinePlan { disk_ms, clock_wrong, clock_drift, .. } = &self.plan.machine;
        let mut clock = WallClock::new(clock_drift.draw(&mut self.random) as u32);
        if clock_wrong.draw(&mut self.random) {
            clock.set(wrong_time(&mut self.random));
        }
        Machine {
            network: Arc::clone(network),
            address,
            clock: Arc::new(Mutex::new(clock)),
            disk: DiskSpeed {
                latency: Duration::from_millis(disk_ms.draw_scaled(&mut self.random)),
                free_one_in: self.random.between(1, 4),
            },
        }
    }

    /// The core's machine.
    pub(super) fn core(&mut self, network: &Arc<Network>) -> CoreMachine {
        let machine = self.machine(network, CORE.ip());
        let pack_bytes_max = self.plan.machine.pack_kib.draw_scaled(&mut self.random) << 10;
        let keep_last = self.plan.machine.keep_last.draw(&mut self.random) as u32;
        CoreMachine::new(machine, pack_bytes_max, keep_last, self.bug, self.random.split())
    }

    /// All devices with their folders, and what the core is told of them.
    pub(super) fn devices(
        &mut self,
        network: &Arc<Network>,
        core: &CoreMachine,
    ) -> (Vec<DeviceMachine>, BTreeMap<String, Dataset>) {
        let count = self.plan.devices.draw(&mut self.random).min(u64::from(DEVICES_MAX)) as u8;
        let mut datasets = BTreeMap::new();
        let mut readers = Vec::new();
        let mut devices = Vec::new();
        for index in 0..count {
            let line = line(&self.plan.link, &mut self.random);
            network.add_link(line, self::line(&self.plan.link, &mut self.random));
            let forgets_after = self.plan.link.nat_seconds.draw(&mut self.random);
            let nat = self.plan.link.nat.draw(&mut self.random).then(|| Duration::from_secs(forgets_after));
            network.set_nat(index, nat);
            let machine = self.machine(network, Network::address_of(index));
            let subscribes = self.plan.users.subscribes.draw(&mut self.random);
            if subscribes {
                readers.push(index);
            }
            let read_patterns = if subscribes { vec!["open/**".to_owned()] } else { Vec::new() };
            let token = if self.plan.machine.joins.draw(&mut self.random) {
                Some(core.add_token(read_patterns, &mut self.random))
            } else {
                core.add_device(index, read_patterns);
                None
            };
            let options = DeviceOptions {
                scan_every: Duration::from_secs(self.plan.machine.scan_seconds.draw(&mut self.random)),
                // Asking for everything gets what one may read.
                subscription: subscribes.then(|| if self.random.once_in(2) { "**" } else { "open/**" }.to_owned()),
                rules: Rules::draw(&self.plan.link, &mut self.random),
                token,
                check_in: self.plan.link.checks_in.draw(&mut self.random).then_some(CHECK_IN),
                bug: self.bug,
                trace: Arc::clone(&self.trace),
            };
            network.rule(index, options.rules, Arc::clone(&machine.clock));
            let mut device = DeviceMachine::new(index, machine, options, self.random.split());
            self.folders(&mut device, &mut datasets);
            device.set_up();
            devices.push(device);
        }
        for (name, dataset) in &mut datasets {
            if name.starts_with("open/") {
                dataset.readers.clone_from(&readers);
            }
        }
        (devices, datasets)
    }

    fn folders(&mut self, device: &mut DeviceMachine, datasets: &mut BTreeMap<String, Dataset>) {
        let users = &self.plan.users;
        let index = device.index;
        for number in 0..users.folders.draw(&mut self.random) {
            let kind = if users.open.draw(&mut self.random) { "open" } else { "closed" };
            let dataset = format!("{kind}/dev{index}/{number}");
            let path = device.path(&format!("files{number}"));
            let mut folder = Folder::new(dataset.clone(), path, false, users.file_bytes, self.random.split());
            fill(&mut folder, users.files, &mut self.random, &mut self.facts);
            let is_mirror = users.mirror.draw(&mut self.random);
            device.add_folder(folder, is_mirror);
            datasets.insert(dataset, Dataset { writer: index, is_mirror, readers: Vec::new() });
        }
        if users.local.draw(&mut self.random) {
            let path = device.path("diary");
            let mut folder =
                Folder::new(format!("diary-of-dev{index}"), path, true, users.file_bytes, self.random.split());
            fill(&mut folder, users.files, &mut self.random, &mut self.facts);
            device.add_folder(folder, false);
        }
    }

    /// Everything that is to happen, and how long it goes on.
    pub(super) fn schedule(&mut self, devices: u8) -> (Schedule, Duration) {
        let span = Duration::from_secs(self.plan.seconds.draw(&mut self.random));
        let mut drawing = Drawing { random: self.random.split(), span, devices, schedule: Schedule::new() };
        drawing.links(self.plan);
        drawing.machines(self.plan);
        for _ in 0..devices {
            for _ in 0..self.plan.users.changes.draw(&mut drawing.random) {
                drawing.some_time(|device, _| Event::Change { device });
            }
            for _ in 0..self.plan.users.frees.draw(&mut drawing.random) {
                drawing.some_time(|device, _| Event::Free { device });
            }
            for _ in 0..self.plan.users.deletions.draw(&mut drawing.random) {
                drawing.some_time(|device, _| Event::Delete { device });
            }
        }
        (drawing.schedule, span)
    }
}

struct Drawing {
    random: Random,
    span: Duration,
    devices: u8,
    schedule: Schedule,
}

impl Drawing {
    fn at(&mut self, time: Duration, event: Event) {
        self.schedule.insert((time, self.schedule.len() as u64), event);
    }

    fn time(&mut self) -> Duration {
        Duration::from_millis(self.random.below(self.span.as_millis() as u64))
    }

    /// At some time to some device; gives both.
    fn some_time(&mut self, event: impl FnOnce(u8, &mut Random) -> Event) -> (Duration, u8) {
        let (time, device) = (self.time(), self.random.below(u64::from(self.devices)) as u8);
        let event = event(device, &mut self.random);
        self.at(time, event);
        (time, device)
    }

    fn links(&mut self, plan: &Plan) {
        let trouble = &plan.trouble;
        for _ in 0..trouble.cuts.draw(&mut self.random) {
            let (time, device) = self.some_time(|device, random| {
                let one = trouble.one_way.draw(random);
                let up = !one || random.once_in(2);
                Event::Cut { device, up, down: !one || !up }
            });
            let after = Duration::from_millis(trouble.cut_ms.draw_scaled(&mut self.random));
            self.at(time + after, Event::Mend { device });
        }
        for _ in 0..trouble.stalls.draw(&mut self.random) {
            let (time, device) = self.some_time(|device, _| Event::LetPass { device, longest: SHORT_BYTES });
            let after = Duration::from_millis(trouble.stall_ms.draw_scaled(&mut self.random));
            self.at(time + after, Event::LetPass { device, longest: usize::MAX });
        }
        for _ in 0..trouble.address_changes.draw(&mut self.random) {
            self.some_time(|device, _| Event::ChangeAddress { device });
        }
        for _ in 0..trouble.link_changes.draw(&mut self.random) {
            self.some_time(|device, random| {
                let (up, down) = (Box::new(line(&plan.link, random)), Box::new(line(&plan.link, random)));
                Event::ChangeLink { device, up, down }
            });
        }
    }

    fn machines(&mut self, plan: &Plan) {
        let trouble = &plan.trouble;
        for _ in 0..trouble.core_kills.draw(&mut self.random) {
            let (time, _) = self.some_time(|_, random| Event::KillCore { power: trouble.power.draw(random) });
            let down = Duration::from_millis(trouble.down_ms.draw_scaled(&mut self.random));
            self.at(time + down, Event::StartCore);
        }
        for _ in 0..trouble.core_kills_at_disk.draw(&mut self.random) {
            let (time, _) = self.some_time(|_, random| {
                let (operations, power) = (random.between(1, AT_DISK_MAX), trouble.power.draw(random));
                Event::KillCoreAtDisk { operations: operations as u32, power }
            });
            let down = Duration::from_millis(trouble.down_ms.draw_scaled(&mut self.random));
            self.at(time + down, Event::StartCore);
        }
        for _ in 0..trouble.impostors.draw(&mut self.random) {
            let (time, _) = self.some_time(|_, _| Event::TakeOver);
            let lasts = Duration::from_millis(trouble.down_ms.draw_scaled(&mut self.random));
            self.at(time + lasts, Event::StartCore);
        }
        for _ in 0..trouble.device_kills.draw(&mut self.random) {
            let (time, device) =
                self.some_time(|device, random| Event::KillDevice { device, power: trouble.power.draw(random) });
            let down = Duration::from_millis(trouble.down_ms.draw_scaled(&mut self.random));
            self.at(time + down, Event::StartDevice { device });
        }
        for _ in 0..trouble.device_full.draw(&mut self.random) {
            let (time, device) = self.some_time(|device, random| {
                let room = random.below(DEVICE_ROOM_MAX);
                Event::FillDevice { device, room }
            });
            let full = Duration::from_millis(trouble.full_ms.draw_scaled(&mut self.random));
            self.at(time + full, Event::EmptyDevice { device });
        }
        for _ in 0..trouble.core_full.draw(&mut self.random) {
            let (time, _) = self.some_time(|_, random| Event::FillDisk { room: random.below(1 << 16) });
            let full = Duration::from_millis(trouble.full_ms.draw_scaled(&mut self.random));
            self.at(time + full, Event::EmptyDisk);
        }
        for _ in 0..trouble.core_disk_errors.draw(&mut self.random) {
            self.some_time(|_, random| Event::FailDisk { operations: random.between(1, 4) as u32 });
        }
        for _ in 0..trouble.collections.draw(&mut self.random) {
            self.some_time(|_, _| Event::CollectGarbage);
        }
        for _ in 0..trouble.verifications.draw(&mut self.random) {
            self.some_time(|_, _| Event::Verify);
        }
        for _ in 0..trouble.damages.draw(&mut self.random) {
            self.some_time(|_, _| Event::Damage);
        }
        for _ in 0..trouble.clock_jumps.draw(&mut self.random) {
            self.some_time(|device, random| Event::SetClock {
                device: (!random.once_in(2)).then_some(device),
                seconds: wrong_time(random),
            });
        }
    }
}

fn fill(folder: &mut Folder, files: Range, random: &mut Random, facts: &mut Vec<Fact>) {
    for _ in 0..files.draw_scaled(random).max(1) {
        folder.add(Duration::from_secs(1_700_000_000), facts);
    }
}

/// A time that somebody could set a clock to: 1970, long ago, 2050, far ahead.
fn wrong_time(random: &mut Random) -> u64 {
    *random.pick(&[0, 1, 86_400, 946_684_800, 1_700_000_000, 1_800_000_000, 2_524_608_000, 4_102_444_800])
}

/// One direction of a link.
fn line(plan: &LinkPlan, random: &mut Random) -> Line {
    let rate = plan.rate_kbit.draw_scaled(random) * 125;
    let lossy = plan.lossy.draw(random);
    // Of ten thousand, to of a million.
    let mut loss = |range: Range| if lossy { range.draw(random) as u32 * 100 } else { 0 };
    let loss = [loss(plan.loss_good), loss(plan.loss_bad)];
    let turn = |datagrams: u64| (1_000_000 / datagrams.max(1)) as u32;
    Line {
        capacity: match (plan.wandering.draw(random), plan.recordings.is_empty()) {
            (false, _) => Capacity::Constant(rate),
            (true, true) => Capacity::wandering(rate.min(WANDERING_RATE_MAX), random),
            (true, false) => Capacity::recorded(random.pick(&plan.recordings), random),
        },
        delay: Duration::from_millis(plan.delay_ms.draw_scaled(random)),
        jitter: Duration::from_millis(plan.jitter_ms.draw_scaled(random)),
        loss,
        turns: [turn(plan.burst_every.draw_scaled(random)), turn(plan.burst_length.draw_scaled(random))],
        twice: plan.twice.draw(random) as u32 * 100,
        trouble: Trouble {
            lost: 0,
            flipped: plan.flipped.draw(random) as u32 * 100,
            truncated: plan.truncated.draw(random) as u32 * 100,
            replayed: plan.replayed.draw(random) as u32 * 100,
            garbage: plan.garbage.draw(random) as u32 * 100,
        },
        queue: Duration::from_millis(plan.queue_ms.draw_scaled(random)),
    }
}

/// A line as it is once all is well.
pub(super) fn good_line() -> Line {
    Line {
        capacity: Capacity::Constant(GOOD_RATE),
        delay: Duration::from_millis(20),
        jitter: Duration::ZERO,
        loss: [0; 2],
        turns: [0; 2],
        twice: 0,
        trouble: Trouble::default(),
        queue: Duration::from_millis(500),
    }
}
