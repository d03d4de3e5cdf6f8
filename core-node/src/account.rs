//! What went over the core's socket, by reason, as agents tell it too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headwater_protocol::id::PublicKey;
use headwater_protocol::sync::{SentByReason, SentBytes};
use headwater_quic::endpoint::WireCounts;
use headwater_quic::session::SentAccount;
use quinn::Connection;

/// Why bytes were sent. Together they are all that was.
pub const SENT: [&str; 4] = ["first send", "re-sent after a cut", "retransmitted", "control"];
/// What came: all of it, and the part that was of no use.
pub const RECEIVED: [&str; 2] = ["received", "received in vain"];

/// Peers of which it is remembered what they were sent. Of others, what goes again counts as sent for the first time.
const PEERS_MAX: usize = 4096;

/// The account of a core since its start.
#[derive(Debug, Default)]
pub struct Account {
    peers: Mutex<Peers>,
    live: Mutex<BTreeMap<u64, Connection>>,
    /// Bytes of packets that got lost in sessions that have ended.
    lost_bytes: AtomicU64,
    in_vain_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Peers {
    /// Each with when it came last.
    known: BTreeMap<PublicKey, (u64, Arc<SentAccount>)>,
    /// What those were sent that are not known any more.
    forgotten: SentBytes,
    sessions: u64,
}

/// A session whose losses count, until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    account: Arc<Account>,
    session: u64,
}

impl Account {
    /// A session with a peer begins; gives where it is to count what it sends.
    pub(crate) fn begin(self: &Arc<Self>, peer: PublicKey, connection: Connection) -> (Arc<SentAccount>, Counted) {
        let (session, sent) = lock(&self.peers).account_of(peer);
        lock(&self.live).insert(session, connection);
        (sent, Counted { account: Arc::clone(self), session })
    }

    /// So many payload bytes came and were of no use.
    pub(crate) fn received_in_vain(&self, bytes: u64) {
        self.in_vain_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was sent by reason, in the order of [`SENT`].
    pub fn sent(&self, counts: &WireCounts) -> [u64; SENT.len()] {
        let live: u64 = lock(&self.live).values().map(lost_bytes).sum();
        let lost_bytes = self.lost_bytes.load(Ordering::Relaxed) + live;
        let SentByReason { first, again, retransmitted, control } =
            SentByReason::of(counts.sent_bytes, lost_bytes, lock(&self.peers).sent());
        [first, again, retransmitted, control]
    }

    /// What came, in the order of [`RECEIVED`].
    pub fn received(&self, counts: &WireCounts) -> [u64; RECEIVED.len()] {
        [counts.received_bytes, self.in_vain_bytes.load(Ordering::Relaxed)]
    }
}

impl Peers {
    fn account_of(&mut self, peer: PublicKey) -> (u64, Arc<SentAccount>) {
        self.sessions += 1;
        let session = self.sessions;
        let (came, account) = self.known.entry(peer).or_insert_with(|| (session, SentAccount::new()));
        *came = session;
        let account = Arc::clone(account);
        if self.known.len() > PEERS_MAX {
            let oldest = self.known.iter().min_by_key(|(_, (came, _))| *came).map(|(peer, _)| *peer);
            if let Some((_, gone)) = oldest.and_then(|peer| self.known.remove(&peer)) {
                self.forgotten = sum(self.forgotten, gone.sent());
            }
        }
        (session, account)
    }

    fn sent(&self) -> SentBytes {
        self.known.values().fold(self.forgotten, |all, (_, account)| sum(all, account.sent()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(connection) = lock(&self.account.live).remove(&self.session) {
            self.account.lost_bytes.fetch_add(lost_bytes(&connection), Ordering::Relaxed);
        }
    }
}

fn lost_bytes(connection: &Connection) -> u64 {
    connection.stats().path.lost_bytes
}

fn sum(left: SentBytes, right: SentBytes) -> SentBytes {
    SentBytes { first: left.first + right.first, again: left.again + right.again }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_one_account_and_the_oldest_is_forgotten() {
        let mut peers = Peers::default();
        let key = |number: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            PublicKey(bytes)
        };
        let (_, first) = peers.account_of(key(0));
        assert!(Arc::ptr_eq(&first, &peers.account_of(key(0)).1));
        for number in 1..=PEERS_MAX {
            peers.account_of(key(number));
        }
        assert_eq!(peers.known.len(), PEERS_MAX);
        assert!(!peers.known.contains_key(&key(0)) && peers.known.contains_key(&key(1)));
        assert_eq!(peers.sent(), SentBytes::default());
    }
}
