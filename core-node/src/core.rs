//! What all parts of a running core share: its configuration, its keys, the catalog and the store, who is connected, and
//! what is announced.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use headwater_protocol::id::PublicKey;
use headwater_protocol::trust::Principal as Peer;
use headwater_quic::session::MemoryBudget;
use headwater_quic::{Authority, Identity, IdentityError, WireMeter, work};
use tokio::sync::broadcast;

use crate::account::Account;
use crate::admin::Metrics;
use crate::catalog::{Catalog, CatalogError, Principal, Scope, UnixMs};
use crate::config::Config;
use crate::daemon::{Journal, Sessions, Workers};
use crate::federation::Federation;
use crate::pages::StorePages;
use crate::rights::Rights;
use crate::serve::Readers;
use crate::store::ChunkStore;

/// Announcements that wait for a slow session; one that falls further behind looks everything up again.
const ANNOUNCEMENTS_MAX: usize = 1024;

/// The core's keys.
#[derive(Debug)]
pub struct Keys {
    /// Its certificate authority.
    pub authority: Authority,
    /// Its own identity, which that authority issued.
    pub identity: Identity,
}

/// What happened that sessions may want to know of.
#[derive(Clone, Debug)]
pub enum Announcement {
    /// The dataset or collection of this name has a new version or edition.
    Changed(Arc<str>),
    /// Rights, labels or devices changed: what one could read may be different now.
    Rights,
    /// Damaged chunks were found: devices that have their bytes are asked for them.
    Damaged,
}

/// The shared state of a running core.
pub struct Core {
    /// The data folder.
    pub folder: PathBuf,
    /// The configuration.
    pub config: Config,
    /// The configuration's rules, ready to be asked.
    pub rights: Rights,
    /// Keys.
    pub keys: Keys,
    /// The catalog.
    pub catalog: Arc<dyn Catalog>,
    /// The chunk store.
    pub store: Arc<ChunkStore>,
    /// Decoded pages.
    pub pages: StorePages,
    /// What training jobs share.
    pub readers: Readers,
    /// Numbers for Prometheus.
    pub metrics: Metrics,
    /// Who is connected.
    pub sessions: Sessions,
    /// The last errors that someone met.
    pub journal: Journal,
    /// Federated runs.
    pub federation: Federation,
    /// Work in the background.
    pub workers: Workers,
    /// What went over the socket for devices, by reason.
    pub account: Arc<Account>,
    /// Counts what goes over it.
    pub meter: Arc<WireMeter>,
    /// What all sessions together may hold between the wire and the disk.
    pub memory: MemoryBudget,
    /// When the daemon started.
    pub started: Instant,
    unique: AtomicU64,
    bound: OnceLock<SocketAddr>,
    bound_admin: OnceLock<SocketAddr>,
    announcements: broadcast::Sender<Announcement>,
}

/// What a core is put together from.
pub struct CoreParts {
    /// The data folder.
    pub folder: PathBuf,
    /// The configuration.
    pub config: Config,
    /// The configuration's rules.
    pub rights: Rights,
    /// Keys.
    pub keys: Keys,
    /// The catalog.
    pub catalog: Arc<dyn Catalog>,
    /// The chunk store.
    pub store: Arc<ChunkStore>,
}

impl Core {
    /// Puts a core together; nothing listens yet.
    pub fn new(parts: CoreParts) -> Arc<Self> {
        let CoreParts { folder, config, rights, keys, catalog, store } = parts;
        Arc::new(Self {
            folder,
            rights,
            keys,
            catalog,
            pages: StorePages::new(store.clone(), config.memory.pages.0),
            readers: Readers::new(store.clone(), &config),
            store,
            metrics: Metrics::new(),
            sessions: Sessions::new(config.network.sessions_max as usize),
            journal: Journal::default(),
            federation: Federation::default(),
            workers: Workers::default(),
            account: Arc::default(),
            meter: WireMeter::new(),
            memory: MemoryBudget::new(config.memory.transfers.0),
            started: Instant::now(),
            unique: AtomicU64::new(0),
            bound: OnceLock::new(),
            bound_admin: OnceLock::new(),
            announcements: broadcast::channel(ANNOUNCEMENTS_MAX).0,
            config,
        })
    }

    /// The core's own wall clock.
    pub fn now(&self) -> UnixMs {
        let since = work::wall_clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The point until which an upload of now is protected.
    pub fn pin_until(&self) -> UnixMs {
        self.now().plus(self.config.proofs.lifetime.0)
    }

    /// The address that devices reach; the configured one before the daemon listens.
    pub fn bound(&self) -> SocketAddr {
        self.bound.get().copied().unwrap_or(self.config.listen)
    }

    /// Says which address was bound; once.
    pub fn set_bound(&self, address: SocketAddr) {
        // Only the daemon's start calls this.
        let _ = self.bound.set(address);
    }

    /// The address of metrics and the status page, once it is bound.
    pub fn bound_admin(&self) -> Option<SocketAddr> {
        self.bound_admin.get().copied()
    }

    /// Says which address of metrics was bound; once.
    pub fn set_bound_admin(&self, address: SocketAddr) {
        // Only the daemon's start calls this.
        let _ = self.bound_admin.set(address);
    }

    /// A number that this process gives once.
    pub fn unique(&self) -> u64 {
        self.unique.fetch_add(1, Ordering::Relaxed)
    }

    /// Where prefixes of unfinished chunks are kept.
    pub fn prefix_folder(&self) -> PathBuf {
        prefix_folder(&self.folder)
    }

    /// Tells sessions that the dataset or collection `name` changed.
    pub fn announce(&self, name: &str) {
        self.tell(Announcement::Changed(name.into()));
    }

    /// Tells sessions that rights changed.
    pub fn announce_rights(&self) {
        self.tell(Announcement::Rights);
    }

    /// Tells sessions what happened.
    pub fn tell(&self, announcement: Announcement) {
        // Without a session there is nobody to tell.
        let _ = self.announcements.send(announcement);
    }

    /// Hears what is announced from now on.
    pub fn announcements(&self) -> broadcast::Receiver<Announcement> {
        self.announcements.subscribe()
    }

    /// What `peer` may build on and read: the datasets that it may read, and what it uploaded itself. Blocks.
    pub fn scope_of(&self, peer: &Peer) -> Result<Scope, CatalogError> {
        let datasets = self.catalog.datasets()?;
        Ok(Scope {
            everything: false,
            datasets: datasets
                .iter()
                .filter(|dataset| self.rights.may_read(peer, dataset))
                .map(|dataset| dataset.id)
                .collect(),
            uploader: Some(Principal::Device(peer.key)),
        })
    }

    /// A certificate for a device's key.
    pub fn issue_certificate(&self, key: &PublicKey, name: &str) -> Result<Vec<u8>, IdentityError> {
        self.keys.authority.issue_device_for(key, name, self.config.certificates.lifetime.0)
    }

    /// The name of a writer as people know it.
    pub fn writer_name(&self, writer: Principal) -> String {
        match writer {
            Principal::Core => self.config.name.clone(),
            Principal::Device(key) => match self.catalog.device(&key) {
                Ok(Some(device)) => device.name,
                _ => key.to_string().chars().take(12).collect(),
            },
        }
    }
}

/// Where prefixes of unfinished chunks are kept in the data folder `folder`.
fn prefix_folder(folder: &Path) -> PathBuf {
    folder.join("prefixes")
}
