//! Where the bytes of a version that is sent come from.

use bytes::Bytes;

use crate::chunking::CHUNK_BYTES_MAX;
use crate::id::ChunkId;
use crate::tree::DeltaPrefix;
use crate::wire::DeltaSource;

/// An error of a source's or a store's own, carried through a transfer.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The plain or compressed bytes of a page or chunk.
#[derive(Clone, Debug)]
pub enum ItemBody {
    /// Plain bytes; the transfer compresses them where that pays.
    Plain(Bytes),
    /// A zstd frame as the store keeps it; sent as it is.
    Zstd {
        /// The frame.
        frame: Bytes,
        /// Bytes that it decompresses to.
        plain_bytes: u32,
    },
}

/// Bytes that the receiver holds already and that are like the item's own.
#[derive(Clone, Debug)]
pub struct DeltaBase {
    /// Where the receiver finds them; at most [`crate::compress::DELTA_SOURCES_MAX`].
    pub sources: Vec<DeltaSource>,
    /// Their concatenation; at most [`crate::compress::DELTA_PREFIX_BYTES_MAX`].
    pub prefix: Bytes,
}

impl DeltaBase {
    /// What was found of a tree; none if that is nothing.
    pub fn found(prefix: DeltaPrefix) -> Option<Self> {
        let DeltaPrefix { sources, bytes } = prefix;
        (!sources.is_empty()).then(|| Self { sources, prefix: bytes.into() })
    }
}

/// A page or chunk, read and verified by its [`Source`].
#[derive(Clone, Debug)]
pub struct LoadedItem {
    /// Its id.
    pub id: ChunkId,
    /// Its bytes.
    pub body: ItemBody,
    /// What it may travel as a delta over; the transfer uses it only if that is smaller than any other way.
    pub delta: Option<DeltaBase>,
}

impl LoadedItem {
    /// An item of plain bytes without a delta base.
    pub fn plain(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { id: ChunkId::of(&bytes), body: ItemBody::Plain(bytes), delta: None }
    }

    /// Plain bytes of the item; at most [`CHUNK_BYTES_MAX`].
    pub fn plain_bytes(&self) -> u32 {
        match &self.body {
            ItemBody::Plain(bytes) => {
                u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(CHUNK_BYTES_MAX.saturating_add(1))
            }
            ItemBody::Zstd { plain_bytes, .. } => *plain_bytes,
        }
    }
}

/// Why a source has no bytes for an item.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file changed or vanished underneath; a chunk like this is reported, and the transfer does not commit.
    #[error("its bytes are no longer there: {reason}")]
    Unavailable {
        /// What happened, naming the file.
        reason: String,
    },
    /// The peer asked for what is not part of the version or not in its scope; the transfer ends.
    #[error("it is not part of what was offered")]
    OutOfScope,
    /// Reading failed; the transfer ends.
    #[error("it could not be read")]
    Io(#[source] BoxError),
}

/// Where the bytes of a version come from. Blocking: the transfer calls it on blocking threads, several at once.
pub trait Source: Send + Sync + 'static {
    /// A page of the version, or of what else the peer may read. Whoever knows a hash gains nothing by it: answer
    /// [`SourceError::OutOfScope`] for a page that the peer has no business with.
    fn page(&self, id: &ChunkId) -> Result<LoadedItem, SourceError>;

    /// The chunk at a place in the version's manifest order, verified against its id.
    fn chunk(&self, ordinal: u64) -> Result<LoadedItem, SourceError>;
}
