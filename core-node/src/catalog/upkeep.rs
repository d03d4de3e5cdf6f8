//! What keeps a catalog itself well, and how much is in it.

use super::{CatalogError, ChunkTotals};

/// How much a catalog knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CatalogCounts {
    /// Devices that may connect.
    pub devices: u64,
    /// Datasets.
    pub datasets: u64,
    /// Versions of all datasets.
    pub versions: u64,
    /// Packs, those included whose bytes are about to go.
    pub packs: u64,
    /// Their durable bytes.
    pub pack_bytes: u64,
    /// Chunks.
    pub chunks: ChunkTotals,
}

/// Upkeep.
pub trait Upkeep {
    /// How much is in it. Costs the same however many chunks there are.
    fn counts(&self) -> Result<CatalogCounts, CatalogError>;
    /// Gives room back that deletions left. For quiet hours; others wait at most for a part of it.
    fn tidy(&self) -> Result<(), CatalogError>;
    /// Reads all of the catalog: none if it is sound, else what was found first.
    fn check(&self) -> Result<Option<String>, CatalogError>;
}
