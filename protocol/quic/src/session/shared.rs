//! What the tasks of a session share: the transfers by number, and the way to the control stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use headwater_protocol::sync::Violation;
use headwater_protocol::wire::{ItemHeader, Message, PAYLOAD_BYTES_MAX, Refusal};
use quinn::VarInt;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::account::SessionAccount;
use super::{SessionError, SessionOptions, Side};
use crate::endpoint::close;
use crate::transfer::TransferError;
use crate::transfer::lanes::{Lanes, Room};

/// Control messages that wait to be written.
pub(super) const OUTGOING_MAX: usize = 32;
/// Events of one transfer that wait for it; its reader waits when there are more. Their payload is bounded by grants.
const TRANSFER_EVENTS_MAX: usize = 64;
/// Transfers that may be open at once on a session, offers that nobody has answered included.
pub(super) const TRANSFERS_MAX: usize = 256;
/// Replies of the session itself that may wait to be written; a peer that makes more and reads none loses the oldest.
const REPLIES_MAX: usize = 64;
/// Pings that may wait for their answers.
const PINGS_MAX: usize = 64;

/// What happens to a transfer.
#[derive(Debug)]
pub(crate) enum TransferEvent {
    /// A control message.
    Message(Message),
    /// An item has arrived.
    Item(ArrivedItem),
    /// An item was cut: these are the first bytes of its payload.
    Cut(ArrivedItem),
    /// The peer broke the protocol on an item stream.
    Broken(Violation),
}

/// An item off the wire.
#[derive(Debug)]
pub(crate) struct ArrivedItem {
    pub(crate) header: ItemHeader,
    pub(crate) header_bytes: usize,
    pub(crate) payload: Bytes,
}

/// Connection window of a session that receives nothing, and what it has beyond the windows of its transfers: room for
/// control messages and item headers, whatever items are on their way.
const CONTROL_WINDOW_BYTES: u64 = 1 << 20;

/// Payload bytes that a peer may still send to a transfer; readers look here before they allocate.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    granted: AtomicU64,
    taken: AtomicU64,
    arrived: AtomicU64,
}

impl Gate {
    /// So many payload bytes have come.
    pub(crate) fn note_arrived(&self, bytes: u64) {
        self.arrived.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Payload bytes that have come so far, also of items that are not whole yet.
    pub(crate) fn arrived_bytes(&self) -> u64 {
        self.arrived.load(Ordering::Acquire)
    }

    /// Lets in so many more.
    pub(crate) fn open(&self, bytes: u64) {
        self.granted.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Takes the bytes of an item that begins. The last one of a grant may be longer than what was left of it, and come
    /// before those that were sent before it.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), Violation> {
        let sent = self.taken.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let granted = self.granted.load(Ordering::Acquire);
        let over = granted == 0 || sent > granted + u64::from(PAYLOAD_BYTES_MAX);
        if over { Err(Violation::OverGrant { sent, granted }) } else { Ok(()) }
    }
}

/// What this side is in a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It sends.
    Sender,
    /// It receives what was offered.
    Receiver,
    /// It has asked for an offer.
    Fetcher,
}

/// The sending end of a transfer's events.
pub(crate) type TransferSender = mpsc::Sender<Box<TransferEvent>>;
/// The receiving end.
pub(crate) type TransferReceiver = mpsc::Receiver<Box<TransferEvent>>;

/// An open transfer.
#[derive(Clone, Debug)]
struct Entry {
    events: TransferSender,
    gate: Arc<Gate>,
    /// It waits for the offer that answers its fetch.
    fetching: bool,
    /// Its receiving end, until somebody takes the transfer on.
    unclaimed: Option<Arc<Mutex<Option<TransferReceiver>>>>,
}

/// How a message of a transfer is to be handled.
pub(super) enum Route {
    /// It goes to the transfer.
    To(TransferSender),
    /// It opens a transfer that somebody must take on.
    New,
    /// There is no such transfer (any more).
    Nowhere,
    /// There are too many.
    TooMany,
}

/// Windows of one session.
#[derive(Debug, Default)]
struct Windows {
    by_transfer: BTreeMap<u32, u64>,
    connection_bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) connection: quinn::Connection,
    pub(crate) options: SessionOptions,
    side: Side,
    pub(super) outgoing: mpsc::Sender<Box<Message>>,
    /// What the reader answers by itself: it never waits for the writer, or two sessions could wait for each other.
    replies: Mutex<VecDeque<Box<Message>>>,
    reply_added: Notify,
    transfers: Mutex<BTreeMap<u32, Entry>>,
    next_transfer: AtomicU32,
    pings: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
    next_ping: AtomicU64,
    /// Windows of the transfers that receive, where they share a budget, and the connection window that was set for them.
    windows: Mutex<Windows>,
    /// Which transfers send first.
    pub(crate) lanes: Arc<Lanes>,
    pub(super) account: Option<SessionAccount>,
    pub(super) closing: watch::Sender<Option<(u32, String)>>,
    pub(super) ended: AtomicBool,
    pub(super) messages_sent: AtomicU64,
    pub(super) messages_received: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        connection: quinn::Connection,
        side: Side,
        options: SessionOptions,
        outgoing: mpsc::Sender<Box<Message>>,
    ) -> Self {
        let first = match side {
            Side::Dialler => 0,
            Side::Listener => 1,
        };
        let room = Room::new(connection.clone(), options.send_window_bytes);
        Self {
            account: options.account.clone().map(SessionAccount::new),
            connection,
            options,
            side,
            outgoing,
            replies: Mutex::default(),
            reply_added: Notify::new(),
            transfers: Mutex::default(),
            next_transfer: AtomicU32::new(first),
            pings: Mutex::default(),
            next_ping: AtomicU64::new(0),
            windows: Mutex::default(),
            lanes: Lanes::new(room),
            closing: watch::Sender::new(None),
            ended: AtomicBool::new(false),
            messages_sent: AtomicU64::new(0),
            messages_received: AtomicU64::new(0),
        }
    }

    /// A transfer may have so many payload bytes under way from now on: the connection window follows.
    pub(crate) fn set_window(&self, transfer: u32, window_bytes: u64) {
        let mut windows = lock(&self.windows);
        windows.by_transfer.insert(transfer, window_bytes);
        self.follow(&mut windows);
    }

    /// Sets the connection window to what the transfers need. It is made larger at once and smaller in large steps: either
    /// costs a lock on the connection.
    pub(super) fn follow_windows(&self) {
        self.follow(&mut lock(&self.windows));
    }

    fn follow(&self, windows: &mut Windows) {
        let bytes = windows.by_transfer.values().sum::<u64>() + CONTROL_WINDOW_BYTES;
        if bytes > windows.connection_bytes || bytes <= windows.connection_bytes / 2 {
            windows.connection_bytes = bytes;
            self.connection.set_receive_window(VarInt::try_from(bytes).unwrap_or(VarInt::MAX));
        }
    }

    fn transfers(&self) -> MutexGuard<'_, BTreeMap<u32, Entry>> {
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pings(&self) -> MutexGuard<'_, BTreeMap<u64, oneshot::Sender<()>>> {
        self.pings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a transfer that this side begins.
    pub(super) fn next_transfer(&self) -> u32 {
        self.next_transfer.fetch_add(2, Ordering::Relaxed)
    }

    /// Whether the peer may begin a transfer with this number.
    fn is_peers(&self, transfer: u32) -> bool {
        let even = transfer.is_multiple_of(2);
        match self.side {
            Side::Dialler => !even,
            Side::Listener => even,
        }
    }

    /// Takes a transfer on: one that the peer opened and nobody has taken, or a new one.
    pub(crate) fn claim(self: &Arc<Self>, transfer: u32, role: Role) -> Result<Claim, TransferError> {
        let mut transfers = self.transfers();
        if self.ended.load(Ordering::Acquire) {
            return Err(TransferError::Disconnected(self.why_ended()));
        }
        let (gate, events) = if let Some(entry) = transfers.get_mut(&transfer) {
            let events = entry.unclaimed.take().and_then(|slot| lock(&slot).take());
            let taken = || TransferError::Disconnected(format!("transfer {transfer} is taken already"));
            (Arc::clone(&entry.gate), events.ok_or_else(taken)?)
        } else {
            let (sender, receiver) = mpsc::channel(TRANSFER_EVENTS_MAX);
            let gate = Arc::<Gate>::default();
            let fetching = role == Role::Fetcher;
            transfers.insert(transfer, Entry { events: sender, gate: Arc::clone(&gate), fetching, unclaimed: None });
            (gate, receiver)
        };
        drop(transfers);
        Ok(Claim { shared: Arc::clone(self), transfer, gate, events, role, done: false })
    }

    /// Registers a transfer that the peer opened, until somebody claims it.
    pub(super) fn announce(&self, transfer: u32) {
        let (sender, receiver) = mpsc::channel(TRANSFER_EVENTS_MAX);
        let unclaimed = Some(Arc::new(Mutex::new(Some(receiver))));
        let entry = Entry { events: sender, gate: Arc::default(), fetching: false, unclaimed };
        self.transfers().insert(transfer, entry);
    }

    /// Where a transfer's message goes.
    pub(super) fn route(&self, message: &Message, transfer: u32) -> Route {
        let mut transfers = self.transfers();
        let open = transfers.len();
        match (message, transfers.get_mut(&transfer)) {
            // The offer that answers a fetch goes to whoever fetches, once.
            (Message::Offer { .. }, Some(entry)) if !entry.fetching => Route::Nowhere,
            (Message::Fetch { .. }, Some(_)) => Route::Nowhere,
            (message, Some(entry)) => {
                entry.fetching &= !matches!(message, Message::Offer { .. });
                Route::To(entry.events.clone())
            }
            (Message::Offer { .. } | Message::Fetch { .. }, None) if self.is_peers(transfer) => {
                if open < TRANSFERS_MAX { Route::New } else { Route::TooMany }
            }
            (_, None) => Route::Nowhere,
        }
    }

    /// The transfer that an item stream belongs to.
    pub(crate) fn receiving(&self, transfer: u32) -> Option<(TransferSender, Arc<Gate>)> {
        self.transfers().get(&transfer).map(|entry| (entry.events.clone(), Arc::clone(&entry.gate)))
    }

    pub(crate) fn forget(&self, transfer: u32) {
        self.transfers().remove(&transfer);
        let mut windows = lock(&self.windows);
        if windows.by_transfer.remove(&transfer).is_some() {
            self.follow(&mut windows);
        }
    }

    pub(super) fn open_transfers(&self) -> usize {
        self.transfers().len()
    }

    /// Waits for room in the queue.
    pub(crate) async fn reserve(&self) -> Result<mpsc::Permit<'_, Box<Message>>, SessionError> {
        self.outgoing.reserve().await.map_err(|_| SessionError::Closed(self.why_ended()))
    }

    /// Queues a message.
    pub(crate) async fn send(&self, message: Message) -> Result<(), SessionError> {
        // The writer may take a moment longer than the session; what it would take then goes nowhere.
        if self.ended.load(Ordering::Acquire) {
            return Err(SessionError::Closed(self.why_ended()));
        }
        let sent = self.outgoing.send(Box::new(message)).await;
        sent.map_err(|_| SessionError::Closed(self.why_ended()))
    }

    /// Leaves a message for the writer, without waiting.
    pub(super) fn reply(&self, message: Message) {
        let mut replies = lock(&self.replies);
        if replies.len() == REPLIES_MAX {
            replies.pop_front();
        }
        replies.push_back(Box::new(message));
        self.reply_added.notify_one();
    }

    /// The next message that [`Shared::reply`] left. Cancel-safe.
    pub(super) async fn next_reply(&self) -> Box<Message> {
        loop {
            if let Some(message) = lock(&self.replies).pop_front() {
                return message;
            }
            self.reply_added.notified().await;
        }
    }

    /// A ping's number, and what resolves when its answer is there.
    pub(super) fn new_ping(&self) -> (u64, oneshot::Receiver<()>) {
        let number = self.next_ping.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let mut pings = self.pings();
        pings.insert(number, sender);
        while pings.len() > PINGS_MAX {
            pings.pop_first();
        }
        (number, receiver)
    }

    pub(super) fn pong(&self, number: u64) {
        if let Some(ping) = self.pings().remove(&number) {
            // Nobody may be waiting any more.
            let _ = ping.send(());
        }
    }

    /// The session has ended: transfers get no more events.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.transfers().clear();
        self.pings().clear();
    }

    /// UDP bytes that travelled on the connection.
    pub(crate) fn travelled_bytes(&self) -> u64 {
        let stats = self.connection.stats();
        stats.udp_tx.bytes + stats.udp_rx.bytes
    }

    /// Why the connection ended, for people.
    pub(crate) fn why_ended(&self) -> String {
        self.connection
            .close_reason()
            .map_or_else(|| "the session was closed".to_owned(), |error| close::describe(&error))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A transfer that somebody has taken on. Dropped before its end, it is called off.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) shared: Arc<Shared>,
    pub(crate) transfer: u32,
    pub(crate) gate: Arc<Gate>,
    pub(crate) events: TransferReceiver,
    role: Role,
    done: bool,
}

impl Claim {
    /// Gives the transfer back to whoever claims it next.
    pub(super) fn hand_back(mut self) {
        self.done = true;
        let (_, empty) = mpsc::channel(1);
        let events = std::mem::replace(&mut self.events, empty);
        if let Some(entry) = self.shared.transfers().get_mut(&self.transfer) {
            entry.unclaimed = Some(Arc::new(Mutex::new(Some(events))));
        }
    }

    /// The transfer has come to its end: nothing needs to be called off.
    pub(crate) fn done(&mut self) {
        self.done = true;
        self.shared.forget(self.transfer);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.done {
            self.shared.forget(self.transfer);
            let transfer = self.transfer;
            let message = match self.role {
                Role::Sender => Message::Withdraw { transfer },
                Role::Receiver | Role::Fetcher => {
                    let refusal = Refusal {
                        code: "HW-3007".into(),
                        message: "the receiver called the transfer off".into(),
                        hint: "it goes on when the receiver asks for it again".into(),
                    };
                    Message::Refused { transfer: Some(transfer), refusal }
                }
            };
            // With a full queue the peer learns nothing, and its own patience ends the transfer.
            let _ = self.shared.outgoing.try_send(Box::new(message));
        }
    }
}
