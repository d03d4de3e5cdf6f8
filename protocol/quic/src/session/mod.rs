//! A session: one connection's control stream, the transfers on it, and their item streams.
//!
//! One small task per session reads and writes control messages, accepts item streams, and hands both to the transfers
//! by number; an idle session owns nothing else. Transfers run in the caller's own task.

mod account;
mod memory;
mod run;
pub(crate) mod shared;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use headwater_protocol::id::VersionId;
use headwater_protocol::sync::{PATIENCE, Patience, Violation};
use headwater_protocol::time::Timestamp;
use headwater_protocol::wire::{Message, Refusal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::endpoint::TransportOptions;
use crate::framing::ControlStream;
use crate::transfer::receive::looks;
use crate::transfer::{
    self, Destination, IncomingOffer, Loaders, OutgoingVersion, ProgressSink, ReceiveReport, SendReport, Source,
    TransferError,
};
use crate::work;
pub use account::SentAccount;
pub(crate) use account::TransferAccount;
pub use memory::MemoryBudget;
pub(crate) use memory::{MemoryShare, TakenMemory};
use shared::{Claim, OUTGOING_MAX, Role, Shared, TransferEvent};

/// Events that wait for the daemon.
const EVENTS_MAX: usize = 32;

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
    /// What the connection's transport holds that was sent and not acknowledged; as there.
    pub send_window_bytes: u64,
    /// Payload bytes that a receiver lets be under way or not yet durable, per transfer; with `memory`, that divides it.
    pub window_bytes: u64,
    /// zstd level of what is compressed for the wire; none sends stored frames as they are and the rest plain.
    pub compression_level: Option<i32>,
    /// Memory for payloads, shared with other sessions; none bounds each transfer by `window_bytes` only.
    pub memory: Option<MemoryBudget>,
    /// How long a transfer may stand still before it is given up; see [`Patience`](headwater_protocol::sync::Patience).
    pub patience: Duration,
    /// Threads that read what is sent; none takes tokio's blocking threads, of which there are as many as are wanted.
    pub loaders: Option<Loaders>,
    /// Where it is counted what is sent for the first time and what again, over all sessions with this peer.
    pub account: Option<Arc<SentAccount>>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            item_streams: 4,
            send_window_bytes: TransportOptions::default().send_window_bytes,
            window_bytes: 8 << 20,
            compression_level: Some(1),
            memory: None,
            patience: PATIENCE,
            loaders: None,
            account: None,
        }
    }
}

/// What a transfer is to the link, most urgent first: strict among the streams of one
/// connection, but for a small share that each has; see [`Turns`](headwater_protocol::sync::Turns).
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

/// What a peer has asked for, by the number of its transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To take what it offers.
    Offer(u32),
    /// To send a version.
    Fetch(u32),
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
    /// Bytes of the packets that were taken for lost; what was in them was sent again.
    pub lost_bytes: u64,
}

/// Starts sessions.
#[derive(Clone, Copy, Debug)]
pub struct Session;

/// What a daemon does with a session. Cheap to clone; the session lives on without it.
#[derive(Clone, Debug)]
pub struct SessionHandle {
    shared: Arc<Shared>,
}

/// The events of a session, in order. A daemon must keep taking them: the control stream waits for it.
#[derive(Debug)]
pub struct SessionEvents {
    events: mpsc::Receiver<Box<SessionEvent>>,
}

impl Session {
    /// Runs a session over a connection whose hello and welcome are done.
    pub fn start(
        connection: quinn::Connection,
        control: ControlStream,
        side: Side,
        options: SessionOptions,
    ) -> (SessionHandle, SessionEvents) {
        let (outgoing, outgoing_queue) = mpsc::channel(OUTGOING_MAX);
        let (events, event_queue) = mpsc::channel(EVENTS_MAX);
        let shared = Arc::new(Shared::new(connection, side, options, outgoing));
        if shared.options.memory.is_some() {
            shared.follow_windows();
        }
        work::spawn(run::run(Arc::clone(&shared), control.split(), outgoing_queue, events));
        (SessionHandle { shared }, SessionEvents { events: event_queue })
    }
}

impl SessionHandle {
    /// Sends a message that belongs to no transfer.
    pub async fn send(&self, message: Message) -> Result<(), SessionError> {
        self.shared.send(message).await
    }

    /// Offers a version and sends what the peer lacks of it; resolves when the peer has committed it. Dropped before that,
    /// it withdraws.
    pub async fn send_version(
        &self,
        version: OutgoingVersion,
        priority: Priority,
        source: Arc<dyn Source>,
        progress: ProgressSink,
    ) -> Result<SendReport, TransferError> {
        self.send_version_as(self.shared.next_transfer(), version, priority, source, progress).await
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
        let claim = self.shared.claim(transfer, Role::Sender)?;
        Box::pin(transfer::send::run(claim, version, priority, source, progress)).await
    }

    /// Takes an offered version; resolves when it is committed here. Dropped before that, it calls the transfer off; what is
    /// durable stays.
    pub async fn receive_version(
        &self,
        offer: IncomingOffer,
        destination: Arc<dyn Destination>,
        progress: ProgressSink,
    ) -> Result<ReceiveReport, TransferError> {
        let claim = self.shared.claim(offer.transfer, Role::Receiver)?;
        Box::pin(transfer::receive::run(claim, offer, destination, progress)).await
    }

    /// Asks for a version and waits for its offer, to check its commit record before a byte of it travels; go on with
    /// [`SessionHandle::receive_version`] or [`SessionHandle::refuse`].
    pub async fn fetch_offer(&self, dataset: &str, version: VersionId) -> Result<IncomingOffer, TransferError> {
        let (claim, offer) = self.fetch(dataset, version).await?;
        claim.hand_back();
        Ok(offer)
    }

    /// Asks for a version and takes it; the destination checks the commit record in [`Destination::commit`].
    pub async fn fetch_version(
        &self,
        dataset: &str,
        version: VersionId,
        destination: Arc<dyn Destination>,
        progress: ProgressSink,
    ) -> Result<ReceiveReport, TransferError> {
        let (claim, offer) = self.fetch(dataset, version).await?;
        Box::pin(transfer::receive::run(claim, offer, destination, progress)).await
    }

    async fn fetch(&self, dataset: &str, version: VersionId) -> Result<(Claim, IncomingOffer), TransferError> {
        let transfer = self.shared.next_transfer();
        let mut claim = self.shared.claim(transfer, Role::Fetcher)?;
        let fetch = Message::Fetch { transfer, dataset: dataset.to_owned(), version };
        self.shared.send(fetch).await.map_err(|error| TransferError::Disconnected(error.to_string()))?;
        match self.answer_to_fetch(&mut claim).await? {
            TransferEvent::Message(Message::Offer { transfer, dataset, manifest, commit }) => {
                let offer =
                    IncomingOffer { transfer, dataset, manifest: Bytes::from(manifest), commit: Bytes::from(commit) };
                if offer.version() != version {
                    return Err(TransferError::WrongVersion { asked: version, got: offer.version() });
                }
                Ok((claim, offer))
            }
            TransferEvent::Message(Message::Refused { refusal, .. }) => {
                claim.done();
                Err(TransferError::Refused(refusal))
            }
            TransferEvent::Message(Message::Withdraw { .. }) => {
                claim.done();
                Err(TransferError::Withdrawn)
            }
            _ => Err(Violation::Unexpected { message: "something else", state: "asked for an offer".into() }.into()),
        }
    }

    /// What answers a fetch. The peer may have others to serve first, and says so; or they are served on this connection.
    async fn answer_to_fetch(&self, claim: &mut Claim) -> Result<TransferEvent, TransferError> {
        let (span, began) = (self.shared.options.patience, Instant::now());
        let now = || Timestamp::from_nanos(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let mut patience = Patience::new(span, Timestamp::ZERO, self.shared.travelled_bytes());
        let mut look = looks(&patience);
        loop {
            tokio::select! {
                biased;
                event = claim.events.recv() => match event.map(|event| *event) {
                    Some(TransferEvent::Message(Message::Unavailable { ranges, .. })) if ranges.is_empty() => {
                        patience.handle_sign(now());
                    }
                    Some(event) => return Ok(event),
                    None => return Err(TransferError::Disconnected(self.shared.why_ended())),
                },
                _ = look.tick() => {
                    patience.handle_bytes(now(), self.shared.travelled_bytes());
                    if patience.is_over(now()) {
                        return Err(TransferError::Stalled(span));
                    }
                }
            }
        }
    }

    /// Waits for the turn of an offer or a fetch, and meanwhile gives the peer signs of life of it, so that it waits as well.
    pub async fn wait_turn<T>(&self, asked: Asked, turn: impl Future<Output = T>) -> T {
        let patience = Patience::new(self.shared.options.patience, Timestamp::ZERO, 0);
        let (mut turn, mut look) = (std::pin::pin!(turn), looks(&patience));
        loop {
            tokio::select! {
                biased;
                turn = &mut turn => return turn,
                _ = look.tick() => {
                    let sign = match asked {
                        Asked::Offer(transfer) => Message::Grant { transfer, bytes: 0 },
                        Asked::Fetch(transfer) => Message::Unavailable { transfer, ranges: Vec::new() },
                    };
                    // Where the queue is full, bytes flow, and show as much.
                    let _ = self.shared.outgoing.try_send(Box::new(sign));
                }
            }
        }
    }

    /// Refuses an offer or a fetch.
    pub async fn refuse(&self, transfer: u32, refusal: Refusal) -> Result<(), SessionError> {
        self.shared.forget(transfer);
        self.shared.send(Message::Refused { transfer: Some(transfer), refusal }).await
    }

    /// A round trip on the control stream.
    pub async fn ping(&self) -> Result<Duration, SessionError> {
        let (number, answer) = self.shared.new_ping();
        let started = Instant::now();
        self.send(Message::Ping(number)).await?;
        answer.await.map_err(|_| SessionError::Closed(self.shared.why_ended()))?;
        Ok(started.elapsed())
    }

    /// Ends the session: says goodbye, then closes the connection. Transfers that run end as cut.
    pub fn close(&self, code: u32, reason: &str) {
        self.shared.closing.send_if_modified(|closing| {
            let first = closing.is_none();
            if first {
                *closing = Some((code, reason.to_owned()));
            }
            first
        });
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// The connection below, for its counters.
    pub fn connection(&self) -> &quinn::Connection {
        &self.shared.connection
    }

    /// Counters.
    pub fn stats(&self) -> SessionStats {
        let link = self.shared.connection.stats();
        SessionStats {
            messages_sent: self.shared.messages_sent.load(Ordering::Relaxed),
            messages_received: self.shared.messages_received.load(Ordering::Relaxed),
            transfers: self.shared.open_transfers(),
            rtt: link.path.rtt,
            udp_bytes_sent: link.udp_tx.bytes,
            udp_bytes_received: link.udp_rx.bytes,
            lost_bytes: link.path.lost_bytes,
        }
    }
}

impl SessionEvents {
    /// The next event; none after [`SessionEvent::Closed`].
    pub async fn next(&mut self) -> Option<SessionEvent> {
        self.events.recv().await.map(|event| *event)
    }
}
