//! The core's machine: its disk and its catalog, which outlive its process, and the process.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use core_node::catalog::{Catalog, DeviceRecord, DeviceState, DeviceTable, MemoryCatalog, UnixMs};
use core_node::config::Config;
use core_node::core::{Core, CoreParts, Keys};
use core_node::daemon;
use core_node::rights::Rights;
use core_node::store::{ChunkStore, ChunkStoreOptions, MemoryPacks, PackStore, RecoveryReport};
use headwater_host::config::{HumanBytes, HumanDuration};
use headwater_protocol::trust::Role;
use headwater_protocol::wire::PeerStatus;
use tempfile::TempDir;

use super::bugs::Bug;
use super::contents::SECRET;
use super::identities::{Identities, device_name, folder};
use super::net::CORE;
use super::packs::DiskPacks;
use super::process::{Machine, Process, lock};
use crate::random::Random;

/// The core's machine.
pub(super) struct CoreMachine {
    machine: Machine,
    folder: TempDir,
    config: Config,
    pub(super) catalog: Arc<MemoryCatalog>,
    disk: Arc<MemoryPacks>,
    failures: Arc<AtomicU32>,
    pack_bytes_max: u64,
    bug: Option<Bug>,
    random: Random,
    process: Option<Arc<Process>>,
    running: Arc<Mutex<Running>>,
}

/// What is known of the process that runs.
#[derive(Default)]
struct Running {
    core: Weak<Core>,
    recovered: Option<RecoveryReport>,
    /// It ended by itself, and why.
    ended: Option<String>,
}

impl CoreMachine {
    pub(super) fn new(machine: Machine, pack_bytes_max: u64, bug: Option<Bug>, random: Random) -> Self {
        let mut config = Config { listen: CORE, admin: false, ..Config::default() };
        // Nothing in a world collects garbage yet.
        config.gc.every = HumanDuration(std::time::Duration::ZERO);
        config.memory.transfers = HumanBytes(core_node::config::TRANSFERS_BYTES_MIN);
        let catalog = MemoryCatalog::new();
        if bug == Some(Bug::SkipsPage) {
            catalog.believe_pages();
        }
        Self {
            machine,
            folder: folder().expect("a folder"),
            config,
            catalog: Arc::new(catalog),
            disk: Arc::new(MemoryPacks::new()),
            failures: Arc::default(),
            pack_bytes_max,
            bug,
            random,
            process: None,
            running: Arc::default(),
        }
    }

    /// Lets a device in, as if it had joined.
    pub(super) fn add_device(&self, index: u8, read_patterns: Vec<String>) {
        let device = DeviceRecord {
            key: Identities::get().device(index).public_key(),
            name: device_name(index),
            labels: Vec::new(),
            role: Role::Device,
            state: DeviceState::Active,
            write_patterns: Vec::new(),
            read_patterns,
            nonces: Vec::new(),
            certificate_expires_at: UnixMs::default(),
            joined_at: UnixMs::default(),
            last_seen_at: None,
            status: PeerStatus::default(),
        };
        self.catalog.add_device(&device).expect("a new device");
    }

    /// Starts the process.
    pub(super) fn start(&mut self) {
        self.failures.store(0, Ordering::Relaxed);
        let process = Process::new("core".to_owned(), self.machine.clone(), self.random.split(), self.forgets());
        *lock(&self.running) = Running::default();
        let (running, packs) = (Arc::clone(&self.running), self.packs());
        let (catalog, config, pack_bytes_max) = (Arc::clone(&self.catalog), self.config.clone(), self.pack_bytes_max);
        let data = self.folder.path().to_owned();
        process.spawn(async move {
            let rights = Rights::new(&config).expect("no rules");
            let catalog: Arc<dyn Catalog> = catalog;
            let options = ChunkStoreOptions { pack_bytes_max, ..ChunkStoreOptions::default() };
            let (store, recovered) = match ChunkStore::open(packs, Arc::clone(&catalog), options) {
                Ok(opened) => opened,
                Err(error) => {
                    lock(&running).ended = Some(error.to_string());
                    return;
                }
            };
            let identities = Identities::get();
            let keys = Keys { authority: identities.authority(), identity: identities.core() };
            let core = Core::new(CoreParts { folder: data, config, rights, keys, catalog, store: Arc::new(store) });
            {
                let mut running = lock(&running);
                running.core = Arc::downgrade(&core);
                running.recovered = Some(recovered);
            }
            let served = daemon::serve(core).await;
            lock(&running).ended = Some(served.err().map_or_else(String::new, |error| error.to_string()));
        });
        self.process = Some(process);
    }

    fn forgets(&self) -> Option<u64> {
        (self.bug == Some(Bug::LosesWakeUps)).then_some(40)
    }

    fn packs(&self) -> Arc<DiskPacks> {
        Arc::new(DiskPacks::new(Arc::clone(&self.disk), Arc::clone(&self.failures), self.bug))
    }

    /// Kills the process; with `power`, what was not synced goes in part.
    pub(super) fn kill(&mut self, power: bool) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
        if power {
            self.lose_power();
        }
    }

    /// Of what is not synced, any prefix of it is there, and any of that may be other bytes.
    fn lose_power(&mut self) {
        let random = &mut self.random;
        let mut torn = Vec::new();
        let left = self.disk.after_power_cut(|pack, unsynced| {
            let kept = random.below(unsynced as u64 + 1) as usize;
            torn.push((pack, kept));
            kept
        });
        for (pack, kept) in torn.into_iter().filter(|(_, kept)| *kept > 0) {
            if random.once_in(2) {
                let at = random.below(kept as u64) as usize;
                left.with_bytes(pack, |bytes| {
                    let end = bytes.len() - kept + at;
                    bytes[end..].fill(0);
                });
            }
        }
        self.disk = Arc::new(left);
    }

    /// Whether nothing of a killed process is left.
    pub(super) fn is_gone(&self) -> bool {
        self.process.is_none() && lock(&self.running).core.strong_count() == 0
    }

    pub(super) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The running core, if it has come so far.
    pub(super) fn core(&self) -> Option<Arc<Core>> {
        lock(&self.running).core.upgrade()
    }

    /// What the start found, once.
    pub(super) fn recovered(&self) -> Option<RecoveryReport> {
        lock(&self.running).recovered.take()
    }

    /// Why the process ended by itself, if it did.
    pub(super) fn ended(&self) -> Option<String> {
        lock(&self.running).ended.take()
    }

    /// Bounds the disk, at so many bytes more than there are, or not.
    pub(super) fn set_room(&self, bytes: Option<u64>) {
        let used: u64 = self.disk.list().expect("in memory").iter().map(|pack| pack.bytes).sum();
        self.disk.set_capacity(bytes.map(|room| used + room));
    }

    /// Sets its clock.
    pub(super) fn set_clock(&self, seconds: u64) {
        lock(&self.machine.clock).set(seconds);
    }

    /// What of a local dataset lies on its disk.
    pub(super) fn secret_at_rest(&self) -> Option<String> {
        let packs = self.disk.list().expect("in memory");
        let holds = |bytes: &mut Vec<u8>| bytes.windows(SECRET.len()).any(|window| window == SECRET);
        let pack = packs.iter().find(|pack| self.disk.with_bytes(pack.number, holds) == Some(true))?;
        Some(format!("pack {} has bytes of a local dataset", pack.number))
    }

    /// The next operations of the disk fail.
    pub(super) fn fail(&self, operations: u32) {
        self.failures.store(operations, Ordering::Relaxed);
    }
}
