//! The world of the simulation: virtual time, a queue of events, and the link between the two sides.
//!
//! Everything that happens is an event at a time; events at one time happen in the order in which they were made. So a
//! seed decides all of a run, and the hash of its trace shows it.

use std::collections::BTreeMap;

use headwater_protocol::id::ChunkId;
use headwater_protocol::sync::{Load, Wanted};
use headwater_protocol::wire::{ItemHeader, ItemKey, Message};

use super::core::Core;
use super::device::Device;
use super::facts::{Fact, History, Parts};
use super::plan::{Bug, Plan};
use super::tree::{Folder, Version};
use crate::random::Random;

/// Events after which a run counts as endless.
const EVENTS_MAX: u64 = 2_000_000;

/// Something that happens. An event of a connection says which one: on another it is void; so with the core's process.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Connect,
    Offer(u64),
    Publish,
    Cut,
    Crash,
    ToCore(u64, Message),
    ToDevice(u64, Message),
    Item(u64, ItemHeader),
    Loaded(u64, u32, Load),
    LookedUp(u64, u32, Vec<ChunkId>),
    Presence(u64, u32, Vec<Wanted>),
    Verified(u64, u32, ItemKey),
    Durable(u64, u64, u32, usize, Vec<ItemKey>, Vec<ChunkId>),
    Marked(u64, Vec<ChunkId>),
    Commit(u64, u64, u32, usize),
}

/// Where lines of a trace go.
pub type TraceSink<'a> = &'a mut dyn FnMut(&str);

#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) bug: Option<Bug>,
    pub(super) random: Random,
    pub(super) now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub(super) facts: Vec<Fact>,
    pub(super) versions: Vec<Version>,
    pub(super) device: Device,
    pub(super) core: Core,
    /// The connection, by number; even ones are the times between two.
    pub(super) epoch: u64,
    /// The core's process, by number.
    pub(super) crash_epoch: u64,
    /// When the link has sent all that was given to it.
    pub(super) link_free: u64,
    to_core: u64,
    to_device: u64,
    pub(super) vanishing: u64,
    pub(super) remembered_max: usize,
}

impl World {
    pub(super) fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::of(&mut random);
        let mut folder = Folder::new(&mut random);
        let mut versions: Vec<Version> = Vec::new();
        for _ in 0..plan.versions {
            let version = Version::of(&folder, versions.last().map(|parent| parent.id));
            // A change may change nothing.
            if versions.last().is_none_or(|last| last.manifest.root != version.manifest.root) {
                versions.push(version);
            }
            folder.change(&mut random);
        }
        let mut world = Self {
            plan,
            bug,
            random: random.split(),
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            facts: Vec::new(),
            versions,
            device: Device::default(),
            core: Core::default(),
            epoch: 0,
            crash_epoch: 0,
            link_free: 0,
            to_core: 0,
            to_device: 0,
            vanishing: plan.vanishing,
            remembered_max: 0,
        };
        world.plant(&mut random);
        world
    }

    /// Puts the publications, cuts and crashes of the plan into the queue.
    fn plant(&mut self, random: &mut Random) {
        let bytes: u64 = self.parts().iter().flat_map(|parts| parts.bytes.values()).sum();
        let span = bytes * 1_000_000_000 / self.plan.rate + 40 * (self.plan.delay_ns + self.plan.disk_ns);
        self.at(0, Event::Connect);
        for number in 0..self.versions.len() as u64 {
            let time = if number == 0 { 0 } else { random.below(span) };
            self.at(time, Event::Publish);
        }
        for _ in 0..self.plan.cuts {
            self.at(random.below(span), Event::Cut);
        }
        for _ in 0..self.plan.crashes {
            self.at(random.below(span), Event::Crash);
        }
    }

    fn parts(&self) -> Vec<Parts> {
        let parts = |version: &Version| {
            let mut bytes: BTreeMap<ChunkId, u64> =
                version.ordinals.iter().map(|chunk| (chunk.id, u64::from(chunk.length))).collect();
            for id in version.pages() {
                bytes.insert(id, version.page(&id).expect("its page").encode().len() as u64);
            }
            Parts { bytes }
        };
        self.versions.iter().map(parts).collect()
    }

    /// Runs to the end, and gives the history and the hash of the trace.
    pub(super) fn run(mut self, mut trace: Option<TraceSink<'_>>) -> (History, String) {
        let mut hasher = blake3::Hasher::new();
        let newest = self.versions.len() - 1;
        let mut events = 0;
        while self.device.done != Some(newest) && !self.facts.iter().rev().take(1).any(is_broken) {
            let Some(((time, _), event)) = self.queue.pop_first() else {
                self.fact(Fact::StoodStill);
                break;
            };
            events += 1;
            if events > EVENTS_MAX {
                self.fact(Fact::Endless);
                break;
            }
            self.now = time;
            let line = format!("{time:>16} {event:?}");
            hasher.update(line.as_bytes());
            if let Some(trace) = &mut trace {
                trace(&line);
            }
            self.apply(event);
        }
        self.fact(Fact::Remembered(self.remembered_max));
        let versions = self.parts();
        let history = History { facts: self.facts, versions, window_bytes: self.plan.window_bytes };
        (history, hasher.finalize().to_hex()[..16].to_owned())
    }

    fn apply(&mut self, event: Event) {
        let (epoch, crash_epoch) = (self.epoch, self.crash_epoch);
        match event {
            Event::Connect => self.connect(),
            Event::Publish => self.publish(),
            Event::Cut => self.cut(Fact::Cut),
            Event::Crash => {
                self.crash_epoch += 1;
                self.write_some_of_what_is_under_way(crash_epoch);
                self.core_crashes();
                self.cut(Fact::Crash);
            }
            Event::Offer(of) if of == epoch => self.offer(),
            Event::ToCore(of, message) if of == epoch => self.core_hears(&message),
            Event::ToDevice(of, message) if of == epoch => self.device_hears(&message),
            Event::Item(of, header) if of == epoch => self.item_arrives(header),
            Event::Loaded(of, transfer, load) if of == epoch => self.loaded(transfer, load),
            Event::LookedUp(of, transfer, ids) if of == epoch => self.looked_up(transfer, &ids),
            Event::Presence(of, transfer, wanted) if of == epoch => self.presence_known(transfer, &wanted),
            Event::Verified(of, transfer, key) if of == epoch => self.item_verified(transfer, key),
            Event::Durable(of, process, transfer, version, keys, ids) if process == crash_epoch => {
                self.durable(of, transfer, version, &keys, ids);
            }
            Event::Marked(process, pages) if process == crash_epoch => self.marked(pages),
            Event::Commit(of, process, transfer, version) if process == crash_epoch => {
                self.commit(of, transfer, version);
            }
            _ => {}
        }
    }

    pub(super) const fn link_is_up(&self) -> bool {
        self.epoch % 2 == 1
    }

    fn connect(&mut self) {
        if !self.link_is_up() {
            self.epoch += 1;
            (self.link_free, self.to_core, self.to_device) = (self.now, self.now, self.now);
            self.offer();
        }
    }

    /// The connection is gone: what is on its way never arrives, but for the first bytes of what was arriving.
    fn cut(&mut self, fact: Fact) {
        if !self.link_is_up() {
            return;
        }
        self.fact(fact);
        let arriving = self.queue.values().find_map(|event| match event {
            Event::Item(of, header) if *of == self.epoch => Some(header.clone()),
            _ => None,
        });
        if let Some(header) = arriving {
            let came = self.random.below(u64::from(header.payload_bytes)) as u32;
            self.item_was_cut(&header, came);
        }
        self.epoch += 1;
        self.receivers_lost_link();
        self.sender_lost_link();
        let back = 1 + self.random.below(4 * self.plan.delay_ns);
        self.after(back, Event::Connect);
    }

    /// Of the batches that were being written when the process died, some are on the disk and were never acknowledged.
    fn write_some_of_what_is_under_way(&mut self, process: u64) {
        let under_way: Vec<_> = self
            .queue
            .values()
            .filter_map(|event| match event {
                Event::Durable(_, of, _, version, keys, ids) if *of == process => {
                    Some((*version, keys.clone(), ids.clone()))
                }
                _ => None,
            })
            .collect();
        for (version, keys, ids) in under_way {
            if self.random.once_in(2) {
                self.durable(u64::MAX, 0, version, &keys, ids);
            }
        }
    }

    pub(super) fn send_to_core(&mut self, message: Message) {
        if self.loses() {
            return;
        }
        self.to_core = (self.to_core + 1).max(self.now + 1 + self.random.below(self.plan.delay_ns));
        self.at(self.to_core, Event::ToCore(self.epoch, message));
    }

    pub(super) fn send_to_device(&mut self, message: Message) {
        if self.loses() {
            return;
        }
        self.to_device = (self.to_device + 1).max(self.now + 1 + self.random.below(self.plan.delay_ns));
        self.at(self.to_device, Event::ToDevice(self.epoch, message));
    }

    fn loses(&mut self) -> bool {
        self.bug == Some(Bug::LosesMessages) && self.random.once_in(15)
    }

    /// How long the disk takes.
    pub(super) fn disk(&mut self) -> u64 {
        1 + self.random.below(self.plan.disk_ns)
    }

    pub(super) fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(super) fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((time.max(self.now), self.sequence), event);
    }

    pub(super) fn fact(&mut self, fact: Fact) {
        self.facts.push(fact);
    }
}

fn is_broken(fact: &Fact) -> bool {
    matches!(fact, Fact::Broken(_))
}
