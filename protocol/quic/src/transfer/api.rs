//! What a daemon brings to a transfer beside a [`Source`](super::Source): where bytes go, and what a transfer gives back.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::manifest::Manifest;
use headwater_protocol::record::ChunkRef;
use headwater_protocol::sync::{BoxError, Presence, SourceError, Violation};
use headwater_protocol::wire::{DeltaSource, ItemKey, OrdinalRange, Refusal};

/// A page that a destination holds.
#[derive(Clone, Debug)]
pub struct HeldPage {
    /// Its encoded bytes; may be empty if `complete_below` is set.
    pub bytes: Bytes,
    /// Everything that it names, pages and chunks at any depth, is durably here and in the peer's scope; the walk skips it.
    /// This is what makes a small change cheap. Pages of a committed version in scope are complete, and so are those that
    /// [`Destination::completed`] named and nothing has been deleted from since.
    pub complete_below: bool,
}

/// A verified page or chunk to be made durable.
#[derive(Clone, Debug)]
pub struct IncomingItem {
    /// BLAKE3 of `plain`; verified.
    pub id: ChunkId,
    /// The plain bytes.
    pub plain: Bytes,
    /// A zstd frame of exactly `plain` without a prefix, if it travelled as one: it may be stored as it came.
    pub frame: Option<Bytes>,
    /// Whether it is a page.
    pub is_page: bool,
}

/// Why a destination could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// Something that the sender's operator should read too, as a full disk or quota; it is sent to the peer.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Reading or writing failed; the peer learns only that the transfer ended.
    #[error("the store failed")]
    Io(#[source] BoxError),
}

/// What the other side offers.
#[derive(Clone, Debug)]
pub struct IncomingOffer {
    /// The transfer's number in this session.
    pub transfer: u32,
    /// The dataset.
    pub dataset: String,
    /// The manifest's body; not yet decoded.
    pub manifest: Bytes,
    /// The encoded commit record; not yet checked.
    pub commit: Bytes,
}

impl IncomingOffer {
    /// The version that is offered.
    pub fn version(&self) -> VersionId {
        Manifest::id_of(&self.manifest)
    }
}

/// What a destination answers to the sender once the version is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The encoded commit record signed by both; empty from a device.
    pub commit: Vec<u8>,
    /// The encoded receipt; empty from a device.
    pub receipt: Vec<u8>,
}

/// Where a version goes. All answers are within the peer's scope. The plain methods block: the transfer calls them on
/// blocking threads.
pub trait Destination: Send + Sync + 'static {
    /// Which of these pages are here; one answer for each id, in order.
    fn pages(&self, ids: &[ChunkId]) -> Result<Vec<Option<HeldPage>>, DestinationError>;

    /// Which of these chunks are here, durably; one answer for each, in order.
    fn presence(&self, chunks: &[ChunkRef]) -> Result<Vec<Presence>, DestinationError>;

    /// The bytes of a delta source, exactly `source.length` of them; none if it is not here or out of scope.
    fn delta_source(&self, source: &DeltaSource) -> Result<Option<Bytes>, DestinationError>;

    /// The prefix of an unfinished chunk that was kept.
    fn prefix(&self, id: &ChunkId) -> Result<Option<Bytes>, DestinationError>;

    /// Keeps the first bytes of an unfinished chunk, because the link was cut; unverified, bounded by the destination, and
    /// allowed to be forgotten.
    fn keep_prefix(&self, id: &ChunkId, bytes: &[u8]) -> Result<(), DestinationError>;

    /// Makes a batch durable; it is when the future resolves. Several batches may be in flight.
    fn store(&self, batch: Vec<IncomingItem>) -> BoxFuture<'_, Result<(), DestinationError>>;

    /// Everything below these pages is durable and in scope now. A destination may remember that and say so in
    /// [`HeldPage::complete_below`], until something below is deleted.
    fn completed(&self, pages: &[ChunkId]) -> Result<(), DestinationError> {
        let _ = pages;
        Ok(())
    }

    /// Commits the version: all of it is durable and in scope.
    fn commit<'a>(
        &'a self,
        offer: &'a IncomingOffer,
        manifest: &'a Manifest,
    ) -> BoxFuture<'a, Result<Committed, Refusal>>;
}

/// A version to send.
#[derive(Clone, Debug)]
pub struct OutgoingVersion {
    /// The dataset.
    pub dataset: String,
    /// The manifest's body.
    pub manifest: Bytes,
    /// The encoded commit record.
    pub commit: Bytes,
}

/// Chunks that could not be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnavailableChunk {
    /// Where they stand in manifest order.
    pub range: OrdinalRange,
    /// What the source said of the first; empty on the receiving side.
    pub reason: String,
}

/// Why a transfer ended without a commit.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The other side said no, or this side did through its destination.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The sender's files changed or vanished; everything else arrived.
    #[error("{} stretches of chunks are no longer available at the sender", .0.len())]
    Unavailable(Vec<UnavailableChunk>),
    /// The sender ended it.
    #[error("the sender withdrew the version")]
    Withdrawn,
    /// The other side broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Violation(#[from] Violation),
    /// The source could not read an item.
    #[error("{key:?} could not be sent")]
    Source {
        /// The item.
        key: ItemKey,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// The destination failed.
    #[error("the version could not be stored")]
    Destination(#[from] DestinationError),
    /// What is to be sent is no manifest.
    #[error("the offered manifest can't be used")]
    Manifest(#[from] headwater_protocol::codec::DecodeError),
    /// The version that came is not the one that was asked for.
    #[error("version {got} was offered where {asked} was asked for")]
    WrongVersion {
        /// What was asked for.
        asked: VersionId,
        /// What came.
        got: VersionId,
    },
    /// The other side let it stand still, though the link is there; a new transfer goes on where this one stopped.
    #[error("the other side did nothing for it in {} s", .0.as_secs())]
    Stalled(Duration),
    /// The link was cut; nothing that was stored is lost, a new session goes on where this one stopped.
    #[error("the connection ended: {0}")]
    Disconnected(String),
}
