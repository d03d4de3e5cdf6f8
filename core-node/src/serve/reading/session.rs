//! One job's session: what it has opened, and what ends with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use headwater_fabric::Secret;
use headwater_host::error::{CodedError, codes, printable};
use headwater_protocol::delivery::SLOT_BYTES_MAX;
use headwater_protocol::id::PublicKey;
use headwater_protocol::name;
use headwater_protocol::order::Reading;
use headwater_protocol::trust::{Action, Principal as Peer, Role};
use headwater_protocol::wire::{DATA_SECRET_BYTES, DataWay, ReaderMessage};
use headwater_quic::session::SessionHandle;
use headwater_quic::work;
use tokio::sync::watch;
use tokio::time::Instant;

use super::declared::Declared;
use super::jobs::{Disagreement, JobKey, Resolved};
use super::sources::OpenSource;
use crate::cache::{Foresight as _, Track};
use crate::control::{ReadRow, ReaderRow};
use crate::core::Core;

/// Most sources that one session has open.
const SOURCES_MAX: usize = 1024;
/// Requests of one session that are worked on at once.
pub(super) const REQUESTS_MAX: usize = 16;

/// The label that says whose jobs a token is for.
const USER_LABEL: &str = "user";

/// One job's session. It ends when its connection does: whichever of the two ends first takes the other along.
pub(crate) struct ReaderSession {
    pub(super) core: Arc<Core>,
    pub(super) id: u64,
    /// What logs call it.
    pub(super) who: String,
    user: String,
    owner: PublicKey,
    address: SocketAddr,
    since: Instant,
    /// The job that it is of, once it said so.
    job: OnceLock<JobKey>,
    handle: SessionHandle,
    opened: Mutex<Opened>,
    way: Mutex<Way>,
    bytes: AtomicU64,
    waited_ns: AtomicU64,
    ended: watch::Sender<bool>,
}

/// On what a session's bytes travel.
#[derive(Clone, Debug, Default)]
struct Way {
    plane: &'static str,
    why_not_rdma: Option<String>,
}

#[derive(Default)]
struct Opened {
    next: u32,
    sources: BTreeMap<u32, Arc<OpenSource>>,
}

impl ReaderSession {
    /// The session of `peer`, which must have the right to read at all.
    pub(crate) fn new(
        core: &Arc<Core>,
        peer: &Peer,
        address: SocketAddr,
        handle: SessionHandle,
    ) -> Result<Arc<Self>, CodedError> {
        if peer.role == Role::Device || !peer.role.allows(Action::Read) {
            return Err(CodedError::new(
                &codes::FORBIDDEN,
                format!("the role `{}` does not read as jobs do", peer.role),
            )
            .with_hint("use a token of `core-node token create --role reader`"));
        }
        let session = Arc::new(Self {
            core: core.clone(),
            id: core.unique(),
            who: peer.name.clone(),
            user: name::label(&peer.labels, USER_LABEL).unwrap_or_default().to_owned(),
            owner: peer.key,
            address,
            since: Instant::now(),
            job: OnceLock::new(),
            handle,
            opened: Mutex::default(),
            way: Mutex::default(),
            bytes: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
            ended: watch::Sender::new(false),
        });
        core.readers.sessions().insert(session.id, session.clone());
        Ok(session)
    }

    /// What its bytes travel on from now on, and why that is not RDMA.
    pub(super) fn travels(&self, plane: &'static str, why_not_rdma: Option<String>) {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = Way { plane, why_not_rdma };
    }

    /// A request waited so long for its bytes, and these go out.
    pub(super) fn served(&self, bytes: u64, waited: Duration) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.waited_ns.fetch_add(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An opened source.
    pub(super) fn source(&self, number: u32) -> Option<Arc<OpenSource>> {
        self.opened().sources.get(&number).cloned()
    }

    /// Answers a message of the job; none where there is nothing to say. Blocks.
    pub(crate) fn answer(self: &Arc<Self>, peer: &Peer, message: ReaderMessage) -> Option<ReaderMessage> {
        let (question, answer) = match message {
            ReaderMessage::OpenData { question, job } => (question, self.invite(question, job)),
            ReaderMessage::OpenSource { question, name } => (question, self.open(peer, question, &name)),
            ReaderMessage::CloseSource { source } => {
                let closed = self.opened().sources.remove(&source);
                if let Some(job) = self.job.get() {
                    self.core.readers.jobs().close(job, self.id, source);
                }
                drop(closed);
                return None;
            }
            ReaderMessage::Declare { question, source, reading } => (question, self.declare(question, source, reading)),
            ReaderMessage::DataOpened { .. }
            | ReaderMessage::SourceIs { .. }
            | ReaderMessage::Declared { .. }
            | ReaderMessage::Refused { .. } => return None,
        };
        Some(answer.unwrap_or_else(|error| {
            self.core.metrics.error(&error.code);
            ReaderMessage::Refused { question, refusal: error.refusal() }
        }))
    }

    fn invite(self: &Arc<Self>, question: u32, job: String) -> Result<ReaderMessage, CodedError> {
        let readers = &self.core.readers;
        let key = JobKey { owner: self.owner, job };
        if self.job.get_or_init(|| key.clone()) != &key {
            return Err(CodedError::new(&codes::BAD_FRAME, "a session is of one job"));
        }
        readers.jobs().enter(&key, self.id, readers.now());
        let port = readers.port().ok_or_else(|| {
            CodedError::new(&codes::INTERNAL, "this core has no port for data")
                .with_hint("it is about to stop, or was started without one")
        })?;
        let mut secret = [0; DATA_SECRET_BYTES];
        work::fill_random(&mut secret)
            .map_err(|_| CodedError::new(&codes::INTERNAL, "the core's system gave no random bytes"))?;
        readers.invitations().invite(self.id, Secret::new(secret), self.clone(), readers.now());
        let way = DataWay {
            port,
            session: self.id,
            secret,
            sealed: !self.core.config.serving.trusted_network,
            requests_max: REQUESTS_MAX as u32,
            slot_bytes_max: SLOT_BYTES_MAX,
        };
        Ok(ReaderMessage::DataOpened { question, way })
    }

    fn open(&self, peer: &Peer, question: u32, name: &str) -> Result<ReaderMessage, CodedError> {
        if self.opened().sources.len() >= SOURCES_MAX {
            return Err(CodedError::new(&codes::TOO_BUSY, format!("a session has up to {SOURCES_MAX} datasets open"))
                .with_hint("close those that are not read any more"));
        }
        let source = Arc::new(self.open_for_job(peer, name)?);
        tracing::info!(job = self.who, name, number = source.number, samples = source.layout.samples(), "opened");
        let (id, number, members) = (source.id, source.number, source.members());
        let mut opened = self.opened();
        opened.next += 1;
        let source_number = opened.next;
        opened.sources.insert(source_number, source);
        Ok(ReaderMessage::SourceIs { question, source: source_number, id, number, members })
    }

    /// Opens what `name` stands for in this job.
    fn open_for_job(&self, peer: &Peer, name: &str) -> Result<OpenSource, CodedError> {
        let (plain, wanted) = name.split_once('@').unwrap_or((name, "latest"));
        let (Some(job), Err(_)) = (self.job.get(), wanted.parse::<u64>()) else {
            return OpenSource::open(&self.core, peer, name);
        };
        let jobs = || self.core.readers.jobs();
        let full = format!("{plain}@{wanted}");
        let settled = jobs().resolved(job, &full);
        if let Some(settled) = settled {
            match OpenSource::open(&self.core, peer, &format!("{plain}@{}", settled.number)) {
                Ok(source) if source.id == settled.id => return Ok(source),
                Err(error) if !error.is(&codes::NOT_FOUND) => return Err(error),
                // It was deleted, and perhaps made anew under the same number.
                _ => jobs().unsettle(job, &full, settled),
            }
        }
        let source = OpenSource::open(&self.core, peer, name)?;
        let found = Resolved { number: source.number, id: source.id };
        let settled =
            jobs().settle(job, &full, found).map_err(|error| CodedError::new(&codes::TOO_BUSY, error.to_string()))?;
        // Another rank may have settled it meanwhile.
        if settled == found {
            Ok(source)
        } else {
            OpenSource::open(&self.core, peer, &format!("{plain}@{}", settled.number))
        }
    }

    fn declare(&self, question: u32, number: u32, reading: Reading) -> Result<ReaderMessage, CodedError> {
        let source = self.source(number).ok_or_else(|| {
            CodedError::new(&codes::NOT_FOUND, "the dataset is not open, or may not be read any more")
        })?;
        let rank = reading.rank;
        let declared = Declared::new(reading, &source.id, source.layout.samples())
            .map_err(|error| CodedError::new(&codes::READING_SENSELESS, error.to_string()))?;
        if let Some(job) = self.job.get() {
            let what = Resolved { number: source.number, id: source.id };
            let agreed = self.core.readers.jobs().declare(job, (self.id, number), rank, &source.name, what);
            agreed.map_err(|Disagreement { rank: theirs, number: other }| {
                let message = format!(
                    "rank {rank} reads `{name}@{}`, and rank {theirs} of the same job reads `{name}@{other}`",
                    source.number,
                    name = source.name,
                );
                CodedError::new(&codes::ANOTHER_VERSION, message)
            })?;
        }
        source.declare(self.track(&source), declared);
        Ok(ReaderMessage::Declared { question })
    }

    /// The track of what this job reads of `source`.
    fn track(&self, source: &OpenSource) -> Track {
        let mut hasher = blake3::Hasher::new();
        match self.job.get() {
            Some(JobKey { owner, job }) => hasher.update(&owner.0).update(job.as_bytes()),
            None => hasher.update(&self.id.to_le_bytes()),
        };
        let hash = hasher.update(&source.id).finalize();
        Track::from_le_bytes(std::array::from_fn(|at| hash.as_bytes()[at]))
    }

    /// How it is, for `status`; `may_name` says which datasets may be named.
    pub(super) fn row(&self, may_name: &dyn Fn(&str) -> bool) -> ReaderRow {
        let way = self.way.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sources: Vec<_> = self.opened().sources.values().cloned().collect();
        let is_shown = |source: &&Arc<OpenSource>| source.layout.members().iter().all(|member| may_name(&member.name));
        ReaderRow {
            job: self.job.get().map(|key| printable(&key.job)).unwrap_or_default(),
            token: self.who.clone(),
            user: self.user.clone(),
            address: self.address.to_string(),
            since_s: self.since.elapsed().as_secs(),
            plane: way.plane.to_owned(),
            why_not_rdma: way.why_not_rdma.unwrap_or_default(),
            bytes: self.bytes.load(Ordering::Relaxed),
            waited_ms: self.waited_ns.load(Ordering::Relaxed) / 1_000_000,
            reads: sources.iter().filter(is_shown).map(|source| read_row(source)).collect(),
        }
    }

    /// Lets go of what `peer` may not read any more. Blocks.
    pub(crate) fn look_again(&self, peer: &Peer) {
        let all: Vec<_> = self.opened().sources.iter().map(|(number, source)| (*number, source.clone())).collect();
        for (number, source) in all {
            if !source.is_readable(peer) {
                tracing::info!(job = self.who, "a source may not be read any more");
                self.opened().sources.remove(&number);
            }
        }
    }

    /// Ends it: what it held is free, its data connection and its session close.
    pub(crate) fn end(&self, reason: &str) {
        let readers = &self.core.readers;
        readers.invitations().withdraw(self.id);
        if let Some(job) = self.job.get() {
            readers.jobs().leave(job, self.id, readers.now());
        }
        drop(readers.sessions().remove(&self.id));
        self.ended.send_replace(true);
        let opened = std::mem::take(&mut *self.opened());
        drop(opened);
        self.handle.close(0, reason);
    }

    /// Resolves when it has ended.
    pub(super) async fn ended(&self) {
        // It can't be dropped while this borrows it.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

fn read_row(source: &OpenSource) -> ReadRow {
    let mut row = ReadRow { dataset: source.label(), samples: source.layout.samples(), ..ReadRow::default() };
    if let Some(declared) = source.declared() {
        let reading = &declared.reading;
        row.epoch = Some(reading.epoch);
        row.rank = reading.rank;
        row.world_size = reading.world_size.get();
        row.worker = reading.worker;
        row.workers = reading.workers;
        row.turn = declared.turn();
        row.turns = declared.course.len();
        row.position = declared.course.position(row.turn).unwrap_or(declared.course.epoch_len());
    }
    row
}
