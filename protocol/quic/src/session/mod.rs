//! A session: one connection's control stream, the transfers on it, and their item streams.
//!
//! One small task per session reads and writes control messages, accepts item streams, and hands both to the transfers
//! by number; an idle session owns nothing else. Transfers run in the caller's own task.

use std::sync::Arc;
use std::time::Duration;

use headwater_protocol::id::VersionId;
use headwater_protocol::wire::{Message, Refusal};

use crate::transfer::{
    Destination, IncomingOffer, OutgoingVersion, ProgressSink, ReceiveReport, SendReport, Source, TransferError,
};

/// Which side of the connection this is; it decides which transfer numbers are whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It dialled; its transfers have even numbers.
    Dialler,
    /// It listened; its transfers have odd numbers.
    Listener,
}

/// Settings of a session.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Item streams that a transfer sends on at once.
    pub item_streams: usize,
    /// Payload bytes that a receiver lets be under way or not yet durable, per transfer.
    pub window_bytes: u64,
    /// zstd level of what is compressed for the wire; none sends stored frames as they are and the rest plain.
    pub compression_level: Option<i32>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { item_streams: 4, window_bytes: 8 << 20, compression_level: Some(1) }
    }
}

/// What a transfer is to the link, most urgent first; strict among the streams of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Updates of models.
    ModelUpdate,
    /// Models and subscribed data.
    Subscribed,
    /// Small files and labels.
    Small,
    /// Everything else.
    #[default]
    Bulk,
}

/// Why a session did not do what was asked of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SessionError {
    /// The connection is gone.
    #[error("the connection ended: {0}")]
    Closed(String),
}

/// What a session tells its daemon.
#[derive(Debug)]
pub enum SessionEvent {
    /// A message that belongs to no transfer. Pings are answered inside.
    Message(Message),
    /// The peer offers a version: answer with [`SessionHandle::receive_version`] or [`SessionHandle::refuse`].
    Offer(IncomingOffer),
    /// The peer asks for a version: answer with [`SessionHandle::send_version_as`] or [`SessionHandle::refuse`].
    Fetch {
        /// The number that the offer must carry.
        transfer: u32,
        /// The dataset.
        dataset: String,
        /// Its version.
        version: VersionId,
    },
    /// The session has ended; nothing follows.
    Closed {
        /// Why, for people.
        reason: String,
    },
}

/// Counters of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Control messages sent.
    pub messages_sent: u64,
    /// Control messages received.
    pub messages_received: u64,
    /// Transfers that run now.
    pub transfers: usize,
    /// Round-trip time.
    pub rtt: Duration,
    /// UDP payload bytes sent on the connection.
    pub udp_bytes_sent: u64,
    /// UDP payload bytes received on it.
    pub udp_bytes_received: u64,
}

/// A running session; see [`Session::start`].
#[derive(Debug)]
pub struct Session;

/// What a daemon does with a session. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SessionHandle {}

/// The events of a session, in order.
#[derive(Debug)]
pub struct SessionEvents {}

impl SessionHandle {
    /// Sends a message that belongs to no transfer.
    pub async fn send(&self, message: Message) -> Result<(), SessionError> {
        let _ = message;
        todo!()
    }

    /// Offers a version and sends what the peer lacks of it; resolves when the peer has committed it.
    pub async fn send_version(
        &self,
        version: OutgoingVersion,
        priority: Priority,
        source: Arc<dyn Source>,
        progress: ProgressSink,
    ) -> Result<SendReport, TransferError> {
        let _ = (version, priority, source, progress);
        todo!()
    }

    /// As [`SessionHandle::send_version`], in answer to [`SessionEvent::Fetch`].
    pub async fn send_version_as(
        &self,
        transfer: u32,
        version: OutgoingVersion,
        priority: Priority,
        source: Arc<dyn Source>,
        progress: ProgressSink,
    ) -> Result<SendReport, TransferError> {
        let _ = (transfer, version, priority, source, progress);
        todo!()
    }

    /// Takes an offered version; resolves when it is committed here.
    pub async fn receive_version(
        &self,
        offer: IncomingOffer,
        destination: Arc<dyn Destination>,
        progress: ProgressSink,
    ) -> Result<ReceiveReport, TransferError> {
        let _ = (offer, destination, progress);
        todo!()
    }

    /// Asks for a version and waits for its offer, to check its commit record before a byte of it travels; go on with
    /// [`SessionHandle::receive_version`].
    pub async fn fetch_offer(&self, dataset: &str, version: VersionId) -> Result<IncomingOffer, TransferError> {
        let _ = (dataset, version);
        todo!()
    }

    /// Asks for a version and takes it; the destination checks the commit record in [`Destination::commit`].
    pub async fn fetch_version(
        &self,
        dataset: &str,
        version: VersionId,
        destination: Arc<dyn Destination>,
        progress: ProgressSink,
    ) -> Result<ReceiveReport, TransferError> {
        let _ = (dataset, version, destination, progress);
        todo!()
    }

    /// Refuses an offer or a fetch.
    pub async fn refuse(&self, transfer: u32, refusal: Refusal) -> Result<(), SessionError> {
        let _ = (transfer, refusal);
        todo!()
    }

    /// A round trip on the control stream.
    pub async fn ping(&self) -> Result<Duration, SessionError> {
        todo!()
    }

    /// Ends the session: says goodbye, then closes the connection. Transfers that run end as cut.
    pub fn close(&self, code: u32, reason: &str) {
        let _ = (code, reason);
        todo!()
    }

    /// Counters.
    pub fn stats(&self) -> SessionStats {
        todo!()
    }
}

impl SessionEvents {
    /// The next event; none after [`SessionEvent::Closed`].
    pub async fn next(&mut self) -> Option<SessionEvent> {
        todo!()
    }
}
