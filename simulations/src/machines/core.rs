//! The core of the simulation: [`Receiver`]s with the shell that the daemons give them, and a store of which a crash
//! loses what was not durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::page::Page;
use headwater_protocol::sync::{Held, Presence, ReceiveAction, ReceiveEnd, ReceiveLimits, Receiver, Wanted};
use headwater_protocol::time::Timestamp;
use headwater_protocol::wire::{Encoding, ItemHeader, ItemKey, Message};

use super::facts::Fact;
use super::plan::Bug;
use super::world::{Event, World};

/// Batches that are made durable at once.
const STORES_MAX: usize = 2;

/// What the core has.
#[derive(Debug, Default)]
pub(super) struct Core {
    pages: BTreeMap<ChunkId, Arc<Page>>,
    chunks: BTreeSet<ChunkId>,
    complete: BTreeSet<ChunkId>,
    prefixes: BTreeMap<ChunkId, u32>,
    committed: BTreeSet<usize>,
    receiving: BTreeMap<u32, Receiving>,
    /// What became durable last, for a bug that forgets it.
    last_durable: Vec<ChunkId>,
}

#[derive(Debug)]
struct Receiving {
    version: usize,
    machine: Receiver,
    headers: BTreeMap<ItemKey, ItemHeader>,
    verified: Vec<ItemKey>,
    stores: usize,
}

impl Core {
    fn id_of(world: &World, version: usize, key: ItemKey) -> ChunkId {
        match key {
            ItemKey::Page(id) => id,
            ItemKey::Chunk(ordinal) => world.versions[version].ordinals[ordinal as usize].id,
        }
    }
}

impl World {
    pub(super) fn core_hears(&mut self, message: &Message) {
        if let Message::Offer { transfer, dataset, manifest, .. } = message {
            let version = dataset.parse().expect("the device says which");
            let manifest = Manifest::decode(manifest).expect("a good manifest");
            let limits = ReceiveLimits { window_bytes: self.plan.window_bytes };
            let machine = Receiver::new(*transfer, &manifest, limits).expect("a good manifest");
            let receiving = Receiving { version, machine, headers: BTreeMap::new(), verified: vec![], stores: 0 };
            self.core.receiving.insert(*transfer, receiving);
            return self.drive_receiver(*transfer);
        }
        let Some(transfer) = message.transfer() else { return };
        let now = Timestamp::from_nanos(self.now);
        if let Some(receiving) = self.core.receiving.get_mut(&transfer) {
            receiving.machine.handle_message(now, message);
            self.drive_receiver(transfer);
        }
    }

    pub(super) fn receivers_lost_link(&mut self) {
        // What has arrived and was not durable: the shell lets it be stored, unless its process dies.
        for receiving in std::mem::take(&mut self.core.receiving).into_values() {
            let ids = receiving.verified.iter().map(|key| Core::id_of(self, receiving.version, *key)).collect();
            let delay = self.disk();
            self.after(delay, Event::Durable(0, self.crash_epoch, 0, receiving.version, receiving.verified, ids));
        }
    }

    /// The process dies: of what was being written, each batch is there or not.
    pub(super) fn core_crashes(&mut self) {
        self.core.receiving.clear();
        if self.bug == Some(Bug::ForgetsOnCrash) {
            let lost = std::mem::take(&mut self.core.last_durable);
            self.core.chunks.retain(|id| !lost.contains(id));
            self.core.pages.retain(|id, _| !lost.contains(id));
            self.core.complete.clear();
            self.fact(Fact::Lost(lost));
        }
    }

    /// An item was cut: what came of it is kept.
    pub(super) fn item_was_cut(&mut self, header: &ItemHeader, payload_bytes: u32) {
        let Some(receiving) = self.core.receiving.get(&header.transfer) else { return };
        let Encoding::Plain { from_offset } = header.encoding else { return };
        let ItemKey::Chunk(ordinal) = header.key else { return };
        let id = self.versions[receiving.version].ordinals[ordinal as usize].id;
        self.core.prefixes.insert(id, from_offset + payload_bytes);
    }

    pub(super) fn item_arrives(&mut self, header: ItemHeader) {
        let delay = self.disk();
        let Some(receiving) = self.core.receiving.get_mut(&header.transfer) else { return };
        let (transfer, key) = (header.transfer, header.key);
        if receiving.machine.handle_item(&header).is_ok() {
            receiving.headers.insert(key, header);
            if self.bug == Some(Bug::AcknowledgesEarly) {
                let page = match key {
                    ItemKey::Page(id) => self.versions[receiving.version].page(&id),
                    ItemKey::Chunk(_) => None,
                };
                receiving.machine.handle_verified(key, page.as_deref());
                receiving.machine.handle_stored(Timestamp::from_nanos(self.now), &[key]);
            }
            self.after(delay, Event::Verified(self.epoch, transfer, key));
        }
        self.drive_receiver(transfer);
    }

    pub(super) fn item_verified(&mut self, transfer: u32, key: ItemKey) {
        let wrong_prefix = self.random.once_in(50);
        let Some(receiving) = self.core.receiving.get_mut(&transfer) else { return };
        let Some(header) = receiving.headers.remove(&key) else { return };
        let version = &self.versions[receiving.version];
        let usable = match header.encoding {
            Encoding::Delta { .. } => false,
            Encoding::Plain { from_offset } | Encoding::Zstd { from_offset } => from_offset == 0 || !wrong_prefix,
        };
        if usable {
            let page = match key {
                ItemKey::Page(id) => version.page(&id),
                ItemKey::Chunk(_) => None,
            };
            receiving.machine.handle_verified(key, page.as_deref());
            receiving.verified.push(key);
        } else {
            self.facts.push(Fact::Unusable(u64::from(header.payload_bytes)));
            if let ItemKey::Chunk(ordinal) = key {
                self.core.prefixes.remove(&version.ordinals[ordinal as usize].id);
            }
            receiving.machine.handle_unusable(key);
        }
        self.start_store(transfer);
        self.drive_receiver(transfer);
    }

    fn start_store(&mut self, transfer: u32) {
        let Some(receiving) = self.core.receiving.get_mut(&transfer) else { return };
        if receiving.stores >= STORES_MAX || receiving.verified.is_empty() {
            return;
        }
        receiving.stores += 1;
        let (version, keys) = (receiving.version, std::mem::take(&mut receiving.verified));
        let ids = keys.iter().map(|key| Core::id_of(self, version, *key)).collect();
        let delay = self.disk();
        self.after(delay, Event::Durable(self.epoch, self.crash_epoch, transfer, version, keys, ids));
    }

    /// A batch is on the disk; the receiver learns it if its connection still lives.
    pub(super) fn durable(&mut self, epoch: u64, transfer: u32, version: usize, keys: &[ItemKey], ids: Vec<ChunkId>) {
        for (key, id) in keys.iter().zip(&ids) {
            match key {
                ItemKey::Page(_) => {
                    let page = self.versions[version].page(id).expect("a page of the version");
                    self.core.pages.insert(*id, page);
                }
                ItemKey::Chunk(_) => {
                    self.core.chunks.insert(*id);
                    self.core.prefixes.remove(id);
                }
            }
        }
        self.core.last_durable.clone_from(&ids);
        self.fact(Fact::Durable(ids));
        if epoch != self.epoch {
            return;
        }
        let now = Timestamp::from_nanos(self.now);
        if let Some(receiving) = self.core.receiving.get_mut(&transfer) {
            receiving.stores -= 1;
            receiving.machine.handle_stored(now, keys);
            self.start_store(transfer);
            self.drive_receiver(transfer);
        }
    }

    pub(super) fn looked_up(&mut self, transfer: u32, ids: &[ChunkId]) {
        let claims = self.bug == Some(Bug::ClaimsComplete) && self.random.once_in(3);
        let core = &mut self.core;
        let held = |id: &ChunkId| match core.pages.get(id) {
            Some(_) if claims || core.complete.contains(id) => Held::Complete,
            Some(page) => Held::Page(Arc::clone(page)),
            None => Held::Missing,
        };
        let answers: Vec<_> = ids.iter().map(|id| (*id, held(id))).collect();
        if let Some(receiving) = core.receiving.get_mut(&transfer) {
            receiving.machine.handle_lookup(&answers);
            self.drive_receiver(transfer);
        }
    }

    pub(super) fn presence_known(&mut self, transfer: u32, wanted: &[Wanted]) {
        let forgets = self.bug == Some(Bug::ForgetsPresence);
        let claims = self.bug == Some(Bug::ClaimsPresence);
        let mut dice = self.random.split();
        let core = &mut self.core;
        let mut presence = |wanted: &Wanted| {
            let chunk = wanted.chunk;
            if (core.chunks.contains(&chunk.id) && !forgets) || (claims && dice.once_in(10)) {
                return Presence::Here;
            }
            core.prefixes.get(&chunk.id).map_or(Presence::Missing, |bytes| Presence::Prefix(*bytes))
        };
        let answers: Vec<_> = wanted.iter().map(|wanted| (*wanted, presence(wanted))).collect();
        if let Some(receiving) = core.receiving.get_mut(&transfer) {
            receiving.machine.handle_presence(&answers);
            self.drive_receiver(transfer);
        }
    }

    /// The store remembers that these pages are complete; it may do without.
    pub(super) fn marked(&mut self, pages: Vec<ChunkId>) {
        if self.plan.remembers_complete {
            self.core.complete.extend(pages);
        }
    }

    /// The version is committed, once and for all; the device hears of it if its connection still lives.
    pub(super) fn commit(&mut self, epoch: u64, transfer: u32, version: usize) {
        if self.core.committed.insert(version) || self.bug == Some(Bug::CommitsAgain) {
            self.fact(Fact::Committed(version));
        }
        if epoch != self.epoch {
            return;
        }
        if let Some(receiving) = self.core.receiving.get_mut(&transfer) {
            receiving.machine.handle_committed(vec![], vec![]);
            self.drive_receiver(transfer);
        }
    }

    fn drive_receiver(&mut self, transfer: u32) {
        let Some(receiving) = self.core.receiving.get(&transfer) else { return };
        let (remembered, version) = (receiving.machine.remembered(), receiving.version);
        self.remembered_max = self.remembered_max.max(remembered);
        let epoch = self.epoch;
        while let Some(receiving) = self.core.receiving.get_mut(&transfer)
            && let Some(action) = receiving.machine.poll_action()
        {
            let delay = self.disk();
            match action {
                ReceiveAction::Send(message) => self.send_to_device(message),
                ReceiveAction::LookUp(ids) => self.after(delay, Event::LookedUp(epoch, transfer, ids)),
                ReceiveAction::CheckPresence(wanted) => self.after(delay, Event::Presence(epoch, transfer, wanted)),
                ReceiveAction::Completed(pages) => self.after(delay, Event::Marked(self.crash_epoch, pages)),
                ReceiveAction::Commit if self.bug == Some(Bug::AnswersEarly) => {
                    let early = Message::Committed { transfer, commit: vec![], receipt: vec![] };
                    self.send_to_device(early);
                    let late = delay + 10 * self.plan.delay_ns;
                    self.after(late, Event::Commit(epoch, self.crash_epoch, transfer, version));
                }
                ReceiveAction::Commit => self.after(delay, Event::Commit(epoch, self.crash_epoch, transfer, version)),
                ReceiveAction::Finished(end) => {
                    self.core.receiving.remove(&transfer);
                    if let ReceiveEnd::Broken(violation) = end {
                        self.fact(Fact::Broken(format!("the core says that {violation}")));
                    }
                }
            }
        }
    }
}
