//! Serving training jobs: they say on their control session what they read, and bytes go straight into their slots.
//!
//! [`session`] is what a job has opened, [`jobs`] is what its sessions agree on, [`sources`] are versions and collections under leases, [`layout`] and [`leaf`] know
//! where samples are, [`plan`] makes a request into stretches of chunks, [`gather`] fetches them from the resident cache,
//! [`answer`] puts this together, [`declared`] is what is known of a session's future and [`ahead`] reads along it, [`desk`] is the data port, [`driver`] the
//! thread that talks to an RDMA device.

mod ahead;
mod answer;
mod declared;
mod desk;
mod driver;
mod gather;
mod jobs;
mod layout;
mod leaf;
mod plan;
mod session;
mod sources;
mod staging;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use headwater_fabric::offer::Endpoint;
use headwater_fabric::planes::{AgreedRdma, CorePlanes};
use headwater_fabric::{Invitations, RdmaSettings};
use headwater_protocol::time::Timestamp;
use tokio::time::Instant;

pub(crate) use desk::accept;
pub(crate) use session::ReaderSession;

use super::outgoing::{Fifo, Outgoing};
use crate::cache::ResidentCache;
use crate::config::Config;
use crate::control::ReaderRow;
use crate::generations::Generations;
use crate::store::ChunkStore;
use driver::Driver;
use jobs::Jobs;
use leaf::LaidLeaf;
use session::REQUESTS_MAX;
use staging::Staging;

/// What all jobs' sessions share.
pub struct Readers {
    pub(crate) cache: Arc<ResidentCache>,
    pub(crate) outgoing: Arc<dyn Outgoing>,
    staging: Arc<Staging>,
    leaves: Mutex<Generations<Arc<LaidLeaf>>>,
    invitations: Mutex<Invitations<Arc<ReaderSession>>>,
    jobs: Mutex<Jobs>,
    sessions: Mutex<BTreeMap<u64, Arc<ReaderSession>>>,
    rdma: RdmaSettings,
    planes: OnceLock<Planes>,
    began: Instant,
    port: OnceLock<u16>,
}

/// What there is beside TCP, and the thread that moves it.
struct Planes {
    planes: CorePlanes,
    driver: Result<Driver, String>,
}

impl Readers {
    /// Nobody reads yet.
    pub fn new(store: Arc<ChunkStore>, config: &Config) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            cache: ResidentCache::new(store, config.memory.cache.0),
            outgoing: Arc::new(Fifo::new(processors)),
            staging: Arc::default(),
            leaves: Mutex::new(Generations::new(config.memory.plans.0)),
            invitations: Mutex::default(),
            jobs: Mutex::new(Jobs::new(config.serving.job_grace.0)),
            sessions: Mutex::default(),
            rdma: config.serving.rdma.clone(),
            planes: OnceLock::new(),
            began: Instant::now(),
            port: OnceLock::new(),
        }
    }

    /// The planes beside TCP. The first job that asks for RDMA makes the core look for a device and register its cache. Blocks.
    fn planes(&self) -> &Planes {
        self.planes.get_or_init(|| {
            let planes = CorePlanes::open(&self.rdma, self.cache.region());
            let driver = planes.rdma().and_then(|device| {
                let driver = Driver::start().map_err(|error| format!("no thread can be started: {error}"))?;
                tracing::info!(device = device.said, "training jobs may read over RDMA");
                Ok(driver)
            });
            if let Err(why) = &driver {
                tracing::info!(why, "training jobs read over TCP only");
            }
            Planes { planes, driver }
        })
    }

    /// Agrees with a job that offers RDMA, or says why not. Blocks the first time.
    fn agree(&self, offer: &Endpoint, packet_number: u32) -> Result<AgreedRdma, String> {
        let Planes { planes, driver } = self.planes();
        let driver = driver.as_ref().map_err(|why| format!("the core has no RDMA: {why}"))?;
        let agreed = driver.make(|| planes.agree(offer, REQUESTS_MAX as u32, packet_number))?;
        Ok(AgreedRdma { runner: driver.run(agreed.runner), ..agreed })
    }

    /// The data port, once it is bound.
    pub fn port(&self) -> Option<u16> {
        self.port.get().copied()
    }

    /// Says which data port was bound; once.
    pub fn set_port(&self, port: u16) {
        // Only the daemon's start calls this.
        let _ = self.port.set(port);
    }

    fn leaves(&self) -> MutexGuard<'_, Generations<Arc<LaidLeaf>>> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn invitations(&self) -> MutexGuard<'_, Invitations<Arc<ReaderSession>>> {
        self.invitations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<ReaderSession>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many jobs read now.
    pub(crate) fn jobs_live(&self) -> usize {
        self.jobs().live()
    }

    /// All sessions of jobs, job by job; `may_name` says which datasets may be named. It must not block.
    pub(crate) fn rows(&self, may_name: &dyn Fn(&str) -> bool) -> Vec<ReaderRow> {
        let sessions: Vec<_> = self.sessions().values().cloned().collect();
        let mut rows: Vec<_> = sessions.iter().map(|session| session.row(may_name)).collect();
        rows.sort_by(|left, right| (&left.token, &left.job).cmp(&(&right.token, &right.job)));
        rows
    }

    /// Time since the start, as invitations count it.
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}
