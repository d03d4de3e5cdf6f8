//! The account of a transfer: every byte by reason, while it runs and at its end.

use std::sync::Arc;

use headwater_protocol::commit::{CommitError, CommitRecord, Receipt};
use headwater_protocol::id::VersionId;
use headwater_protocol::trust::Certificate;

/// Bytes that travelled, by what for. Packet and encryption overhead is counted at the socket, not here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireBytes {
    /// Payloads of pages.
    pub pages: u64,
    /// Payloads of chunks.
    pub chunks: u64,
    /// Control messages and item headers.
    pub overhead: u64,
    /// Payloads that were of no use: sent again, or cut.
    pub wasted: u64,
}

impl WireBytes {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.pages + self.chunks + self.overhead + self.wasted
    }
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Chunks of the version.
    pub chunks_total: u64,
    /// Bytes of the version's files.
    pub bytes_total: u64,
    /// Chunks known to be durable at the receiver.
    pub chunks_done: u64,
    /// Plain bytes that travelled or are known to be there.
    pub bytes_done: u64,
    /// What travelled so far.
    pub wire: WireBytes,
}

/// Called as a transfer moves on, at most once per batch; must not block.
pub type ProgressSink = Arc<dyn Fn(&Progress) + Send + Sync>;

/// A sink that listens to nothing.
pub fn no_progress() -> ProgressSink {
    Arc::new(|_| {})
}

/// What sending a version took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendReport {
    /// Bytes that travelled.
    pub wire: WireBytes,
    /// Pages that were sent.
    pub pages: u64,
    /// Chunks that were sent.
    pub chunks: u64,
    /// Plain bytes of what was sent.
    pub plain_bytes: u64,
    /// Plain bytes of the version that the receiver had already.
    pub saved_dedup_bytes: u64,
    /// Bytes saved by sending deltas.
    pub saved_delta_bytes: u64,
    /// Bytes saved by compression.
    pub saved_compression_bytes: u64,
    /// The commit record that the receiver answered with; empty from a device.
    pub commit: Vec<u8>,
    /// The receipt that the receiver answered with; empty from a device.
    pub receipt: Vec<u8>,
}

impl SendReport {
    /// Checks the core's word that it has committed just this version of this dataset under this number, and its receipt.
    pub fn verify_committed(
        &self,
        dataset: &str,
        number: u64,
        version: VersionId,
        authority: &Certificate,
    ) -> Result<(), CommitError> {
        let record = CommitRecord::decode_committed(&self.commit, dataset, number, version, authority)?;
        Receipt::decode_verified(&self.receipt, &record, authority).map(drop)
    }
}

/// What receiving a version took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiveReport {
    /// Bytes that travelled.
    pub wire: WireBytes,
    /// Pages that were received.
    pub pages: u64,
    /// Chunks that were received.
    pub chunks: u64,
    /// Plain bytes of what was received.
    pub plain_bytes: u64,
    /// Plain bytes of the version that were here already.
    pub saved_dedup_bytes: u64,
    /// Bytes saved by deltas.
    pub saved_delta_bytes: u64,
    /// Bytes saved by compression.
    pub saved_compression_bytes: u64,
    /// What the destination answered at the commit.
    pub committed: super::Committed,
}
