//! What one peer was sent over all its sessions, by reason: [`Ledger`] says, sessions tell it what they do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headwater_protocol::sync::{Ledger, Sending, SentBytes, SentItem};

use super::shared::Shared;

/// Bytes of a packet that are no payload of an item: at least its header, its tag and the header of a stream's frame
/// (RFC 9000, sections 17.3 and 19.8, and RFC 9001, section 5.3).
const PACKET_OVERHEAD_BYTES: u64 = 34;

/// An account that the sessions with one peer share.
#[derive(Debug, Default)]
pub struct SentAccount {
    ledger: Mutex<Ledger>,
    sessions: AtomicU64,
}

impl SentAccount {
    /// An account of nothing.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Payload bytes that were sent so far.
    pub fn sent(&self) -> SentBytes {
        self.locked().sent()
    }

    fn locked(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's part in an account.
#[derive(Debug)]
pub(super) struct SessionAccount {
    account: Arc<SentAccount>,
    session: u64,
    /// Payload bytes that were handed to streams.
    handed_bytes: AtomicU64,
    /// Of these, those that transfers have taken for never sent.
    unsent_bytes: AtomicU64,
}

impl SessionAccount {
    pub(super) fn new(account: Arc<SentAccount>) -> Self {
        let session = account.sessions.fetch_add(1, Ordering::Relaxed);
        Self { account, session, handed_bytes: AtomicU64::new(0), unsent_bytes: AtomicU64::new(0) }
    }

    /// Payload bytes that were handed to streams and have not left; each is given once. An estimate: a little of what left is
    /// acknowledgements and messages.
    fn take_unsent(&self, shared: &Shared) -> u64 {
        let stats = shared.connection.stats();
        let overhead_bytes = stats.path.lost_bytes + stats.udp_tx.datagrams * PACKET_OVERHEAD_BYTES;
        let left_bytes = stats.udp_tx.bytes.saturating_sub(overhead_bytes);
        let unsent_bytes = self.handed_bytes.load(Ordering::Relaxed).saturating_sub(left_bytes);
        unsent_bytes.saturating_sub(self.unsent_bytes.fetch_max(unsent_bytes, Ordering::Relaxed))
    }
}

/// A transfer's part. Dropped before it was committed, what was sent counts as cut.
#[derive(Debug)]
pub(crate) struct TransferAccount {
    shared: Arc<Shared>,
    transfer: u32,
    is_committed: bool,
}

impl TransferAccount {
    pub(crate) fn new(shared: Arc<Shared>, transfer: u32) -> Self {
        Self { shared, transfer, is_committed: false }
    }

    /// An item is handed to a stream.
    pub(crate) fn item(&self, item: SentItem) {
        let Some(mine) = &self.shared.account else { return };
        mine.handed_bytes.fetch_add(u64::from(item.payload_bytes), Ordering::Relaxed);
        mine.account.locked().handle_item(self.sending(mine), item);
    }

    /// The receiver has committed all of it.
    pub(crate) fn committed(&mut self) {
        self.is_committed = true;
    }

    const fn sending(&self, mine: &SessionAccount) -> Sending {
        Sending { session: mine.session, transfer: self.transfer }
    }
}

impl Drop for TransferAccount {
    fn drop(&mut self) {
        let Some(mine) = &self.shared.account else { return };
        if self.is_committed {
            mine.account.locked().handle_committed(self.sending(mine));
        } else {
            let unsent_bytes = mine.take_unsent(&self.shared);
            mine.account.locked().handle_cut(self.sending(mine), unsent_bytes);
        }
    }
}
