//! Time, links and death: what happens between a coordinator and its devices, drawn from one seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Debug;

use headwater_protocol::federated::participant::Work;
use headwater_protocol::federated::run::Run;
use headwater_protocol::federated::{Late, Plan, TaskKey, TrainingMessage};
use headwater_protocol::id::VersionId;

use super::core::{Committed, Core};
use super::device::Device;
use super::{Bug, Fact, History, Scale, TraceSink};
use crate::random::Random;

/// So long things go wrong, in milliseconds.
const TROUBLE_MS: u64 = 20 * 60_000;
/// So long after that a run may take.
const CALM_MS: u64 = 12 * 3_600_000;
/// What comes to the coordinator within this is taken in one step.
const STEP_MS: u64 = 30;
/// The coordinator looks so often although nothing happens.
const LOOK_MS: u64 = 60_000;
/// A program that hangs is ended after so long.
const HANG_MS: u64 = 120_000;

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Look,
    Due,
    Step,
    CoreStarts,
    CoreDies,
    DeviceStarts(usize),
    DeviceDies(usize),
    Cut(usize),
    Connects(usize, u64),
    ToCore(usize, u64, u64, Box<Message>),
    ToDevice(usize, u64, Box<Message>),
    Done(usize, u64, Box<Job>),
    Combined(u64, u64),
}

/// A message, which has no order of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message(TrainingMessage);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Job(TaskKey, Work);

macro_rules! unordered {
    ($($name:ty),*) => {$(
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            /// The queue's numbers have said all that is to be said.
            fn cmp(&self, _: &Self) -> std::cmp::Ordering {
                std::cmp::Ordering::Equal
            }
        }
    )*};
}

unordered!(Message, Job);

/// The world.
pub(super) struct World {
    random: Random,
    scale: Scale,
    bug: Option<Bug>,
    now_ms: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    queued: u64,
    core: Core,
    devices: Vec<Device>,
    sessions: u64,
    will_step: bool,
    facts: Vec<Fact>,
}

impl World {
    /// How large the run of a seed is.
    pub(super) fn scale_of(seed: u64) -> Scale {
        let mut random = Random::new(seed ^ 0x5ca1_e000);
        Scale {
            devices: random.between(2, 9) as usize,
            rounds: random.between(1, 6),
            drop_outs: random.below(400),
            has_trouble: !random.once_in(8),
        }
    }

    pub(super) fn new(seed: u64, scale: Scale, bug: Option<Bug>) -> Self {
        let mut random = Random::new(seed);
        let goal = (scale.devices as u64).div_ceil(2).max(1);
        let late = if random.once_in(2) { Late::Refused } else { Late::Counts { rounds_max: random.between(1, 4) } };
        let plan = Plan {
            model: "m".to_owned(),
            rounds: scale.rounds,
            min_updates: random.between(1, goal) as u32,
            goal: goal as u32,
            over_select: random.between(1000, 1500) as u32,
            deadline: random.between(60_000, 300_000),
            patience: 60_000,
            stall: 45_000,
            late,
            refusals_max: 1_000_000,
            failures_max: 1_000_000,
            evaluate_every: random.below(3),
            seed,
            ..Plan::default()
        };
        let devices = (0..scale.devices).map(|_| Device::new()).collect();
        let mut world = Self {
            random,
            scale,
            bug,
            now_ms: 0,
            queue: BinaryHeap::new(),
            queued: 0,
            core: Core::new(plan),
            devices,
            sessions: 0,
            will_step: false,
            facts: Vec::new(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.after(0, Event::Look);
        for device in 0..self.scale.devices {
            let delay = self.random.below(2000);
            self.connect(device, delay);
        }
        if !self.scale.has_trouble {
            return;
        }
        for _ in 0..self.random.between(1, 12) {
            let at = self.random.below(TROUBLE_MS / 4);
            self.after(at, Event::CoreDies);
        }
        for _ in 0..self.random.between(1, 6 * self.scale.devices as u64) {
            let (at, device) =
                (self.random.below(TROUBLE_MS / 2), self.random.below(self.scale.devices as u64) as usize);
            let event = if self.random.once_in(2) { Event::DeviceDies(device) } else { Event::Cut(device) };
            self.after(at, event);
        }
    }

    fn after(&mut self, delay_ms: u64, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse((self.now_ms + delay_ms, self.queued, event)));
    }

    fn connect(&mut self, device: usize, delay_ms: u64) {
        self.sessions += 1;
        self.after(delay_ms, Event::Connects(device, self.sessions));
    }

    fn is_troubled(&self) -> bool {
        self.scale.has_trouble && self.now_ms < TROUBLE_MS
    }

    /// Plays until the run is over, or should long have been.
    pub(super) fn run(mut self, mut trace: Option<TraceSink<'_>>) -> (History, String) {
        let mut hasher = blake3::Hasher::new();
        let is_over = loop {
            if self.core.run.as_ref().is_some_and(Run::is_over) {
                break true;
            }
            let Some(Reverse((at, _, event))) = self.queue.pop() else { break false };
            if at > TROUBLE_MS + CALM_MS {
                break false;
            }
            self.now_ms = at;
            let line = format!("{at} {event:?}");
            hasher.update(line.as_bytes());
            if let Some(trace) = &mut trace {
                trace(&line);
            }
            self.happens(event);
        };
        let waiting = self.core.run.iter().flat_map(Run::pending).map(|counted| counted.update.to_string());
        let waiting = waiting.collect();
        let log = self.core.log.into_iter().map(|(entry, _)| entry).collect();
        let history = History { facts: self.facts, log, is_over, waiting, held_max: self.core.held_max };
        (history, hasher.finalize().to_hex().to_string())
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Look => {
                self.step();
                self.after(LOOK_MS, Event::Look);
            }
            Event::Due => self.wake(),
            Event::Step => {
                self.will_step = false;
                self.step();
            }
            Event::CoreStarts => {
                if self.core.run.is_none() {
                    self.core.start(self.now_ms);
                    for device in 0..self.devices.len() {
                        let delay = self.random.between(50, 5000);
                        self.connect(device, delay);
                    }
                    self.step();
                }
            }
            Event::CoreDies => {
                if self.random.once_in(2) {
                    // In the middle of the next steps.
                    self.core.dies_after = Some(self.random.between(1, 6));
                } else {
                    self.core_dies();
                }
            }
            Event::DeviceStarts(device) => {
                if self.devices[device].participant.is_none() {
                    self.devices[device].start(self.bug);
                    let delay = self.random.between(50, 3000);
                    self.connect(device, delay);
                    self.reconcile(device);
                }
            }
            Event::DeviceDies(device) => self.device_dies(device, 30_000),
            Event::Cut(device) => {
                if self.devices[device].session.is_some() {
                    self.facts.push(Fact::Cut);
                    self.devices[device].cut();
                    self.core.present.remove(&device);
                    let delay = self.random.between(100, 60_000);
                    self.connect(device, delay);
                }
            }
            Event::Connects(device, session) => self.connects(device, session),
            Event::ToCore(device, session, life, message) => {
                if self.core.run.is_some() && self.core.life == life && self.devices[device].session == Some(session) {
                    self.core.hear(device, session, message.0);
                    self.wake();
                }
            }
            Event::ToDevice(device, session, message) => self.hears(device, session, message.0),
            Event::Done(device, life, job) => self.done(device, life, &job.0, job.1),
            Event::Combined(round, life) => {
                if self.core.life == life {
                    self.core.combine(round, &mut self.facts);
                    // The model is made; whether anybody writes that down is another matter.
                    if self.is_troubled() && self.random.once_in(8) {
                        self.core_dies();
                    } else {
                        self.step();
                    }
                }
            }
        }
    }

    fn core_dies(&mut self) {
        if self.core.run.is_none() {
            return;
        }
        self.facts.push(Fact::Kill);
        self.core.kill(self.bug);
        for device in &mut self.devices {
            device.cut();
        }
        let delay = self.random.between(100, 90_000);
        self.after(delay, Event::CoreStarts);
    }

    fn device_dies(&mut self, device: usize, gone_ms: u64) {
        if self.devices[device].participant.is_none() {
            return;
        }
        self.facts.push(Fact::Kill);
        self.devices[device].kill();
        self.core.present.remove(&device);
        let delay = self.random.between(100, gone_ms);
        self.after(delay, Event::DeviceStarts(device));
    }

    fn connects(&mut self, device: usize, session: u64) {
        let known = &mut self.devices[device];
        if known.participant.is_none() || self.core.run.is_none() || known.session.is_some() {
            return;
        }
        let report = known.connected(session);
        self.send_to_core(device, session, report);
        self.reconcile(device);
    }

    fn send_to_core(&mut self, device: usize, session: u64, message: TrainingMessage) {
        // One stream: what is said later does not arrive before.
        self.after(20, Event::ToCore(device, session, self.core.life, Box::new(Message(message))));
    }

    fn hears(&mut self, device: usize, session: u64, message: TrainingMessage) {
        if self.devices[device].session != Some(session) {
            return;
        }
        if let TrainingMessage::Settled(settled) = &message {
            let told = if settled.accepted { Fact::ToldCounts } else { Fact::ToldOver };
            self.facts.push(told(device, settled.task.clone()));
        }
        let drops_out = matches!(message, TrainingMessage::Do(_)) && self.random.below(1000) < self.scale.drop_outs;
        self.devices[device].hear(message);
        self.reconcile(device);
        if drops_out && (self.now_ms < TROUBLE_MS || !self.scale.has_trouble) {
            self.device_dies(device, 600_000);
        }
    }

    fn reconcile(&mut self, device: usize) {
        let (jobs, messages) = self.devices[device].reconcile();
        if let Some(session) = self.devices[device].session {
            for message in messages {
                self.send_to_core(device, session, message);
            }
        }
        for (key, work) in jobs {
            let takes = match work {
                Work::Fetch => self.random.between(50, 3000),
                Work::Train if self.is_troubled() && self.random.once_in(12) => HANG_MS,
                Work::Train => self.random.between(100, 40_000),
                Work::Encode => self.random.between(10, 500),
                Work::Send => self.random.between(50, 20_000),
            };
            self.after(takes, Event::Done(device, self.devices[device].life, Box::new(Job(key, work))));
        }
    }

    fn done(&mut self, device: usize, life: u64, key: &TaskKey, work: Work) {
        let fails = self.is_troubled() && self.random.once_in(15);
        let is_faulty = self.is_troubled() && self.random.once_in(15);
        let known = &mut self.devices[device];
        if known.life != life || known.jobs.get(key) != Some(&work) {
            return;
        }
        if work == Work::Send {
            if known.session.is_some() && self.core.run.is_some() {
                let id = VersionId::of(format!("{device} {key:?}").as_bytes());
                self.core.commit(device, Committed { task: key.clone(), id, fault: is_faulty });
                self.wake();
            }
            return;
        }
        known.jobs.remove(key);
        let Some(participant) = &mut known.participant else { return };
        match work {
            Work::Fetch => participant.handle_fetched(key),
            Work::Train if fails => participant.handle_failed(key, "exit status: 1".to_owned()),
            Work::Train => participant.handle_trained(key),
            Work::Encode | Work::Send => {
                participant.handle_encoded(key, 100);
                known.make(key);
                self.facts.push(Fact::Made(device, key.clone()));
                // Made and durable, but not noted.
                if self.is_troubled() && self.random.once_in(10) {
                    self.device_dies(device, 30_000);
                    return;
                }
            }
        }
        self.reconcile(device);
    }

    /// What comes within a moment is taken in one step.
    fn wake(&mut self) {
        if !self.will_step {
            self.will_step = true;
            self.after(STEP_MS, Event::Step);
        }
    }

    fn step(&mut self) {
        if self.core.run.is_none() {
            return;
        }
        let Ok(after) = self.core.step(self.now_ms, self.bug, &mut self.facts) else { return self.core_dies() };
        for (device, session, message) in after.messages {
            self.after(20, Event::ToDevice(device, session, Box::new(Message(message))));
        }
        if let Some(round) = after.combine {
            let takes = self.random.between(10, 2000);
            self.after(takes, Event::Combined(round, self.core.life));
        }
        if let Some(wait) = after.wait {
            self.after(u64::try_from(wait.as_millis()).unwrap_or(LOOK_MS) + 1, Event::Due);
        }
    }
}
