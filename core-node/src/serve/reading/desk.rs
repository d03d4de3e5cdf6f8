//! The data port: connections are taken, and each session's requests are answered.

use std::sync::Arc;
use std::time::Duration;

use headwater_fabric::offer::Endpoint;
use headwater_fabric::planes::AgreedRdma;
use headwater_fabric::tcp::{self, Accepted, Asked, Hello, TcpCoreLane};
use headwater_fabric::{CoreLane, Delivery, Gate, LaneError};
use headwater_host::error::{CodedError, codes};
use headwater_protocol::delivery::{ReadFailure, ReadRequest};
use headwater_quic::work;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::answer::answer;
use super::session::{REQUESTS_MAX, ReaderSession};
use crate::core::Core;
use crate::ingest::error_chain;
use crate::serve::outgoing::{JobGate, JobId};

/// Connections that have not said yet whose they are; more are closed at once.
const UNPROVEN_MAX: usize = 256;
/// Why a job has no RDMA that did not ask for it.
const NOT_OFFERED: &str = "the job offered none";
/// Pause after a connection could not be accepted, which is when there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes data connections for ever.
pub(crate) async fn accept(core: Arc<Core>, listener: TcpListener) {
    let unproven = Arc::new(Semaphore::new(UNPROVEN_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a data connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = unproven.clone().try_acquire_owned() else { continue };
        let core = core.clone();
        work::spawn(async move {
            let accepted = take(&core, stream).await;
            drop(place);
            if let Some(accepted) = accepted {
                serve(accepted).await;
            }
        });
    }
}

async fn take(core: &Arc<Core>, stream: TcpStream) -> Option<Accepted<Arc<ReaderSession>>> {
    let remote = stream.peer_addr().ok();
    let readers = &core.readers;
    let redeem = |hello: &Hello| readers.invitations().redeem(hello.session, &hello.proof, readers.now());
    match tcp::accept(stream, !core.config.serving.trusted_network, redeem).await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::info!(?remote, error = error_chain(&error), "a data connection was not taken");
            core.metrics.error(codes::DATA_CONNECTION_REFUSED.code);
            None
        }
    }
}

/// A lane and whom it serves.
struct Serving {
    session: Arc<ReaderSession>,
    lane: Arc<dyn CoreLane>,
    gate: Arc<JobGate>,
}

/// What comes of a session's lanes.
enum Incoming {
    /// A request, and where its answer goes.
    Read(ReadRequest, Arc<Serving>),
    /// The job offers RDMA.
    Rdma(Endpoint),
}

/// Answers the requests of one session until its connection or the session ends.
async fn serve(accepted: Accepted<Arc<ReaderSession>>) {
    let Accepted { whom: session, mut requests, lane } = accepted;
    let gate = Arc::new(JobGate::new(session.core.readers.outgoing.clone(), JobId(session.id)));
    let tcp = Arc::new(lane);
    let serving = Arc::new(Serving { session: session.clone(), lane: tcp.clone(), gate: gate.clone() });
    session.travels(serving.lane.plane(), Some(NOT_OFFERED.to_owned()));
    tracing::info!(job = session.who, plane = serving.lane.plane(), "reads");
    let (sender, mut asked) = mpsc::channel(REQUESTS_MAX);
    let mut tasks = JoinSet::new();
    let to_desk = sender.clone();
    work::spawn_on(&mut tasks, async move {
        loop {
            let incoming = match requests.next().await? {
                Some(Asked::Read(request)) => Incoming::Read(request, serving.clone()),
                Some(Asked::Rdma(offer)) => Incoming::Rdma(offer),
                None => return Err(LaneError::Ended("the job is gone".to_owned())),
            };
            if to_desk.send(incoming).await.is_err() {
                return Ok(());
            }
        }
    });
    let mut rdma = RdmaDesk { session: session.clone(), tcp, gate, sender, was_offered: false };
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    let reason = loop {
        tokio::select! {
            biased;
            () = session.ended() => break "its session ended".to_owned(),
            Some(ended) = tasks.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => break error.to_string(),
                Err(error) => {
                    tracing::error!(%error, "an answer to a job broke off");
                    break "the core made a mistake".to_owned();
                }
            },
            (Some(incoming), Ok(place)) = both(&mut asked, &places) => match incoming {
                Incoming::Read(request, serving) => work::spawn_on(&mut tasks, async move {
                    let answered = answer_one(&serving, Arc::new(request)).await;
                    drop(place);
                    answered
                }),
                Incoming::Rdma(offer) => rdma.offered(&mut tasks, offer),
            },
        }
    };
    tracing::info!(job = session.who, reason, "reads no more");
    tasks.abort_all();
    session.end(&reason);
}

/// RDMA of one session, beside its TCP lane.
struct RdmaDesk {
    session: Arc<ReaderSession>,
    tcp: Arc<TcpCoreLane>,
    gate: Arc<JobGate>,
    sender: mpsc::Sender<Incoming>,
    was_offered: bool,
}

impl RdmaDesk {
    /// Agrees to an offer, or says why not. What the job asks over RDMA comes to the desk as all else does.
    fn offered(&mut self, tasks: &mut JoinSet<Result<(), LaneError>>, offer: Endpoint) {
        let (tcp, gate) = (self.tcp.clone(), self.gate.clone());
        let agreed = match self.agree(&offer) {
            Ok(agreed) => agreed,
            Err(why) => {
                tracing::info!(job = self.session.who, why, "reads without RDMA");
                self.session.travels(tcp.plane(), Some(why.clone()));
                work::spawn_on(tasks, async move { tcp.tell_rdma(Err(why), &*gate).await });
                return;
            }
        };
        tracing::info!(job = self.session.who, plane = agreed.lane.plane(), "reads");
        self.session.travels(agreed.lane.plane(), None);
        let (endpoint, runner, mut requests) = (agreed.endpoint, agreed.runner, agreed.requests);
        let serving =
            Arc::new(Serving { session: self.session.clone(), lane: agreed.lane.into(), gate: self.gate.clone() });
        let sender = self.sender.clone();
        work::spawn_on(tasks, async move {
            while let Some(request) = requests.recv().await {
                if sender.send(Incoming::Read(request, serving.clone())).await.is_err() {
                    break;
                }
            }
            Ok(())
        });
        let session = self.session.clone();
        work::spawn_on(tasks, async move {
            let gate: &dyn Gate = &*gate;
            let told = tcp.tell_rdma(Ok(endpoint), gate);
            // The queue pair must be served from the moment the job knows of it.
            let (told, why) = tokio::join!(told, runner);
            told?;
            tracing::warn!(job = session.who, why, "reads no more over RDMA, but over TCP");
            session.travels(tcp.plane(), Some(why.clone()));
            tcp.tell_rdma(Err(why), gate).await
        });
    }

    fn agree(&mut self, offer: &Endpoint) -> Result<AgreedRdma, String> {
        let core = &self.session.core;
        if std::mem::replace(&mut self.was_offered, true) {
            return Err("a session has RDMA once".to_owned());
        }
        if !core.config.serving.trusted_network {
            return Err(
                "RDMA is not encrypted, and the core's network is not called trusted (`serving.trusted_network`)"
                    .to_owned(),
            );
        }
        let mut number = [0; 4];
        work::fill_random(&mut number).map_err(|_| "the core's system gave no random bytes".to_owned())?;
        core.readers.agree(offer, u32::from_le_bytes(number))
    }
}

/// The next request once there is a place for it.
async fn both(
    asked: &mut mpsc::Receiver<Incoming>,
    places: &Arc<Semaphore>,
) -> (Option<Incoming>, Result<tokio::sync::OwnedSemaphorePermit, tokio::sync::AcquireError>) {
    // The place is waited for first: what is dropped while waiting is then no request.
    let place = places.clone().acquire_owned().await;
    (asked.recv().await, place)
}

async fn answer_one(serving: &Serving, request: Arc<ReadRequest>) -> Result<(), LaneError> {
    let Serving { session, lane, gate } = serving;
    let began = Instant::now();
    let answered = match session.source(request.source) {
        Some(source) => answer(&session.core, &source, &request).await.map_err(ReadFailure::from),
        None => Err(ReadFailure {
            refusal: CodedError::new(&codes::NOT_FOUND, "the dataset is not open, or may not be read any more")
                .refusal(),
            slot_bytes_needed: 0,
        }),
    };
    match answered {
        Ok(pieces) => {
            let bytes: usize = pieces.iter().map(bytes::Bytes::len).sum();
            let waited = began.elapsed();
            session.served(bytes as u64, waited);
            session.core.metrics.reader_bytes_out.inc_by(bytes as u64);
            session.core.metrics.reader_wait_seconds.inc_by(waited.as_secs_f64());
            lane.deliver(Delivery { slot: request.slot, request: request.request, pieces }, &**gate).await
        }
        Err(failure) => {
            session.core.metrics.error(&failure.refusal.code);
            lane.fail(&request, failure, &**gate).await
        }
    }
}
