//! The core's machine: its disk and its catalog, which outlive its process, and the process.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use core_node::catalog::{
    Catalog, ChunkTable, DatasetTable, DeviceRecord, DeviceState, DeviceTable, MemoryCatalog, PackNumber, TokenRecord,
    UnixMs,
};
use core_node::config::Config;
use core_node::control::gc_options;
use core_node::core::{Core, CoreParts, Keys};
use core_node::daemon;
use core_node::rights::Rights;
use core_node::store::format::PACK_HEADER_BYTES;
use core_node::store::{ChunkStore, ChunkStoreOptions, MemoryPacks, PackStore, RecoveryReport};
use headwater_host::config::{HumanBytes, HumanDuration};
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::trust::{Role, Token};
use headwater_protocol::wire::{Following, PeerStatus};
use headwater_quic::work;
use tempfile::TempDir;

use super::bugs::Bug;
use super::contents::SECRET;
use super::identities::{Identities, device_name, folder};
use super::net::CORE;
use super::packs::{DiskPacks, Trap};
use super::process::{Machine, Process, lock};
use crate::processes::hostile::{Conduct, Overheard, take_place};
use crate::random::Random;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// The core's machine.
pub(super) struct CoreMachine {
    machine: Machine,
    folder: TempDir,
    config: Config,
    pub(super) catalog: Arc<MemoryCatalog>,
    disk: Arc<MemoryPacks>,
    failures: Arc<AtomicU32>,
    trap: Arc<Trap>,
    pack_bytes_max: u64,
    bug: Option<Bug>,
    random: Random,
    process: Option<Arc<Process>>,
    /// Who is in its place, and what that one has heard.
    impostor: Option<(Arc<Process>, Arc<Mutex<Overheard>>)>,
    running: Arc<Mutex<Running>>,
}

/// What is known of the process that runs.
#[derive(Default)]
struct Running {
    core: Weak<Core>,
    recovered: Option<RecoveryReport>,
    has_opened: bool,
    damage: Option<String>,
    /// It ended by itself, and why.
    ended: Option<String>,
}

impl CoreMachine {
    pub(super) fn new(machine: Machine, pack_bytes_max: u64, keep_last: u32, bug: Option<Bug>, random: Random) -> Self {
        let mut config = Config { listen: CORE, admin: false, ..Config::default() };
        config.retention.keep_last = keep_last;
        // The world says when.
        config.gc.every = HumanDuration(std::time::Duration::ZERO);
        config.memory.transfers = HumanBytes(core_node::config::TRANSFERS_BYTES_MIN);
        let catalog = MemoryCatalog::new();
        if bug == Some(Bug::SkipsPage) {
            catalog.believe_pages();
        }
        if bug == Some(Bug::IgnoresDamage) {
            catalog.ignore_damage();
        }
        Self {
            machine,
            folder: folder().expect("a folder"),
            config,
            catalog: Arc::new(catalog),
            disk: Arc::new(MemoryPacks::new()),
            failures: Arc::default(),
            trap: Arc::default(),
            pack_bytes_max,
            bug,
            random,
            process: None,
            impostor: None,
            running: Arc::default(),
        }
    }

    /// Somebody who has its keys takes its place, while it doesn't run: knows the newest versions, asks for those of
    /// `fetches` and for `pages`, and takes nothing.
    pub(super) fn take_over(&mut self, fetches: Vec<(String, VersionId)>, pages: Vec<ChunkId>) {
        let heads = self.catalog.datasets().expect("in memory").into_iter().filter_map(|record| {
            let head = record.head?;
            Some(Following { dataset: record.name, number: head.number, version: head.version })
        });
        let conduct = Conduct { is_patient: true, heads: heads.collect(), fetches, pages, ..Conduct::default() };
        let process = Process::new("impostor".to_owned(), self.machine.clone(), self.random.split(), None);
        let heard = Arc::<Mutex<Overheard>>::default();
        let identities = Identities::get();
        let keys = (identities.authority(), identities.core());
        process.spawn(take_place(CORE, keys, conduct, Arc::clone(&heard)));
        self.impostor = Some((process, heard));
    }

    /// Ends whoever is in its place; gives what that one has heard.
    pub(super) fn take_back(&mut self) -> Option<Overheard> {
        let (process, heard) = self.impostor.take()?;
        process.kill();
        Some(std::mem::take(&mut *lock(&heard)))
    }

    /// Gives it the memory that a core has where nobody says otherwise.
    pub(super) fn set_default_memory(&mut self) {
        self.config.memory = Config::default().memory;
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

    /// Makes a token with which one device joins, as its text.
    pub(super) fn add_token(&self, read_patterns: Vec<String>, random: &mut Random) -> String {
        let secret = std::array::from_fn(|_| random.next() as u8);
        let authority = Identities::get().authority().fingerprint();
        let token = Token::new(vec![CORE.to_string()], authority, secret).expect("a token");
        let record = TokenRecord {
            secret_hash: token.digest().0,
            uses_left: 1,
            expires_at: UnixMs(u64::from(u32::MAX) * 1000),
            created_at: UnixMs::default(),
            labels: Vec::new(),
            names: Vec::new(),
            role: Role::Device,
            write_patterns: Vec::new(),
            read_patterns,
        };
        self.catalog.add_token(&record).expect("in memory");
        token.to_text()
    }

    /// Starts the process.
    pub(super) fn start(&mut self) {
        self.failures.store(0, Ordering::Relaxed);
        let process = Process::new("core".to_owned(), self.machine.clone(), self.random.split(), self.forgets());
        *lock(&self.running) = Running::default();
        let (running, packs) = (Arc::clone(&self.running), self.packs(&process));
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
                running.has_opened = true;
            }
            let served = daemon::serve(core).await;
            lock(&running).ended = Some(served.err().map_or_else(String::new, |error| error.to_string()));
        });
        self.process = Some(process);
    }

    fn forgets(&self) -> Option<u64> {
        (self.bug == Some(Bug::LosesWakeUps)).then_some(40)
    }

    fn packs(&self, process: &Arc<Process>) -> Arc<DiskPacks> {
        let (disk, failures, trap) = (Arc::clone(&self.disk), Arc::clone(&self.failures), Arc::clone(&self.trap));
        Arc::new(DiskPacks::new(disk, failures, trap, Arc::clone(process), self.bug))
    }

    /// The process is to die in one of the next operations on its disk.
    pub(super) fn kill_at_disk(&self, operations: u32, power: bool) {
        self.trap.set(operations, power);
    }

    /// It is to die no more in one of its operations.
    pub(super) fn spare(&self) {
        if !self.trap.has_sprung() {
            let _ = self.trap.take();
        }
    }

    /// Takes note of a death in the middle of an operation, if there was one; and whether the power went.
    pub(super) fn died_at_disk(&mut self) -> Option<bool> {
        let power = self.trap.has_sprung().then(|| self.trap.take()).flatten()?;
        self.process = None;
        if power {
            self.lose_power();
        }
        Some(power)
    }

    /// Collects garbage beside whatever else it does; gives how many versions of a dataset stay, or 0 where all do.
    pub(super) fn collect_garbage(&self) -> Option<u64> {
        let (Some(process), Some(core)) = (&self.process, self.core()) else { return None };
        let keep_last = u64::from(core.config.retention.keep_last);
        process.spawn(async move {
            let options = gc_options(&core, false, false);
            // Where it can't, as while something else has the store or the disk fails, it comes to nothing.
            let _ = core.store.collect_in_turns(options, &mut |_| true).await;
        });
        Some(keep_last)
    }

    /// Reads everything again, in time; what it finds damaged is noted for [`damage_found`](Self::damage_found).
    pub(super) fn verify(&self) -> bool {
        let (Some(process), Some(core)) = (&self.process, self.core()) else { return false };
        let running = Arc::clone(&self.running);
        process.spawn(async move {
            let verified = work::spawn_blocking(move || core.store.verify(&mut |_| true)).await;
            if let Ok(Ok(report)) = verified
                && report.damaged_count > 0
            {
                lock(&running).damage = Some(format!("{:?}", report.damaged));
            }
        });
        true
    }

    /// Some bits of a pack become others, or a sector zeros, wherever they lie behind its header; gives which pack.
    pub(super) fn damage(&mut self) -> Option<PackNumber> {
        let behind = PACK_HEADER_BYTES as u64;
        let packs = self.disk.list().expect("in memory");
        let filled: Vec<_> = packs.into_iter().filter(|pack| pack.bytes > behind).collect();
        if filled.is_empty() {
            return None;
        }
        let (pack, random) = (*self.random.pick(&filled), &mut self.random);
        let at = (behind + random.below(pack.bytes - behind)) as usize;
        self.disk.with_bytes(pack.number, |bytes| {
            if random.once_in(2) {
                bytes[at] ^= 1 << random.below(8);
            } else {
                let end = bytes.len().min(at + SECTOR_BYTES);
                bytes[at..end].fill(0);
            }
        })?;
        Some(pack.number)
    }

    /// Whether a chunk is known to be damaged now.
    pub(super) fn knows_damage(&self) -> bool {
        !self.catalog.damaged().expect("in memory").is_empty()
    }

    /// What a verification found damaged.
    pub(super) fn damage_found(&self) -> Option<String> {
        lock(&self.running).damage.take()
    }

    /// Kills the process; with `power`, what was not synced goes in part.
    pub(super) fn kill(&mut self, power: bool) {
        let _ = self.trap.take();
        if let Some(process) = self.process.take() {
            process.kill();
        }
        if power {
            self.lose_power();
        }
    }

    /// Of what is not synced any subset is there: a prefix of each pack's, and of that any sectors hold zeros; and names of
    /// packs came and went or did not.
    fn lose_power(&mut self) {
        let random = &mut self.random;
        let mut names = random.split();
        let mut torn = Vec::new();
        let left = self.disk.after_power_cut(
            |pack, unsynced| {
                let kept = random.below(unsynced as u64 + 1) as usize;
                torn.push((pack, kept));
                kept
            },
            |_| names.once_in(2),
        );
        for (pack, kept) in torn.into_iter().filter(|(_, kept)| *kept > 0) {
            // Everything came, or everything up to some point, or any of it.
            let (come, from) = (random.below(3), random.below(kept as u64) as usize);
            left.with_bytes(pack, |bytes| {
                let begin = bytes.len() - kept;
                match come {
                    0 => {}
                    1 => bytes[begin + from..].fill(0),
                    _ => {
                        let sectors = bytes[begin..].chunks_mut(SECTOR_BYTES);
                        sectors.filter(|_| random.once_in(2)).for_each(|sector| sector.fill(0));
                    }
                }
            });
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
        self.process.as_ref().filter(|process| !process.is_dead())?;
        lock(&self.running).core.upgrade()
    }

    /// What the start found, once.
    pub(super) fn recovered(&self) -> Option<RecoveryReport> {
        lock(&self.running).recovered.take()
    }

    /// Whether the process has not come so far that its store was open.
    pub(super) fn could_not_open(&self) -> bool {
        !lock(&self.running).has_opened
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
