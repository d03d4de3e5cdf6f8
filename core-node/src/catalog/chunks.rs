//! Chunks: where each is stored, who may see it, and who uploaded it.

use headwater_protocol::id::ChunkId;

use super::{CatalogError, DatasetId, Principal, UnixMs};

/// Number of a pack; packs are numbered from 1 as they are created, and a number is never used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackNumber(pub u64);

impl std::fmt::Display for PackNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:06}", self.0)
    }
}

/// How a chunk's bytes rest in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChunkCodec {
    /// As they are.
    Plain = 0,
    /// As one zstd frame.
    Zstd = 1,
}

impl ChunkCodec {
    /// The codec that is written as `byte`.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Plain),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Where a chunk rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkLocation {
    /// The pack.
    pub pack: PackNumber,
    /// Byte offset of the record's header in the pack.
    pub offset: u64,
    /// Stored bytes after the header.
    pub stored_bytes: u32,
    /// Plain bytes.
    pub plain_bytes: u32,
    /// How the stored bytes become plain.
    pub codec: ChunkCodec,
}

/// What the catalog knows of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Its name.
    pub id: ChunkId,
    /// Where it is.
    pub location: ChunkLocation,
    /// Whether its bytes were found damaged. It counts as absent until it is stored again.
    pub damaged: bool,
}

/// Among what a question about chunks is answered. Everything outside looks as if it didn't exist.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Everything is visible: the core's own work.
    pub everything: bool,
    /// Members of these datasets are visible.
    pub datasets: Vec<DatasetId>,
    /// What this principal uploaded itself is visible while the proof of it lasts.
    pub uploader: Option<Principal>,
}

impl Scope {
    /// The scope of the core itself.
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }
}

/// A durable, expiring proof that a principal uploaded chunks: it makes them visible to that principal and pins them
/// from gc until a version holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Who uploaded.
    pub principal: Principal,
    /// When the proof ends.
    pub expires_at: UnixMs,
    /// What.
    pub chunks: Vec<ChunkId>,
}

/// A chunk whose record is durable in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdoptedChunk {
    /// Its name.
    pub id: ChunkId,
    /// Where it is.
    pub location: ChunkLocation,
}

/// What one group commit of the chunk store enters.
#[derive(Clone, Debug, Default)]
pub struct AdoptGroup {
    /// Chunks that were written. An entry that exists keeps its place, unless it is damaged: then the new place counts.
    pub chunks: Vec<AdoptedChunk>,
    /// Who uploaded what; the chunks are either among `chunks` or have entries already. Pinning refreshes a chunk's
    /// protection from a running gc.
    pub pins: Vec<Pin>,
    /// Durable bytes of the packs that were written.
    pub pack_ends: Vec<(PackNumber, u64)>,
}

/// A chunk that gc copies out of a pack that is mostly dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkMove {
    /// Its name.
    pub id: ChunkId,
    /// Where it was; if it isn't there any more, nothing happens.
    pub from: ChunkLocation,
    /// Where it is now.
    pub to: ChunkLocation,
}

/// What becomes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackState {
    /// Records are appended to it.
    Open,
    /// It is complete; the BLAKE3 of its index is its identity.
    Sealed([u8; 32]),
    /// No entry points into it; its bytes may be deleted.
    Dropped,
}

/// What the catalog knows of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackRecord {
    /// Its number.
    pub number: PackNumber,
    /// What becomes of it.
    pub state: PackState,
    /// Bytes that are durable and entered; what lies beyond was never acknowledged.
    pub end_bytes: u64,
}

/// Sums over all chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ChunkTotals {
    /// Entries, damaged ones included.
    pub chunks: u64,
    /// Bytes that they take in packs, without record headers.
    pub stored_bytes: u64,
    /// Their plain bytes.
    pub plain_bytes: u64,
    /// Entries that are damaged.
    pub damaged: u64,
}

/// Chunks, packs, pins, and membership of chunks in datasets.
pub trait ChunkTable {
    /// The entries of `ids`, in their order, whoever may see them.
    fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkEntry>>, CatalogError>;

    /// The entries of those of `ids` that are visible in `scope`, in their order: members of one of its datasets, or
    /// uploaded by its principal under a proof that lasts at `now`.
    fn locate_visible(
        &self,
        scope: &Scope,
        ids: &[ChunkId],
        now: UnixMs,
    ) -> Result<Vec<Option<ChunkEntry>>, CatalogError>;

    /// For each of `ids`, whether it was committed to `dataset` as a page under which nothing needs to be looked at: everything below
    /// is durable, undamaged, and a member. While any member of the dataset is damaged, the answer is no for all, so
    /// that the next publication finds what to send again.
    fn pages_complete(&self, dataset: DatasetId, ids: &[ChunkId]) -> Result<Vec<bool>, CatalogError>;

    /// Enters what a group commit made durable.
    fn adopt(&self, group: &AdoptGroup) -> Result<(), CatalogError>;

    /// Enters the new places of chunks that gc copied, and the durable bytes of the pack that they are in now.
    fn relocate(&self, moves: &[ChunkMove], pack_end: (PackNumber, u64)) -> Result<u64, CatalogError>;

    /// Marks the chunk damaged if its entry still says `location`. Whether it did.
    fn mark_damaged(&self, id: &ChunkId, location: &ChunkLocation) -> Result<bool, CatalogError>;

    /// All damaged chunks.
    fn damaged(&self) -> Result<Vec<ChunkEntry>, CatalogError>;

    /// The datasets that have `id` as a member.
    fn datasets_holding(&self, id: &ChunkId) -> Result<Vec<DatasetId>, CatalogError>;

    /// All packs by number.
    fn packs(&self) -> Result<Vec<PackRecord>, CatalogError>;

    /// Enters a pack, or the news of it.
    fn put_pack(&self, pack: &PackRecord) -> Result<(), CatalogError>;

    /// Forgets a pack whose bytes are gone.
    fn forget_pack(&self, pack: PackNumber) -> Result<(), CatalogError>;

    /// Entries that point into `pack` from `from_offset` on, by offset, at most `limit`.
    fn chunks_in_pack(&self, pack: PackNumber, from_offset: u64, limit: usize)
    -> Result<Vec<ChunkEntry>, CatalogError>;
}
