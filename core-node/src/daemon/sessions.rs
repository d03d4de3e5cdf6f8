//! Who is connected: for `status`, for closing the connection of a revoked device, and for the limit of sessions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use headwater_protocol::id::PublicKey;
use headwater_protocol::trust::{Principal as Peer, Role};
use headwater_protocol::wire::Refusal;
use headwater_quic::session::SessionHandle;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::control::SessionRow;
use crate::core::Core;

/// All live sessions.
#[derive(Debug)]
pub struct Sessions {
    live: Mutex<Live>,
    sessions_max: usize,
}

#[derive(Debug, Default)]
struct Live {
    next: u64,
    /// In the order in which they began, which is the order in which they are told something.
    entries: BTreeMap<u64, Entry>,
    /// When each device was given a nonce last: as many as there are devices.
    nonces: HashMap<PublicKey, Instant>,
}

#[derive(Debug)]
struct Entry {
    key: PublicKey,
    device: String,
    is_device: bool,
    address: SocketAddr,
    since: Instant,
    doing: Arc<Doing>,
    handle: SessionHandle,
    end: mpsc::Sender<Refusal>,
}

/// What a session is about: its transfers that run.
#[derive(Debug, Default)]
pub struct Doing(Mutex<Vec<Work>>);

/// One transfer: what is done with which dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Work {
    verb: &'static str,
    dataset: String,
}

impl Doing {
    /// Shows that `dataset` is being published, fetched or mended, until the guard is dropped.
    pub fn begin(self: &Arc<Self>, verb: &'static str, dataset: &str) -> DoingGuard {
        let work = Work { verb, dataset: dataset.to_owned() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(work.clone());
        DoingGuard { doing: self.clone(), work }
    }

    /// In words, without the datasets that may not be named.
    fn shown(&self, may_name: &dyn Fn(&str) -> bool) -> String {
        let doing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if doing.is_empty() {
            return "idle".to_owned();
        }
        let shown = |Work { verb, dataset }: &Work| {
            if may_name(dataset) { format!("{verb} {dataset}") } else { (*verb).to_owned() }
        };
        doing.iter().map(shown).collect::<Vec<_>>().join(", ")
    }
}

/// Ends what [`Doing::begin`] began.
#[derive(Debug)]
pub struct DoingGuard {
    doing: Arc<Doing>,
    work: Work,
}

impl Drop for DoingGuard {
    fn drop(&mut self) {
        let mut doing = self.doing.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = doing.iter().position(|work| *work == self.work) {
            doing.swap_remove(at);
        }
    }
}

/// A session's place among the live ones; it leaves when dropped.
pub struct SessionPlace {
    core: Arc<Core>,
    number: u64,
    /// What it does.
    pub doing: Arc<Doing>,
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        self.core.sessions.locked().entries.remove(&self.number);
    }
}

impl Sessions {
    /// No sessions, and at most `sessions_max` later.
    pub fn new(sessions_max: usize) -> Self {
        Self { live: Mutex::default(), sessions_max }
    }

    /// Enters a session; gives its place, and what tells it that it must end and why.
    pub fn enter(
        core: &Arc<Core>,
        peer: &Peer,
        address: SocketAddr,
        handle: SessionHandle,
    ) -> (SessionPlace, mpsc::Receiver<Refusal>) {
        let (end_sender, end) = mpsc::channel(1);
        let doing = Arc::<Doing>::default();
        let mut live = core.sessions.locked();
        live.next += 1;
        let number = live.next;
        live.entries.insert(
            number,
            Entry {
                key: peer.key,
                device: peer.name.clone(),
                is_device: peer.role == Role::Device,
                address,
                since: Instant::now(),
                doing: doing.clone(),
                handle,
                end: end_sender,
            },
        );
        drop(live);
        (SessionPlace { core: core.clone(), number, doing }, end)
    }

    /// A device was given a nonce.
    pub fn note_nonce(&self, key: PublicKey) {
        self.locked().nonces.insert(key, Instant::now());
    }

    /// Whether a device was given a nonce at `time` or after it.
    pub fn nonce_since(&self, key: &PublicKey, time: Instant) -> bool {
        self.locked().nonces.get(key).is_some_and(|given| *given >= time)
    }

    /// Whether there is room for one more.
    pub fn has_room(&self) -> bool {
        self.locked().entries.len() < self.sessions_max
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.locked().entries.len()
    }

    /// How many devices are connected, however many sessions each has; people who ask something are none.
    pub fn devices_connected(&self) -> u64 {
        let live = self.locked();
        let keys: BTreeSet<_> = live.entries.values().filter(|entry| entry.is_device).map(|entry| entry.key).collect();
        keys.len() as u64
    }

    /// Whether a device with this key is connected.
    pub fn is_connected(&self, key: &PublicKey) -> bool {
        self.locked().entries.values().any(|entry| entry.key == *key)
    }

    /// Ends all sessions of `key`, telling them why; how many there were.
    pub fn end(&self, key: &PublicKey, refusal: &Refusal) -> usize {
        let live = self.locked();
        let mut ended = 0;
        for entry in live.entries.values().filter(|entry| entry.key == *key) {
            // A session that was told before is on its way out.
            let _ = entry.end.try_send(refusal.clone());
            ended += 1;
        }
        ended
    }

    /// Ends every session, as the daemon stops.
    pub fn end_all(&self, reason: &str) {
        for entry in self.locked().entries.values() {
            entry.handle.close(0, reason);
        }
    }

    /// All sessions by device; `may_name` says which datasets may be named. It must not block.
    pub fn rows(&self, may_name: &dyn Fn(&str) -> bool) -> Vec<SessionRow> {
        let live = self.locked();
        let mut rows: Vec<_> = live
            .entries
            .values()
            .map(|entry| {
                let stats = entry.handle.stats();
                SessionRow {
                    device: entry.device.clone(),
                    address: entry.address.to_string(),
                    since_s: entry.since.elapsed().as_secs(),
                    doing: entry.doing.shown(may_name),
                    round_trip_ms: u64::try_from(stats.rtt.as_millis()).unwrap_or(u64::MAX),
                    in_bytes: stats.udp_bytes_received,
                    out_bytes: stats.udp_bytes_sent,
                }
            })
            .collect();
        drop(live);
        rows.sort_by(|a, b| a.device.cmp(&b.device));
        rows
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
