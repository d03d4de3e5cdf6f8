//! The catalog in memory, for tests and simulations. It holds to the same rules as the others, and forgets everything when it
//! is dropped.

mod chunks;
mod collect;
mod collections;
mod datasets;
mod devices;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use headwater_protocol::id::{ChunkId, PublicKey};

use super::events::EVENTS_MAX;
use super::{
    CatalogError, ChunkEntry, CollectionRecord, DatasetId, DatasetRecord, DeviceRecord, Edition, Event, EventLog,
    EventRecord, Lease, PackNumber, PackRecord, Principal, TagRecord, TokenRecord, UnixMs, VersionRecord,
};

/// The catalog in memory.
#[derive(Default)]
pub struct MemoryCatalog {
    state: Mutex<State>,
}

#[derive(Clone, Default)]
struct State {
    epoch: u64,
    root_sequence: u64,
    packs: BTreeMap<PackNumber, PackRecord>,
    chunks: BTreeMap<ChunkId, Chunk>,
    /// And whether each was committed as a page.
    members: BTreeMap<(DatasetId, ChunkId), bool>,
    last_dataset: u64,
    datasets: BTreeMap<DatasetId, Dataset>,
    collections: BTreeMap<String, Collection>,
    devices: BTreeMap<PublicKey, DeviceRecord>,
    tokens: BTreeMap<[u8; 32], TokenRecord>,
    leases: BTreeMap<String, (u64, Lease)>,
    last_event: u64,
    events: VecDeque<EventRecord>,
    notes: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone)]
struct Chunk {
    entry: ChunkEntry,
    epoch: u64,
    pins: BTreeMap<Principal, UnixMs>,
}

#[derive(Clone)]
struct Dataset {
    record: DatasetRecord,
    last_number: u64,
    trim: bool,
    versions: BTreeMap<u64, Version>,
    tags: BTreeMap<String, TagRecord>,
}

#[derive(Clone)]
struct Version {
    sequence: u64,
    record: VersionRecord,
    /// Devices that hold a receipt, and whether they said that they freed bytes.
    reliance: BTreeMap<PublicKey, bool>,
}

#[derive(Clone)]
struct Collection {
    record: CollectionRecord,
    last_edition: u64,
    editions: BTreeMap<u64, Edition>,
}

impl MemoryCatalog {
    /// An empty catalog.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy of what it holds now: what a crash at this point would leave.
    pub fn snapshot(&self) -> Self {
        Self { state: Mutex::new(self.state().clone()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next_sequence(&mut self) -> u64 {
        self.root_sequence += 1;
        self.root_sequence
    }

    fn is_page_of(&self, dataset: DatasetId, id: &ChunkId) -> bool {
        self.members.get(&(dataset, *id)) == Some(&true)
            && self.chunks.get(id).is_some_and(|chunk| !chunk.entry.damaged)
    }
}

impl EventLog for MemoryCatalog {
    fn add_event(&self, event: &Event) -> Result<(), CatalogError> {
        let mut state = self.state();
        state.last_event += 1;
        let number = state.last_event;
        state.events.push_back(EventRecord { number, event: event.clone() });
        if state.events.len() as u64 > EVENTS_MAX {
            state.events.pop_front();
        }
        Ok(())
    }

    fn events(
        &self,
        subject: Option<&str>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<EventRecord>, CatalogError> {
        let state = self.state();
        let wanted = |record: &&EventRecord| {
            before.is_none_or(|before| record.number < before)
                && subject.is_none_or(|subject| record.event.subject == subject)
        };
        Ok(state.events.iter().rev().filter(wanted).take(limit).cloned().collect())
    }

    fn note(&self, key: &str) -> Result<Option<Vec<u8>>, CatalogError> {
        Ok(self.state().notes.get(key).cloned())
    }

    fn set_note(&self, key: &str, value: &[u8]) -> Result<(), CatalogError> {
        self.state().notes.insert(key.to_owned(), value.to_vec());
        Ok(())
    }
}
