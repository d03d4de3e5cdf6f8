//! What leaves for one peer, held under a cap of its own on a socket that many connections share.
//!
//! quinn gives a socket no hint of whose datagram it sends. But each connection has a poller of its own, made while it is
//! accepted, and asks it right before each datagram, in the same call and so on the same thread. So a connection's poller
//! tells the socket by [`SENDING`] whose lane the next datagram takes. The cap holds below retransmissions, acknowledgements
//! and probes; only what an endpoint sends without a connection, as a reset, passes it by. One datagram of a connection
//! waits at the socket at most: what is more urgent overtakes all others.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use headwater_protocol::id::PublicKey;

use super::WireMeter;

/// The least cap, in bytes per second: a second must have room for one full datagram with all headers.
const CAP_BYTES_PER_S_MIN: u64 = 1500;

thread_local! {
    /// The lane of the connection that is being accepted.
    static ACCEPTING: RefCell<Option<Arc<Lane>>> = const { RefCell::new(None) };
    /// The lane of the connection that sends next.
    static SENDING: RefCell<Option<Arc<Lane>>> = const { RefCell::new(None) };
}

/// The lane of one connection. It has no meter before its peer is recognised.
#[derive(Debug, Default)]
pub(super) struct Lane(OnceLock<Downstream>);

impl Lane {
    /// Accepts a connection, whose poller gets this lane.
    pub(super) fn accept<T>(self: &Arc<Self>, accept: impl FnOnce() -> T) -> T {
        ACCEPTING.set(Some(Arc::clone(self)));
        let accepted = accept();
        ACCEPTING.take();
        accepted
    }

    /// The lane of the connection that is being accepted, if one is.
    pub(super) fn accepting() -> Option<Arc<Self>> {
        ACCEPTING.take()
    }

    /// The next datagram of this thread is of this lane.
    pub(super) fn sends_next(this: Option<&Arc<Self>>) {
        SENDING.set(this.cloned());
    }

    /// The lane of the datagram that is being sent, if it has one.
    pub(super) fn sending() -> Option<Arc<Self>> {
        SENDING.take()
    }

    pub(super) fn meter(&self) -> Option<&WireMeter> {
        self.0.get().map(|downstream| &*downstream.0.meter)
    }
}

/// The meters of all peers of one socket.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// Peers that have a cap.
    capped: AtomicUsize,
    peers: Mutex<BTreeMap<PublicKey, Weak<Shaped>>>,
}

impl Lanes {
    /// Whether any peer has a cap.
    pub(super) fn any_capped(&self) -> bool {
        self.capped.load(Ordering::Relaxed) > 0
    }

    /// A lane turns out to be that of a connection with this peer. All connections of one peer share its cap.
    pub(super) fn enter(self: &Arc<Self>, lane: &Lane, peer: PublicKey) -> Downstream {
        let mut peers = self.peers();
        let shaped = peers.get(&peer).and_then(Weak::upgrade).unwrap_or_else(|| {
            let lanes = Arc::clone(self);
            Arc::new(Shaped { peer, lanes, meter: WireMeter::new(), is_capped: Mutex::new(false) })
        });
        peers.insert(peer, Arc::downgrade(&shaped));
        drop(peers);
        lane.0.get_or_init(|| Downstream(shaped)).clone()
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<PublicKey, Weak<Shaped>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What goes to one peer, over however many connections.
#[derive(Debug)]
struct Shaped {
    peer: PublicKey,
    lanes: Arc<Lanes>,
    meter: Arc<WireMeter>,
    is_capped: Mutex<bool>,
}

impl Shaped {
    fn set_cap(&self, bytes_per_s: Option<u64>) {
        let mut is_capped = self.is_capped.lock().unwrap_or_else(PoisonError::into_inner);
        self.meter.set_cap(bytes_per_s.map(|cap| cap.max(CAP_BYTES_PER_S_MIN)));
        match (*is_capped, bytes_per_s.is_some()) {
            (false, true) => drop(self.lanes.capped.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.lanes.capped.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        *is_capped = bytes_per_s.is_some();
    }
}

impl Drop for Shaped {
    fn drop(&mut self) {
        self.set_cap(None);
        let mut peers = self.lanes.peers();
        // Another connection of the peer may have come meanwhile.
        if peers.get(&self.peer).is_some_and(|shaped| shaped.strong_count() == 0) {
            peers.remove(&self.peer);
        }
    }
}

/// What this side sends to one peer.
#[derive(Clone, Debug)]
pub struct Downstream(Arc<Shaped>);

impl Downstream {
    /// Caps what all connections with the peer send together in any second from now on, in bytes with all headers; none
    /// lifts the cap. A cap that not even one datagram fits into is raised to one that does. It is forgotten when the last
    /// connection ends.
    pub fn set_cap(&self, bytes_per_s: Option<u64>) {
        self.0.set_cap(bytes_per_s);
    }

    /// The cap, in bytes per second.
    pub fn cap(&self) -> Option<u64> {
        self.0.meter.cap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_peer_share_a_cap_until_the_last_ends() {
        let lanes = Arc::<Lanes>::default();
        let (one, two, other) = (Lane::default(), Lane::default(), Lane::default());
        let key = |byte| PublicKey([byte; 32]);
        let (first, second) = (lanes.enter(&one, key(1)), lanes.enter(&two, key(1)));
        let else_where = lanes.enter(&other, key(2));
        first.set_cap(Some(100_000));
        assert_eq!((second.cap(), else_where.cap()), (Some(100_000), None));
        assert!(lanes.any_capped());
        second.set_cap(Some(1));
        assert_eq!(first.cap(), Some(CAP_BYTES_PER_S_MIN), "a cap must let a datagram through");
        drop((first, one));
        assert!(lanes.any_capped(), "one connection is left");
        drop((second, two));
        assert!(!lanes.any_capped());
        assert_eq!(lanes.enter(&Lane::default(), key(1)).cap(), None, "it is forgotten with the last connection");
        drop((else_where, other));
        assert!(lanes.peers().is_empty());
    }

    #[test]
    fn a_lifted_cap_counts_no_more() {
        let lanes = Arc::<Lanes>::default();
        let lane = Lane::default();
        let down = lanes.enter(&lane, PublicKey([1; 32]));
        for cap in [Some(5000), Some(6000), None, None, Some(5000)] {
            down.set_cap(cap);
            assert_eq!((down.cap(), lanes.any_capped()), (cap, cap.is_some()));
        }
    }
}
