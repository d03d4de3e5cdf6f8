//! The data port: connections are taken, and each session's requests are answered.

use std::sync::Arc;
use std::time::Duration;

use headwater_fabric::tcp::{self, Accepted, Hello};
use headwater_fabric::{CoreLane, Delivery, LaneError};
use headwater_host::error::{CodedError, codes};
use headwater_protocol::delivery::{ReadFailure, ReadRequest};
use headwater_quic::work;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::answer::answer;
use super::session::{REQUESTS_MAX, ReaderSession};
use crate::core::Core;
use crate::ingest::error_chain;
use crate::serve::outgoing::{JobGate, JobId};

/// Connections that have not said yet whose they are; more are closed at once.
const UNPROVEN_MAX: usize = 256;
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
    lane: Box<dyn CoreLane>,
    gate: JobGate,
}

/// Answers the requests of one session until its connection or the session ends.
async fn serve(accepted: Accepted<Arc<ReaderSession>>) {
    let Accepted { whom: session, mut requests, lane } = accepted;
    let gate = JobGate::new(session.core.readers.outgoing.clone(), JobId(session.id));
    let serving = Arc::new(Serving { session: session.clone(), lane: Box::new(lane), gate });
    tracing::info!(job = session.who, plane = serving.lane.plane(), "reads");
    let (sender, mut asked) = mpsc::channel(REQUESTS_MAX);
    let mut tasks = JoinSet::new();
    work::spawn_on(&mut tasks, async move {
        loop {
            match requests.next().await {
                Ok(Some(request)) => {
                    if sender.send(request).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => return Err(LaneError::Ended("the job is gone".to_owned())),
                Err(error) => return Err(error),
            }
        }
    });
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
            (Some(request), Ok(place)) = both(&mut asked, &places) => {
                let serving = serving.clone();
                work::spawn_on(&mut tasks, async move {
                    let answered = answer_one(&serving, Arc::new(request)).await;
                    drop(place);
                    answered
                });
            }
        }
    };
    tracing::info!(job = session.who, reason, "reads no more");
    tasks.abort_all();
    session.end(&reason);
}

/// The next request once there is a place for it.
async fn both(
    asked: &mut mpsc::Receiver<ReadRequest>,
    places: &Arc<Semaphore>,
) -> (Option<ReadRequest>, Result<tokio::sync::OwnedSemaphorePermit, tokio::sync::AcquireError>) {
    // The place is waited for first: what is dropped while waiting is then no request.
    let place = places.clone().acquire_owned().await;
    (asked.recv().await, place)
}

async fn answer_one(serving: &Serving, request: Arc<ReadRequest>) -> Result<(), LaneError> {
    let Serving { session, lane, gate } = serving;
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
            session.core.metrics.reader_bytes_out.inc_by(bytes as u64);
            lane.deliver(Delivery { slot: request.slot, request: request.request, pieces }, gate).await
        }
        Err(failure) => {
            session.core.metrics.error(&failure.refusal.code);
            lane.fail(&request, failure, gate).await
        }
    }
}
