//! A run: what is scheduled happens at its time, the world is looked at before and after, and then it has to come to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use headwater_host::disk::Disk;
use headwater_protocol::id::VersionId;

use super::bugs::Bug;
use super::contents::SECRET;
use super::core::CoreMachine;
use super::device::DeviceMachine;
use super::disk::Disks;
use super::history::{Dataset, Fact, Files, History};
use super::net::Network;
use super::plan::Plan;
use super::rest::Rest;
use super::setup::{Event, Schedule, Setup, good_line};
use super::trace::{Trace, TraceSink};
use crate::random::Random;

/// How long everything may take to come to rest once all is well: the longest waits of the agent, and the time to move what
/// there is.
const REST_MAX: Duration = Duration::from_mins(20);
/// How often is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So much before its end, and a little more, a month's budget closes a link.
const CLOSING_BYTES: u64 = 5 << 18;
/// How long the tasks of a killed process may take to be gone, in steps of a millisecond.
const GONE_STEPS_MAX: u32 = 1000;

/// The world of a run.
pub(super) struct World {
    pub(super) network: Arc<Network>,
    pub(super) trace: Arc<Trace>,
    pub(super) core: CoreMachine,
    pub(super) devices: Vec<DeviceMachine>,
    pub(super) datasets: BTreeMap<String, Dataset>,
    random: Random,
    disks: Arc<Disks>,
    /// Devices whose power went, and whose subscriptions nobody has looked at since.
    pub(super) lost_power: BTreeSet<u8>,
    pub(super) bug: Option<Bug>,
    pub(super) facts: Vec<(u64, Fact)>,
    /// Versions that were seen at the core, and their files.
    pub(super) versions: BTreeMap<(String, u64), (VersionId, Option<Files>)>,
    pub(super) receipts: BTreeSet<(String, VersionId)>,
    pub(super) rest: Rest,
    /// Every version is to be read again.
    pub(super) looks_again: bool,
    /// Something of the core's packs was damaged.
    pub(super) was_damaged: bool,
}

impl World {
    /// Plays a seed to its end; gives what happened, the hash of the trace, and its length.
    pub(super) async fn play(
        seed: u64,
        plan: &Plan,
        bug: Option<Bug>,
        sink: Option<TraceSink>,
    ) -> (History, String, u64) {
        let mut random = Random::new(seed);
        let trace = Arc::new(Trace::new(sink));
        let network = Network::new(random.split(), Arc::clone(&trace));
        let mut setup = Setup { plan, random: random.split(), bug, trace: Arc::clone(&trace), facts: Vec::new() };
        let core = setup.core(&network);
        let (devices, datasets) = setup.devices(&network, &core);
        let (schedule, span) = setup.schedule(devices.len() as u8);
        let disks = Arc::<Disks>::default();
        for device in &devices {
            for folder in device.disk_folders() {
                disks.add(&folder, bug == Some(Bug::SkipsDeviceSync));
            }
        }
        headwater_host::disk::put_below_thread(Some(Arc::clone(&disks) as Arc<dyn Disk>));
        let mut world = Self {
            network,
            trace,
            core,
            devices,
            datasets,
            random,
            disks,
            lost_power: BTreeSet::new(),
            bug,
            facts: Vec::new(),
            versions: BTreeMap::new(),
            receipts: BTreeSet::new(),
            rest: Rest::default(),
            looks_again: false,
            was_damaged: false,
        };
        for (name, dataset) in &world.datasets {
            world.trace.line(&format!("`{name}`: {dataset:?}"));
        }
        for fact in setup.facts {
            world.fact(fact);
        }
        let carrying = tokio::spawn(Arc::clone(&world.network).carry());
        world.core.start();
        for device in &mut world.devices {
            device.start();
        }
        world.trouble(schedule, span).await;
        world.make_well().await;
        world.come_to_rest().await;
        world.last_power_cut().await;
        carrying.abort();
        headwater_host::disk::put_below_thread(None);
        let (hash, lines) = world.trace.hash();
        (world.into_history(), hash, lines)
    }

    fn into_history(self) -> History {
        History {
            wire: (0..self.devices.len() as u8).map(|device| self.network.bytes(device)).collect(),
            rules: self.devices.iter().map(DeviceMachine::rules).collect(),
            datagrams: self.network.befallen(),
            dialled: self.network.sockets_bound(),
            took_ms: self.trace.now_ms(),
            facts: self.facts,
            datasets: self.datasets,
        }
    }

    pub(super) fn fact(&mut self, fact: Fact) {
        let shown = format!("{fact:?}");
        self.trace.line(&shown);
        self.rest.take(&fact);
        self.facts.push((self.trace.now_ms(), fact));
    }

    /// Something of this kind was done.
    pub(super) fn did(&mut self, kind: &'static str) {
        self.fact(Fact::Did(kind));
    }

    async fn trouble(&mut self, schedule: Schedule, span: Duration) {
        let began = tokio::time::Instant::now();
        for ((at, _), event) in schedule {
            // What would end after the trouble ends with it.
            if at >= span {
                break;
            }
            tokio::time::sleep_until(began + at).await;
            self.observe();
            self.apply(event).await;
            self.observe();
        }
        tokio::time::sleep_until(began + span).await;
        self.observe();
    }

    async fn apply(&mut self, event: Event) {
        match &event {
            Event::ChangeLink { device, .. } => self.trace.line(&format!("another link for device {device}")),
            event => self.trace.line(&format!("{event:?}")),
        }
        match event {
            Event::Cut { device, up, down } => {
                self.network.cut(device, up, down);
                self.fact(Fact::Cut { device });
                self.did(if up && down { "links cut" } else { "links cut one way" });
            }
            Event::Mend { device } => self.network.cut(device, false, false),
            Event::LetPass { device, longest } => {
                self.network.let_pass_only(device, longest);
                self.fact(Fact::Cut { device });
                if longest < usize::MAX {
                    self.did("links stalled");
                }
            }
            Event::ChangeAddress { device } => {
                self.network.change_address(device);
                self.did("addresses changed");
            }
            Event::ChangeLink { device, up, down } => {
                self.network.set_lines(device, *up, *down);
                self.did("links changed");
            }
            Event::KillCore { power } => {
                self.kill_core(power).await;
                self.did(if power { "cores without power" } else { "cores killed" });
            }
            Event::KillCoreAtDisk { operations, power } => self.core.kill_at_disk(operations, power),
            Event::TakeOver => self.take_over().await,
            Event::StartCore => self.start_core(),
            Event::KillDevice { device, power } => {
                self.kill_device(device, power).await;
                self.did(if power { "devices without power" } else { "devices killed" });
            }
            Event::FillDevice { device, room } => {
                self.fill_device(device, Some(room));
                self.did("device's disk full");
            }
            Event::EmptyDevice { device } => self.fill_device(device, None),
            Event::StartDevice { device } => self.start_device(device),
            Event::FillDisk { room } => {
                self.core.set_room(Some(room));
                self.did("core's disk full");
            }
            Event::EmptyDisk => self.core.set_room(None),
            Event::FailDisk { operations } => {
                self.core.fail(operations);
                self.did("core's disk failing");
            }
            Event::CollectGarbage => {
                if let Some(keep_last) = self.core.collect_garbage() {
                    self.fact(Fact::Collected { keep_last: Some(keep_last).filter(|&keep| keep > 0) });
                    self.did("garbage collections");
                    self.looks_again = true;
                }
            }
            Event::Verify => {
                if self.core.verify() {
                    self.did("verifications");
                }
            }
            Event::Damage => {
                if let Some(pack) = self.core.damage() {
                    self.was_damaged = true;
                    self.fact(Fact::Damaged { pack: pack.0 });
                    self.did("packs damaged");
                }
            }
            Event::SetClock { device, seconds } => {
                match device {
                    None => self.core.set_clock(seconds),
                    Some(device) => self.devices[usize::from(device)].set_clock(seconds),
                }
                self.did("clocks set");
            }
            Event::Change { device } => {
                let device = &mut self.devices[usize::from(device)];
                let (clock, at) = (device.clock(), self.random.below(device.folders.len() as u64) as usize);
                let mut facts = device.deletions();
                let (changes, kinds) = device.folders[at].change(clock);
                facts.extend(changes);
                for fact in facts {
                    self.fact(fact);
                }
                for kind in kinds {
                    self.did(kind);
                }
            }
            Event::Free { device } => {
                let device = &mut self.devices[usize::from(device)];
                let at = self.random.below(device.folders.len() as u64) as usize;
                device.free(at);
            }
            Event::Delete { device } => {
                let device = &mut self.devices[usize::from(device)];
                let at = self.random.below(device.folders.len() as u64) as usize;
                device.delete(at);
            }
        }
    }

    async fn kill_core(&mut self, power: bool) {
        self.observe_death();
        if self.core.is_running() {
            self.core.kill(power);
            self.fact(Fact::Died { who: "core".to_owned(), power });
            for _ in 0..GONE_STEPS_MAX {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if self.core.is_gone() {
                    return;
                }
            }
            self.fact(Fact::Broken("tasks of the killed core go on".to_owned()));
        }
    }

    /// Somebody takes the core's place who wants all that is local.
    async fn take_over(&mut self) {
        self.kill_core(false).await;
        self.end_impostor();
        let (mut fetches, mut pages) = (Vec::new(), Vec::new());
        for (versions, hashes) in self.devices.iter().map(DeviceMachine::secrets) {
            fetches.extend(versions);
            pages.extend(hashes);
        }
        self.core.take_over(fetches, pages);
        self.did("cores taken over");
    }

    /// Whoever has the core's place loses it, and is asked what was heard.
    fn end_impostor(&mut self) {
        let Some(heard) = self.core.take_back() else { return };
        self.trace.line(&format!("the impostor heard {} messages", heard.messages.len()));
        for _ in 0..heard.sessions {
            self.did("sessions with an impostor");
        }
        let locals = self.devices.iter().flat_map(|device| &device.folders).filter(|folder| folder.is_local);
        let named: Vec<String> = locals.map(|folder| folder.dataset.clone()).collect();
        let leaks = named.iter().filter(|name| heard.offers.contains(name) || heard.holds(SECRET));
        let leak = leaks.map(|name| format!("an impostor was told of `{name}`")).next();
        let leak = leak.or_else(|| (heard.item_bytes > 0).then(|| "an impostor got what it asked for".to_owned()));
        if let Some(leak) = leak {
            self.fact(Fact::Leaked(leak));
        }
    }

    fn start_core(&mut self) {
        self.end_impostor();
        if !self.core.is_running() {
            self.core.start();
        }
    }

    fn fill_device(&mut self, index: u8, room: Option<u64>) {
        let device = &mut self.devices[usize::from(index)];
        for folder in device.disk_folders() {
            self.disks.set_room(&folder, room);
        }
        device.fill(room);
    }

    async fn kill_device(&mut self, index: u8, power: bool) {
        if self.devices[usize::from(index)].is_running() {
            self.devices[usize::from(index)].kill();
            self.fact(Fact::Died { who: format!("device {index}"), power });
            for _ in 0..GONE_STEPS_MAX {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if self.devices[usize::from(index)].is_gone() {
                    if power {
                        self.cut_power_of(index);
                    }
                    return;
                }
            }
            self.fact(Fact::Broken(format!("tasks of the killed device {index} go on")));
        }
    }

    fn cut_power_of(&mut self, index: u8) {
        let folders = self.devices[usize::from(index)].disk_folders();
        let lost: u64 = folders.iter().map(|folder| self.disks.lose_power(folder, &mut self.random)).sum();
        self.trace.line(&format!("device {index} has lost {lost} files and names"));
        if lost > 0 {
            self.did("devices that lost what was not synced");
        }
        self.lost_power.insert(index);
    }

    fn start_device(&mut self, index: u8) {
        let device = &mut self.devices[usize::from(index)];
        if !device.is_running() {
            device.start();
        }
    }

    /// From now on nothing goes wrong any more.
    async fn make_well(&mut self) {
        self.trace.line("all is well");
        for device in 0..self.devices.len() as u8 {
            self.network.cut(device, false, false);
            self.network.let_pass_only(device, usize::MAX);
            self.network.set_lines(device, good_line(), good_line());
        }
        for device in 0..self.devices.len() as u8 {
            self.fill_device(device, None);
            self.lift_budget(device).await;
        }
        self.core.spare();
        self.observe_death();
        self.core.set_room(None);
        self.core.fail(0);
        self.start_core();
        for device in 0..self.devices.len() as u8 {
            self.start_device(device);
        }
        // A millisecond for the processes to be there.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// A month that is spent would last longer than the world: from now on it may cost what it will.
    async fn lift_budget(&mut self, index: u8) {
        let device = &self.devices[usize::from(index)];
        if device.rules().month_mib.is_none() {
            return;
        }
        self.did(if self.has_spent_month(index) { "months spent" } else { "months with budgets" });
        self.kill_device(index, false).await;
        let device = &mut self.devices[usize::from(index)];
        let clock = Arc::clone(&device.machine.clock);
        self.network.rule(index, device.lift_budget(), clock);
    }

    /// Whether a month has cost a device nearly all that it may.
    fn has_spent_month(&self, index: u8) -> bool {
        let allowed = self.devices[usize::from(index)].rules().month_bytes();
        allowed.is_some_and(|allowed| self.network.bytes(index).month_max + CLOSING_BYTES >= allowed)
    }

    async fn come_to_rest(&mut self) {
        let began = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.observe();
            let held = if self.rest.wants_held() {
                self.devices.iter().flat_map(DeviceMachine::held).collect()
            } else {
                vec![]
            };
            for fact in held {
                if self.rest.is_new(&fact) {
                    self.fact(fact);
                }
            }
            if self.was_damaged && !self.is_mended(began.elapsed()) && began.elapsed() <= REST_MAX {
                continue;
            }
            let folders = self.devices.iter().flat_map(|device| &device.folders);
            let ended = match self.rest.missing(&self.datasets, folders, &self.versions) {
                None => Ok(()),
                Some(missing) if began.elapsed() > REST_MAX => Err(missing),
                Some(_) => continue,
            };
            return self.fact(Fact::Ended(ended));
        }
    }

    /// What was promised must hold also if nothing was synced since.
    async fn last_power_cut(&mut self) {
        for device in &self.devices {
            for event in device.events() {
                self.trace.line(&format!("device {} noted: {event}", device.index));
            }
        }
        for device in 0..self.devices.len() as u8 {
            self.kill_device(device, false).await;
        }
        self.kill_core(true).await;
        self.core.start();
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.observe();
        if let Some(leak) = self.core.secret_at_rest() {
            self.fact(Fact::Leaked(leak));
        }
        self.kill_core(false).await;
    }
}
