//! The core's catalog: what is stored where, who may see it, which versions exist, and which devices are known.
//!
//! [`Catalog`] is an interface from the first day: SQLite  on one machine, in memory
//!  for tests and simulations, a PostgreSQL-wire database later. Every method is one whole operation:
//! it happens entirely or not at all, and when it returns it is durable. No method hands out a transaction. All methods
//! block; asynchronous callers use blocking threads.
//!
//! What always holds:
//! * a chunk's entry appears only after its bytes are durable in a pack (see [`crate::store::commit_order`]);
//! * a page that is a member of a dataset has everything below it as members of that dataset too, all of it durable, so
//!   that a commit costs what is new, not what there is (see [`ChunkTable::pages_complete`]);
//! * versions of a dataset are numbered without gaps as they are committed, by its one writer.

mod chunks;
mod collect;
mod collections;
mod datasets;
mod devices;
mod memory;
mod notes;
mod runs;
mod sqlite;
mod upkeep;

use std::fmt;

use headwater_protocol::id::{ID_BYTES, PublicKey};

pub use chunks::{
    AdoptGroup, AdoptedChunk, ChunkCodec, ChunkEntry, ChunkLocation, ChunkMove, ChunkTable, ChunkTotals, PackNumber,
    PackRecord, PackState, Pin, Scope,
};
pub use collect::{CollectorTable, Lease, PackSweep, Root, Roots, SweepError};
pub use collections::{
    AddEditionError, CollectionMember, CollectionRecord, CollectionTable, CreateCollectionError, Edition, NewCollection,
};
pub use datasets::{
    CommitVersionError, CreateDatasetError, DatasetId, DatasetRecord, DatasetTable, Deletion, DropError, Head,
    MISSING_NAMED_MAX, NewDataset, NewVersion, Retention, TagError, TagRecord, VersionRecord, VersionSummary,
};
pub use devices::{DeviceRecord, DeviceState, DeviceTable, RedeemError, TokenRecord};
pub use memory::MemoryCatalog;
pub use notes::NoteTable;
pub use runs::{AppendRunError, BeginRunError, RunEntry, RunRecord, RunTable};
pub use sqlite::{LAYOUT_KNOWN, SqliteCatalog};
pub use upkeep::{CatalogCounts, Upkeep};

/// Everything that a core knows, as one object.
pub trait Catalog:
    ChunkTable
    + DatasetTable
    + CollectionTable
    + DeviceTable
    + CollectorTable
    + NoteTable
    + RunTable
    + Upkeep
    + Send
    + Sync
    + 'static
{
}

impl<T> Catalog for T where
    T: ChunkTable
        + DatasetTable
        + CollectionTable
        + DeviceTable
        + CollectorTable
        + NoteTable
        + RunTable
        + Upkeep
        + Send
        + Sync
        + 'static
{
}

/// Why the catalog as such could not do its work; operations that can be refused have errors of their own around this.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A newer release has changed the layout.
    #[error("this catalog has layout {found}, and this release knows layouts up to {known}: a newer release wrote it")]
    Newer {
        /// The layout in the file.
        found: u64,
        /// The newest that is known here.
        known: u64,
    },
    /// There is no space left. Nothing was changed; the operation may be tried again once there is.
    #[error("there is no space left for the catalog while it would {action}")]
    Full {
        /// What it would have done.
        action: &'static str,
    },
    /// The catalog's own bytes are not what was written.
    #[error("the catalog is damaged, found while it would {action}: {detail}")]
    Damaged {
        /// What it would have done.
        action: &'static str,
        /// What was found.
        detail: String,
    },
    /// The database refused or failed.
    #[error("the catalog could not {action}: {source}")]
    Failed {
        /// What it would have done.
        action: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A point on the core's own wall clock: milliseconds since the Unix epoch. Devices' clocks never get in here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// The point `span` later.
    #[must_use]
    pub fn plus(self, span: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The point `span` earlier, or the epoch.
    #[must_use]
    pub fn minus(self, span: std::time::Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Who writes a dataset or uploads bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// The core itself: imports, models.
    Core,
    /// A device, by its key.
    Device(PublicKey),
}

impl Principal {
    /// As a key of a table: empty for the core, else the public key.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Core => &[],
            Self::Device(key) => &key.0,
        }
    }

    /// The reverse of [`Principal::as_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::Core);
        }
        <[u8; ID_BYTES]>::try_from(bytes).ok().map(|key| Self::Device(PublicKey(key)))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core => f.write_str("core"),
            Self::Device(key) => write!(f, "{key}"),
        }
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core => f.write_str("Core"),
            Self::Device(key) => write!(f, "{key:?}"),
        }
    }
}

/// Opens the SQLite catalog at `path`, creating it if it doesn't exist.
pub fn open(path: &std::path::Path) -> Result<std::sync::Arc<dyn Catalog>, CatalogError> {
    Ok(std::sync::Arc::new(SqliteCatalog::open(path)?))
}

#[cfg(test)]
mod conformance;
