//! The catalog in memory, for tests and simulations. It holds to the same rules as the others, and forgets everything when it
//! is dropped.

mod chunks;
mod collect;
mod collections;
mod datasets;
mod devices;
mod runs;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use headwater_protocol::id::{ChunkId, PublicKey};

use super::{
    CatalogCounts, CatalogError, ChunkEntry, ChunkTotals, CollectionRecord, DatasetId, DatasetRecord, DeviceRecord,
    DeviceState, Edition, Lease, NoteTable, PackNumber, PackRecord, Principal, TagRecord, TokenRecord, UnixMs, Upkeep,
    VersionRecord,
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
    believes: bool,
    /// It never marks a chunk damaged.
    ignores_damage: bool,
    packs: BTreeMap<PackNumber, PackRecord>,
    chunks: BTreeMap<ChunkId, Chunk>,
    /// And whether each was committed as a page.
    members: BTreeMap<(DatasetId, ChunkId), bool>,
    last_dataset: u64,
    datasets: BTreeMap<DatasetId, Dataset>,
    /// The last numbers of datasets that were deleted, by name.
    ended: BTreeMap<String, u64>,
    collections: BTreeMap<String, Collection>,
    devices: BTreeMap<PublicKey, DeviceRecord>,
    tokens: BTreeMap<[u8; 32], TokenRecord>,
    leases: BTreeMap<String, (u64, Lease)>,
    notes: BTreeMap<String, Vec<u8>>,
    runs: BTreeMap<String, runs::Run>,
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

    /// From now on it believes of every stored chunk that it is a page with everything below it: a mistake, for simulations
    /// to find.
    pub fn believe_pages(&self) {
        self.state().believes = true;
    }

    /// From now on it never marks a chunk damaged: a mistake, for simulations to find.
    pub fn ignore_damage(&self) {
        self.state().ignores_damage = true;
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
        (self.believes || self.members.get(&(dataset, *id)) == Some(&true))
            && self.chunks.get(id).is_some_and(|chunk| !chunk.entry.damaged)
    }
}

impl NoteTable for MemoryCatalog {
    fn note(&self, key: &str) -> Result<Option<Vec<u8>>, CatalogError> {
        Ok(self.state().notes.get(key).cloned())
    }

    fn set_note(&self, key: &str, value: &[u8]) -> Result<(), CatalogError> {
        self.state().notes.insert(key.to_owned(), value.to_vec());
        Ok(())
    }
}

impl Upkeep for MemoryCatalog {
    fn counts(&self) -> Result<CatalogCounts, CatalogError> {
        let state = self.state();
        let mut chunks = ChunkTotals::default();
        for Chunk { entry, .. } in state.chunks.values() {
            chunks.chunks += 1;
            chunks.stored_bytes += u64::from(entry.location.stored_bytes);
            chunks.plain_bytes += u64::from(entry.location.plain_bytes);
            chunks.damaged += u64::from(entry.damaged);
        }
        Ok(CatalogCounts {
            devices: state.devices.values().filter(|device| device.state == DeviceState::Active).count() as u64,
            datasets: state.datasets.len() as u64,
            versions: state.datasets.values().map(|dataset| dataset.versions.len() as u64).sum(),
            packs: state.packs.len() as u64,
            pack_bytes: state.packs.values().map(|pack| pack.end_bytes).sum(),
            chunks,
        })
    }

    fn tidy(&self) -> Result<(), CatalogError> {
        Ok(())
    }

    fn check(&self) -> Result<Option<String>, CatalogError> {
        Ok(None)
    }
}
