//! The core's disk: packs in memory that know what is durable, with the faults that disks have, and bugs that may be planted.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use core_node::catalog::PackNumber;
use core_node::store::format::PACK_HEADER_BYTES;
use core_node::store::{MemoryPacks, PackError, PackInfo, PackStore};

use super::bugs::Bug;
use super::process::{Process, lock};

/// What a disk says that fails.
pub(super) const DISK_FAILED: &str = "the disk failed";

/// What was appended, and is only in the process's memory.
type Behind = (PackNumber, u64, Vec<Bytes>);

/// What unwinds a process that dies in the middle of something. No finding, unlike any other panic.
pub(super) struct Killed;

/// Where in its work on the disk a process is to die.
#[derive(Debug, Default)]
pub(super) struct Trap(Mutex<Armed>);

#[derive(Debug, Default)]
enum Armed {
    #[default]
    No,
    /// Within that many operations; and whether the power goes too.
    After { operations: u32, power: bool },
    /// It has.
    Sprung { power: bool },
}

impl Trap {
    /// From now on it is set: the process dies in the operation with this number, counted from 1.
    pub(super) fn set(&self, operations: u32, power: bool) {
        *lock(&self.0) = Armed::After { operations, power };
    }

    /// It is not set any more; whether it had sprung, and then whether the power went too.
    pub(super) fn take(&self) -> Option<bool> {
        match std::mem::take(&mut *lock(&self.0)) {
            Armed::Sprung { power } => Some(power),
            _ => None,
        }
    }

    /// Whether it has sprung; stays set if not.
    pub(super) fn has_sprung(&self) -> bool {
        matches!(&*lock(&self.0), Armed::Sprung { .. })
    }

    /// An operation begins; whether the process is to die in it.
    fn springs(&self) -> bool {
        let mut armed = lock(&self.0);
        match &mut *armed {
            Armed::After { operations, .. } if *operations > 1 => {
                *operations -= 1;
                false
            }
            Armed::After { power, .. } => {
                *armed = Armed::Sprung { power: *power };
                true
            }
            Armed::No | Armed::Sprung { .. } => false,
        }
    }
}

/// The packs as one process sees them.
pub(super) struct DiskPacks {
    disk: Arc<MemoryPacks>,
    bug: Option<Bug>,
    /// Operations that fail, from now on.
    failures: Arc<AtomicU32>,
    trap: Arc<Trap>,
    process: Arc<Process>,
    behind: Mutex<Option<Behind>>,
}

impl DiskPacks {
    /// The packs on `disk` for `process`, which dies where `trap` says; the next `failures` operations on them fail.
    pub(super) fn new(
        disk: Arc<MemoryPacks>,
        failures: Arc<AtomicU32>,
        trap: Arc<Trap>,
        process: Arc<Process>,
        bug: Option<Bug>,
    ) -> Self {
        Self { disk, bug, failures, trap, process, behind: Mutex::default() }
    }

    /// Does something that changes the disk. Where the process is to die in it, it is done before, or not at all, and nobody
    /// hears how it went.
    fn does<T>(&self, change: impl FnOnce(&MemoryPacks) -> T) -> T {
        if !self.trap.springs() {
            return change(&self.disk);
        }
        if self.process.chance() {
            change(&self.disk);
        }
        self.die()
    }

    fn die(&self) -> ! {
        self.process.kill();
        std::panic::resume_unwind(Box::new(Killed))
    }

    /// A write: where the process is to die in it, some of its parts are written, and of the last of these some bytes.
    fn writes(&self, pack: PackNumber, at: u64, parts: &[Bytes]) -> Result<(), PackError> {
        if !self.trap.springs() {
            return self.disk.append(pack, at, parts);
        }
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        let mut left = self.process.below(bytes as u64 + 1) as usize;
        let torn: Vec<Bytes> = parts
            .iter()
            .map(|part| {
                let kept = part.slice(..left.min(part.len()));
                left -= kept.len();
                kept
            })
            .collect();
        // Whether it succeeds makes no difference any more.
        let _ = self.disk.append(pack, at, &torn);
        self.die()
    }

    fn may_fail(&self, action: &'static str, pack: PackNumber) -> Result<(), PackError> {
        let left = self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match left {
            Ok(_) => Err(PackError::Io { action, pack, source: io::Error::other(DISK_FAILED) }),
            Err(_) => Ok(()),
        }
    }

    /// Writes what only the process has.
    fn catch_up(&self) -> Result<(), PackError> {
        match lock(&self.behind).take() {
            Some((pack, at, parts)) => {
                self.disk.append(pack, at, &parts)?;
                self.disk.sync(pack)
            }
            None => Ok(()),
        }
    }
}

impl PackStore for DiskPacks {
    fn list(&self) -> Result<Vec<PackInfo>, PackError> {
        self.disk.list()
    }

    fn create(&self, pack: PackNumber) -> Result<(), PackError> {
        self.may_fail("create", pack)?;
        self.catch_up()?;
        self.does(|disk| disk.create(pack))
    }

    fn append(&self, pack: PackNumber, at: u64, parts: &[Bytes]) -> Result<(), PackError> {
        self.may_fail("write", pack)?;
        self.catch_up()?;
        if self.bug == Some(Bug::AcknowledgesEarly) && at > PACK_HEADER_BYTES as u64 {
            *lock(&self.behind) = Some((pack, at, parts.to_vec()));
            return Ok(());
        }
        self.writes(pack, at, parts)
    }

    fn sync(&self, pack: PackNumber) -> Result<(), PackError> {
        self.may_fail("sync", pack)?;
        if self.bug == Some(Bug::SkipsSync) || lock(&self.behind).is_some() {
            return Ok(());
        }
        self.does(|disk| disk.sync(pack))
    }

    fn sync_folder(&self) -> Result<(), PackError> {
        self.does(MemoryPacks::sync_folder)
    }

    fn seal(&self, pack: PackNumber) -> Result<(), PackError> {
        self.catch_up()?;
        self.does(|disk| disk.seal(pack))
    }

    fn read(&self, pack: PackNumber, offset: u64, length: usize) -> Result<Bytes, PackError> {
        self.catch_up()?;
        self.disk.read(pack, offset, length)
    }

    fn truncate(&self, pack: PackNumber, bytes: u64) -> Result<(), PackError> {
        self.does(|disk| disk.truncate(pack, bytes))
    }

    fn delete(&self, pack: PackNumber) -> Result<(), PackError> {
        self.does(|disk| disk.delete(pack))
    }
}
