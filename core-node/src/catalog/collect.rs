//! What gc asks of the catalog: where to begin marking, and to let go of what was not marked.
//!
//! gc runs beside uploads and commits. Two counters keep it safe. The **epoch** grows when a gc begins, and every chunk that
//! is stored or pinned from then on carries the new one: the sweep leaves it alone. The **root sequence** grows
//! with each commit and lease: a sweep names the sequence up to which it has marked, and is refused if there is more.

use headwater_protocol::id::{ChunkId, VersionId};

use super::{CatalogError, DatasetId, PackNumber, UnixMs};

/// Where marking begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The version's dataset and number; none for a lease.
    pub version: Option<(DatasetId, u64)>,
    /// The root page.
    pub page: ChunkId,
}

/// The roots that came after a sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// The sequence up to which these are all.
    pub sequence: u64,
    /// The roots.
    pub roots: Vec<Root>,
}

/// A running download or job that keeps a version's bytes although nothing else may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Unique; chosen by the holder.
    pub id: String,
    /// The version.
    pub version: VersionId,
    /// Its root page.
    pub root: Option<ChunkId>,
    /// When it ends unless it is renewed.
    pub expires_at: UnixMs,
}

/// What a look at one pack found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackSweep {
    /// Chunks that stay.
    pub live_chunks: u64,
    /// Their stored bytes.
    pub live_bytes: u64,
    /// Chunks that nothing needs.
    pub dead_chunks: u64,
    /// Their stored bytes.
    pub dead_bytes: u64,
    /// Nothing in it was live: its entries are gone, and its bytes may go.
    pub dropped: bool,
}

/// Why a sweep didn't happen.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// Roots were added since the marking; mark them and try again.
    #[error("roots were added meanwhile")]
    RootsChanged,
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Roots, leases and the sweep.
pub trait CollectorTable {
    /// Begins a gc: ends proofs and leases that expired before `now`, and gives the new epoch.
    fn begin_collection(&self, now: UnixMs) -> Result<u64, CatalogError>;
    /// The root pages of all versions and leases entered after `sequence` (0: all).
    fn roots(&self, sequence: u64) -> Result<Roots, CatalogError>;
    /// Every chunk that a proof pins; may repeat.
    fn each_pinned(&self, visit: &mut dyn FnMut(ChunkId)) -> Result<(), CatalogError>;
    /// Datasets that lost versions since they were last trimmed.
    fn datasets_to_trim(&self) -> Result<Vec<DatasetId>, CatalogError>;
    /// Takes those members from `dataset` that `keep` doesn't want; how many.
    fn trim_members(
        &self,
        dataset: DatasetId,
        sequence: u64,
        keep: &dyn Fn(&ChunkId) -> bool,
    ) -> Result<u64, SweepError>;
    /// Counts what is live in `pack`: what `live` wants, what is of `epoch` or newer, what is pinned. If that is nothing and
    /// `act` is set, the pack's entries are removed and it is marked as dropped.
    fn sweep_pack(
        &self,
        pack: PackNumber,
        epoch: u64,
        sequence: u64,
        live: &dyn Fn(&ChunkId) -> bool,
        act: bool,
    ) -> Result<PackSweep, SweepError>;

    /// Takes or renews a lease.
    fn put_lease(&self, lease: &Lease) -> Result<(), CatalogError>;
    /// Ends a lease; whether there was one.
    fn end_lease(&self, id: &str) -> Result<bool, CatalogError>;
    /// All leases.
    fn leases(&self) -> Result<Vec<Lease>, CatalogError>;
}
