//! The core's disk: packs in memory that know what is durable, with the faults that disks have, and bugs that may be planted.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use core_node::catalog::PackNumber;
use core_node::store::format::PACK_HEADER_BYTES;
use core_node::store::{MemoryPacks, PackError, PackInfo, PackStore};

use super::bugs::Bug;
use super::process::lock;

/// What was appended, and is only in the process's memory.
type Behind = (PackNumber, u64, Vec<Bytes>);

/// The packs as one process sees them.
pub(super) struct DiskPacks {
    disk: Arc<MemoryPacks>,
    bug: Option<Bug>,
    /// Operations that fail, from now on.
    failures: Arc<AtomicU32>,
    behind: Mutex<Option<Behind>>,
}

impl DiskPacks {
    /// The packs on `disk`; the next `failures` operations on them fail.
    pub(super) fn new(disk: Arc<MemoryPacks>, failures: Arc<AtomicU32>, bug: Option<Bug>) -> Self {
        Self { disk, bug, failures, behind: Mutex::default() }
    }

    fn may_fail(&self, action: &'static str, pack: PackNumber) -> Result<(), PackError> {
        let left = self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match left {
            Ok(_) => Err(PackError::Io { action, pack, source: io::Error::other("the disk failed") }),
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
        self.disk.create(pack)
    }

    fn append(&self, pack: PackNumber, at: u64, parts: &[Bytes]) -> Result<(), PackError> {
        self.may_fail("write", pack)?;
        self.catch_up()?;
        if self.bug == Some(Bug::AcknowledgesEarly) && at > PACK_HEADER_BYTES as u64 {
            *lock(&self.behind) = Some((pack, at, parts.to_vec()));
            return Ok(());
        }
        self.disk.append(pack, at, parts)
    }

    fn sync(&self, pack: PackNumber) -> Result<(), PackError> {
        self.may_fail("sync", pack)?;
        if self.bug == Some(Bug::SkipsSync) || lock(&self.behind).is_some() {
            return Ok(());
        }
        self.disk.sync(pack)
    }

    fn sync_folder(&self) -> Result<(), PackError> {
        self.disk.sync_folder()
    }

    fn seal(&self, pack: PackNumber) -> Result<(), PackError> {
        self.catch_up()?;
        self.disk.seal(pack)
    }

    fn read(&self, pack: PackNumber, offset: u64, length: usize) -> Result<Bytes, PackError> {
        self.catch_up()?;
        self.disk.read(pack, offset, length)
    }

    fn truncate(&self, pack: PackNumber, bytes: u64) -> Result<(), PackError> {
        self.disk.truncate(pack, bytes)
    }

    fn delete(&self, pack: PackNumber) -> Result<(), PackError> {
        self.disk.delete(pack)
    }
}
