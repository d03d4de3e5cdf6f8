//! A client of one core: it joins with its token, connects, and connects again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_fabric::planes::{JobPlanes, RdmaDevice};
use headwater_host::error::{CodedError, codes};
use headwater_protocol::wire::JOB_BYTES_MAX;
use headwater_quic::Identity;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::buffers::Buffers;
use crate::control::identity_of;
use crate::dataset::Dataset;
use crate::link::Link;
use crate::options::Options;
use crate::retry::Retry;

/// A client of one core. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

/// What a client has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Samples that were read.
    pub samples: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Answers that were not what their hashes say, and were fetched again.
    pub mismatches: u64,
    /// How often the connection was made.
    pub connections: u64,
    /// How long reads waited for the core, summed over those that ran at once.
    pub waited: Duration,
    /// What bytes travel on; none while there is no connection.
    pub transport: Option<&'static str>,
    /// Why it is not RDMA; none where it is.
    pub transport_reason: Option<String>,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) samples: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) mismatches: AtomicU64,
    pub(crate) waited_ns: AtomicU64,
    connections: AtomicU64,
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) counters: Counters,
    planes: JobPlanes,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    identity: Option<Arc<Identity>>,
    link: Option<(u64, Arc<Link>)>,
}

impl Client {
    /// Connects to the core that the options name. An error if it can't be reached at once, or refuses.
    pub async fn connect(options: Options) -> Result<Self, CodedError> {
        if options.job.is_empty() || options.job.len() > JOB_BYTES_MAX {
            let message = format!("a job's id has 1 to {JOB_BYTES_MAX} bytes, and this one {}", options.job.len());
            return Err(CodedError::new(&codes::USAGE, message));
        }
        let shared = Shared {
            buffers: Buffers::new(options.buffer_bytes.min(options.buffer_bytes_max)),
            planes: JobPlanes::open(&options.rdma),
            options,
            counters: Counters::default(),
            state: Mutex::default(),
        };
        let client = Self { shared: Arc::new(shared) };
        Box::pin(client.shared.try_link()).await?;
        Ok(client)
    }

    /// Another connection like this one.
    pub(crate) async fn another(&self) -> Result<Self, CodedError> {
        Self::connect(self.shared.options.clone()).await
    }

    /// Opens what `name` stands for now: `dataset`, `dataset@latest`, `dataset@7`, `dataset@tag`, or a collection likewise.
    pub async fn dataset(&self, name: &str) -> Result<Dataset, CodedError> {
        Dataset::open(&self.shared, name).await
    }

    /// Carries out a command at the core, as `core-node` knows them; `take` gets the parts of its answer.
    pub(crate) async fn command(&self, request: &Value, take: impl FnMut(Value)) -> Result<(), CodedError> {
        let (_, link) = self.shared.link().await?;
        link.command(request, take).await
    }

    /// The device with which this process offers RDMA, or why it does not.
    pub(crate) fn rdma(&self) -> Result<RdmaDevice, String> {
        self.shared.planes.rdma()
    }

    /// The id of the job that it is of.
    pub fn job(&self) -> &str {
        &self.shared.options.job
    }

    /// What it has done so far.
    pub async fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let state = self.shared.state.lock().await;
        let link = state.link.as_ref().filter(|(_, link)| link.why_ended().is_none());
        Stats {
            samples: value(&counters.samples),
            bytes: value(&counters.bytes),
            mismatches: value(&counters.mismatches),
            connections: value(&counters.connections),
            waited: Duration::from_nanos(value(&counters.waited_ns)),
            transport: link.map(|(_, link)| link.lane.plane()),
            transport_reason: link
                .and_then(|(_, link)| link.lane.why_not_rdma())
                .or_else(|| self.shared.planes.rdma().err()),
        }
    }

    /// Ends the connection, and waits until the core knows. Reads after this connect again.
    pub async fn close(&self) {
        let link = self.shared.state.lock().await.link.take();
        if let Some((_, link)) = link {
            link.close().await;
        }
    }
}

impl Shared {
    /// The live connection, with its number: made anew where the last one has ended, for as long as the options say.
    pub(crate) async fn link(&self) -> Result<(u64, Arc<Link>), CodedError> {
        let mut retry = Retry::new(self.options.reconnect_for);
        loop {
            match Box::pin(self.try_link()).await {
                Ok(link) => return Ok(link),
                Err(error) => retry.wait_out(error).await?,
            }
        }
    }

    async fn try_link(&self) -> Result<(u64, Arc<Link>), CodedError> {
        let mut state = self.state.lock().await;
        if let Some((number, link)) = &state.link {
            match link.why_ended() {
                None => return Ok((*number, link.clone())),
                Some(why) => tracing::info!(why, "the connection to the core is made again"),
            }
        }
        state.link = None;
        let identity = match &state.identity {
            Some(identity) => identity.clone(),
            None => Arc::new(identity_of(&self.options.token).await?),
        };
        state.identity = Some(identity.clone());
        let link = Link::open(&self.options.token.addresses, &identity, &self.options.job, &self.planes).await?;
        let number = self.counters.connections.fetch_add(1, Ordering::Relaxed) + 1;
        state.link = Some((number, link.clone()));
        Ok((number, link))
    }
}
