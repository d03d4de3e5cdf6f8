//! The interface of what holds packs: append-only containers of bytes.
//!
//! What stands in a pack is [`super::format`]'s business, in which order things become durable is
//! [`super::commit_order`]'s. A store over S3 fits behind this too: it gathers what is appended, puts it as one object named
//! by pack and offset when it is told to sync, and has nothing to do for the folder.

use std::io;

use bytes::Bytes;

use crate::catalog::PackNumber;

/// What a store says of a pack that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackInfo {
    /// Its number.
    pub number: PackNumber,
    /// Its bytes, synced or not.
    pub bytes: u64,
}

/// Why a store of packs could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// There is no space left.
    #[error("there is no space left to {action} pack {pack}")]
    Full {
        /// What it would have done.
        action: &'static str,
        /// The pack.
        pack: PackNumber,
    },
    /// There is no such pack.
    #[error("there is no pack {pack}")]
    NotFound {
        /// The pack.
        pack: PackNumber,
    },
    /// The pack ends before the bytes that were asked for.
    #[error("pack {pack} ends before byte {end}")]
    Short {
        /// The pack.
        pack: PackNumber,
        /// Where the bytes would have ended.
        end: u64,
    },
    /// The system failed.
    #[error("could not {action} pack {pack}: {source}")]
    Io {
        /// What it would have done.
        action: &'static str,
        /// The pack.
        pack: PackNumber,
        /// Why.
        source: io::Error,
    },
}

impl PackError {
    pub(super) fn io(action: &'static str, pack: PackNumber, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { action, pack },
            io::ErrorKind::NotFound => Self::NotFound { pack },
            _ => Self::Io { action, pack, source },
        }
    }
}

/// Holds packs. One thread writes; any number read. All methods block.
pub trait PackStore: Send + Sync + 'static {
    /// All packs by number.
    fn list(&self) -> Result<Vec<PackInfo>, PackError>;

    /// Creates an empty pack. Its name is durable after [`PackStore::sync_folder`].
    fn create(&self, pack: PackNumber) -> Result<(), PackError>;

    /// Appends `parts` one after the other; `at` is the pack's length, for the store to check. On an error any part of them
    /// may have been appended: [`PackStore::truncate`] says how it is to be.
    fn append(&self, pack: PackNumber, at: u64, parts: &[Bytes]) -> Result<(), PackError>;

    /// Makes what was appended durable. After an error nothing is known of what was appended since the last sync: that
    /// part must be written again, to another pack.
    fn sync(&self, pack: PackNumber) -> Result<(), PackError>;

    /// Makes the names of created packs durable, and that deleted ones are gone.
    fn sync_folder(&self) -> Result<(), PackError>;

    /// The pack will not be appended to again; what was appended is durable when this returns.
    fn seal(&self, pack: PackNumber) -> Result<(), PackError>;

    /// `length` bytes from `offset` on.
    fn read(&self, pack: PackNumber, offset: u64, length: usize) -> Result<Bytes, PackError>;

    /// Cuts what lies beyond `bytes`; durable after the next sync. It waits for nothing that was written before, so that what
    /// goes wrong with that is told to the sync that asks for it.
    fn truncate(&self, pack: PackNumber, bytes: u64) -> Result<(), PackError>;

    /// Deletes a pack; it is no error if it is gone. Reads under way may still finish.
    fn delete(&self, pack: PackNumber) -> Result<(), PackError>;
}
