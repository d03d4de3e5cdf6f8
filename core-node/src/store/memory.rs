//! Packs in memory, for tests and simulations: they know what is durable, can lose the rest as a power cut would, can fill
//! up, and can fail.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::pack::{PackError, PackInfo, PackStore};
use crate::catalog::PackNumber;

/// Packs in memory.
#[derive(Default)]
pub struct MemoryPacks {
    state: Mutex<State>,
}

#[derive(Clone, Default)]
struct State {
    packs: BTreeMap<PackNumber, MemoryPack>,
    capacity_bytes: Option<u64>,
    syncs_to_fail: u32,
}

#[derive(Clone, Default)]
struct MemoryPack {
    bytes: Vec<u8>,
    durable_bytes: usize,
    durable_name: bool,
    deleted: bool,
}

impl MemoryPacks {
    /// No packs, and room without end.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a power cut leaves: of each pack whose name is durable the durable bytes, and of what was written since as many
    /// bytes as `kept` says of that number. Of a pack whose name came, or went, since the folder was synced, `named` says
    /// whether that came about.
    pub fn after_power_cut(
        &self,
        mut kept: impl FnMut(PackNumber, usize) -> usize,
        mut named: impl FnMut(PackNumber) -> bool,
    ) -> Self {
        let mut state = self.state().clone();
        state.packs.retain(|&number, pack| match (pack.durable_name, pack.deleted) {
            (true, false) => true,
            (true, true) => !named(number),
            (false, false) => named(number),
            (false, true) => false,
        });
        for (&number, pack) in &mut state.packs {
            pack.durable_name = true;
            let unsynced = pack.bytes.len() - pack.durable_bytes;
            pack.bytes.truncate(pack.durable_bytes + kept(number, unsynced).min(unsynced));
            pack.deleted = false;
        }
        Self { state: Mutex::new(State { capacity_bytes: None, syncs_to_fail: 0, ..state }) }
    }

    /// Bounds the bytes of all packs together, as a full disk does.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// Makes the next `count` syncs fail.
    pub fn fail_syncs(&self, count: u32) {
        self.state().syncs_to_fail = count;
    }

    /// Changes bytes under everyone's feet.
    pub fn with_bytes<T>(&self, pack: PackNumber, change: impl FnOnce(&mut Vec<u8>) -> T) -> Option<T> {
        self.state().packs.get_mut(&pack).map(|pack| change(&mut pack.bytes))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        pack: PackNumber,
        body: impl FnOnce(&mut MemoryPack) -> Result<T, PackError>,
    ) -> Result<T, PackError> {
        match self.state().packs.get_mut(&pack) {
            Some(found) if !found.deleted => body(found),
            _ => Err(PackError::NotFound { pack }),
        }
    }
}

impl PackStore for MemoryPacks {
    fn list(&self) -> Result<Vec<PackInfo>, PackError> {
        let state = self.state();
        let present = state.packs.iter().filter(|(_, pack)| !pack.deleted);
        Ok(present.map(|(&number, pack)| PackInfo { number, bytes: pack.bytes.len() as u64 }).collect())
    }

    fn create(&self, pack: PackNumber) -> Result<(), PackError> {
        let mut state = self.state();
        if state.packs.get(&pack).is_some_and(|found| !found.deleted) {
            return Err(PackError::io("create", pack, io::ErrorKind::AlreadyExists.into()));
        }
        state.packs.insert(pack, MemoryPack::default());
        Ok(())
    }

    fn append(&self, pack: PackNumber, at: u64, parts: &[Bytes]) -> Result<(), PackError> {
        let mut state = self.state();
        let used: u64 = state.packs.values().filter(|pack| !pack.deleted).map(|pack| pack.bytes.len() as u64).sum();
        let mut room = state.capacity_bytes.map_or(usize::MAX, |capacity| capacity.saturating_sub(used) as usize);
        let found = state.packs.get_mut(&pack).filter(|found| !found.deleted).ok_or(PackError::NotFound { pack })?;
        if found.bytes.len() as u64 != at {
            return Err(PackError::io("write", pack, io::Error::other("another length was expected")));
        }
        for part in parts {
            let fits = part.len().min(room);
            found.bytes.extend_from_slice(&part[..fits]);
            room -= fits;
            if fits < part.len() {
                return Err(PackError::Full { action: "write", pack });
            }
        }
        Ok(())
    }

    fn sync(&self, pack: PackNumber) -> Result<(), PackError> {
        {
            let mut state = self.state();
            if state.syncs_to_fail > 0 {
                state.syncs_to_fail -= 1;
                return Err(PackError::io("sync", pack, io::Error::other("a planted failure")));
            }
        }
        self.with(pack, |found| {
            found.durable_bytes = found.bytes.len();
            Ok(())
        })
    }

    fn sync_folder(&self) -> Result<(), PackError> {
        let mut state = self.state();
        state.packs.retain(|_, pack| !pack.deleted);
        for pack in state.packs.values_mut() {
            pack.durable_name = true;
        }
        Ok(())
    }

    fn seal(&self, pack: PackNumber) -> Result<(), PackError> {
        self.sync(pack)
    }

    fn read(&self, pack: PackNumber, offset: u64, length: usize) -> Result<Bytes, PackError> {
        self.with(pack, |found| {
            let end = offset.saturating_add(length as u64);
            let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok()).map(|(start, end)| start..end);
            match range.and_then(|range| found.bytes.get(range)) {
                Some(bytes) => Ok(Bytes::copy_from_slice(bytes)),
                None => Err(PackError::Short { pack, end }),
            }
        })
    }

    fn truncate(&self, pack: PackNumber, bytes: u64) -> Result<(), PackError> {
        self.with(pack, |found| {
            found.bytes.truncate(bytes as usize);
            found.durable_bytes = found.durable_bytes.min(found.bytes.len());
            Ok(())
        })
    }

    fn delete(&self, pack: PackNumber) -> Result<(), PackError> {
        if let Some(found) = self.state().packs.get_mut(&pack) {
            found.deleted = true;
        }
        Ok(())
    }
}
