//! One live connection to a core: the control session, and the lane on which bytes come. It lives until either ends.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headwater_fabric::planes::JobPlanes;
use headwater_fabric::{JobLane, LaneError, tcp};
use headwater_host::control::Pieces;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::wire::{DataWay, Hello, Message, PROTOCOL_REVISION, PeerStatus, ReaderMessage, Refusal};
use headwater_quic::session::{Session, SessionEvent, SessionEvents, SessionHandle, SessionOptions, Side};
use headwater_quic::{ClientOptions, ConnectError, ControlStream, Dialler, FrameError, Identity, resolve, work};
use quinn::Connection;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

/// Parts of an answer to a command that wait for whoever asked.
const PARTS_MAX: usize = 64;

/// One live connection.
pub(crate) struct Link {
    pub(crate) lane: Box<dyn JobLane>,
    handle: SessionHandle,
    talk: Arc<Talk>,
    ended: watch::Receiver<Option<String>>,
    dialler: Dialler,
}

#[derive(Default)]
struct Talk {
    numbers: AtomicU32,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    questions: BTreeMap<u32, oneshot::Sender<ReaderMessage>>,
    commands: BTreeMap<u32, mpsc::Sender<(String, bool)>>,
    over: bool,
}

impl Talk {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives a message of the core to whoever waits for it.
    async fn heard(&self, message: Message) {
        match message {
            Message::Reader(message) => {
                let Some(question) = message.question() else { return };
                if let Some(waits) = self.waiting().questions.remove(&question) {
                    let _ = waits.send(*message);
                }
            }
            Message::ControlReply { request, body, last } => {
                let waits = {
                    let mut waiting = self.waiting();
                    if last { waiting.commands.remove(&request) } else { waiting.commands.get(&request).cloned() }
                };
                if let Some(waits) = waits {
                    let _ = waits.send((body, last)).await;
                }
            }
            _ => {}
        }
    }

    fn end(&self) {
        let mut waiting = self.waiting();
        waiting.questions.clear();
        waiting.commands.clear();
        waiting.over = true;
    }
}

impl Link {
    /// Reaches the core at one of `addresses`.
    pub(crate) async fn open(
        addresses: &[String],
        identity: &Identity,
        job: &str,
        planes: &JobPlanes,
    ) -> Result<Arc<Self>, CodedError> {
        let (dialler, connection) = reach(addresses, identity).await?;
        let remote = connection.remote_address();
        let control = greet(&connection).await?;
        let (handle, events) = Session::start(connection, control, Side::Dialler, SessionOptions::default());
        let talk = Arc::<Talk>::default();
        let (end, ended) = watch::channel(None);
        let end = Arc::new(end);
        work::spawn(listen(talk.clone(), events, end.clone()));
        let lane = open_lane(&talk, &handle, (remote, job), end, planes).await.inspect_err(|_| handle.close(0, ""))?;
        Ok(Arc::new(Self { lane, handle, talk, ended, dialler }))
    }

    /// Why it has ended, if it has.
    pub(crate) fn why_ended(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    /// Asks a question of a job.
    pub(crate) async fn ask(&self, question: impl FnOnce(u32) -> ReaderMessage) -> Result<ReaderMessage, CodedError> {
        ask(&self.talk, &self.handle, question).await
    }

    /// Says something that has no answer.
    pub(crate) async fn tell(&self, message: ReaderMessage) {
        // A session that has ended needs to hear nothing.
        let _ = self.handle.send(Message::Reader(Box::new(message))).await;
    }

    /// Carries out a command at the core; `take` gets the parts of its answer.
    pub(crate) async fn command(&self, request: &Value, mut take: impl FnMut(Value)) -> Result<(), CodedError> {
        let (sender, mut parts) = mpsc::channel(PARTS_MAX);
        let number = self.talk.number();
        {
            let mut waiting = self.talk.waiting();
            if waiting.over {
                return Err(gone());
            }
            waiting.commands.insert(number, sender);
        }
        let sent = self.handle.send(Message::Control { request: number, body: request.to_string() }).await;
        sent.map_err(|_| gone())?;
        let mut pieces = Pieces::default();
        while let Some((body, last)) = parts.recv().await {
            let Some(mut reply) = pieces.take(&body)? else { continue };
            if !last {
                take(reply["progress"].take());
            } else if reply.get("failed").is_some() {
                return Err(serde_json::from_value(reply["failed"].take())
                    .unwrap_or_else(|_| CodedError::new(&codes::BAD_FRAME, "the core failed and did not say how")));
            } else {
                return Ok(());
            }
        }
        Err(gone())
    }

    /// Ends it, and waits until the core knows.
    pub(crate) async fn close(&self) {
        self.handle.close(0, "");
        self.dialler.wait_closed().await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.handle.close(0, "");
    }
}

fn gone() -> CodedError {
    CodedError::new(&codes::SESSION_ENDED, "the session with the core ended")
}

async fn ask(
    talk: &Talk,
    handle: &SessionHandle,
    question: impl FnOnce(u32) -> ReaderMessage,
) -> Result<ReaderMessage, CodedError> {
    let number = talk.number();
    let (sender, answer) = oneshot::channel();
    {
        let mut waiting = talk.waiting();
        if waiting.over {
            return Err(gone());
        }
        waiting.questions.insert(number, sender);
    }
    handle.send(Message::Reader(Box::new(question(number)))).await.map_err(|_| gone())?;
    match answer.await {
        Ok(ReaderMessage::Refused { refusal, .. }) => Err(refusal.into()),
        Ok(message) => Ok(message),
        Err(_) => Err(gone()),
    }
}

/// Takes what the core says until the session ends.
async fn listen(talk: Arc<Talk>, mut events: SessionEvents, end: Arc<watch::Sender<Option<String>>>) {
    let mut why = "the session with the core ended".to_owned();
    while let Some(event) = events.next().await {
        match event {
            SessionEvent::Message(Message::Refused { transfer: None, refusal }) => why = said(&refusal),
            SessionEvent::Message(message) => talk.heard(message).await,
            SessionEvent::Closed { reason } => {
                tracing::debug!(reason, "the session with the core ended");
                break;
            }
            SessionEvent::Offer(_) | SessionEvent::Fetch { .. } => {}
        }
    }
    talk.end();
    end.send_if_modified(|ended| ended.is_none().then(|| *ended = Some(why)).is_some());
}

fn said(refusal: &Refusal) -> String {
    CodedError::from(refusal.clone()).message
}

async fn open_lane(
    talk: &Talk,
    handle: &SessionHandle,
    (core, job): (SocketAddr, &str),
    end: Arc<watch::Sender<Option<String>>>,
    planes: &JobPlanes,
) -> Result<Box<dyn JobLane>, CodedError> {
    let answer = ask(talk, handle, |question| ReaderMessage::OpenData { question, job: job.to_owned() }).await?;
    let ReaderMessage::DataOpened { way, .. } = answer else {
        return Err(CodedError::new(&codes::BAD_FRAME, "the core answered with something else than asked for"));
    };
    let (lane, runner) = tcp::connect(core, &way).await.map_err(|error| lane_failed(&way, &error))?;
    let handle = handle.clone();
    work::spawn(async move {
        let error = runner.run().await;
        let why = error.to_string();
        tracing::debug!(why, "the data connection ended");
        end.send_if_modified(|ended| ended.is_none().then(|| *ended = Some(why)).is_some());
        handle.close(0, "the data connection ended");
    });
    let mut number = [0; 4];
    work::fill_random(&mut number)
        .map_err(|_| CodedError::new(&codes::INTERNAL, "this machine's system gave no random bytes"))?;
    let (lane, runner) = planes.lane(lane, &way, u32::from_le_bytes(number)).await;
    if let Some(runner) = runner {
        work::spawn(async move {
            let why = runner.await;
            tracing::warn!(why, "reads no more over RDMA, but over TCP");
        });
    }
    Ok(lane)
}

fn lane_failed(way: &DataWay, error: &LaneError) -> CodedError {
    CodedError::new(&codes::CORE_UNREACHABLE, format!("no data connection to the core: {error}"))
        .with_hint(format!("check that TCP port {} of the core is open to this machine", way.port))
}

async fn reach(addresses: &[String], identity: &Identity) -> Result<(Dialler, Connection), CodedError> {
    let mut last = CodedError::new(&codes::CORE_UNREACHABLE, "the token names no address of the core");
    for text in addresses {
        let candidates = match resolve(text).await {
            Ok(candidates) => candidates,
            Err(error) => {
                last = CodedError::new(&codes::CORE_UNREACHABLE, error.to_string()).with_source(error.source);
                continue;
            }
        };
        for address in candidates {
            let dialled = async {
                let dialler = Dialler::bind(address, &ClientOptions::default())?;
                let connection = dialler.connect(address, identity).await?;
                Ok((dialler, connection))
            };
            last = match dialled.await {
                Ok(reached) => return Ok(reached),
                Err(error @ ConnectError::Untrusted { .. }) => {
                    CodedError::new(&codes::PEER_UNTRUSTED, error.to_string()).with_source(error)
                }
                Err(error) => CodedError::new(&codes::CORE_UNREACHABLE, error.to_string()).with_source(error),
            };
        }
    }
    Err(last)
}

async fn greet(connection: &Connection) -> Result<ControlStream, CodedError> {
    let lost = |error: FrameError| {
        CodedError::new(&codes::SESSION_ENDED, "the core ended the session before it began").with_source(error)
    };
    let mut control = ControlStream::open(connection).await.map_err(lost)?;
    let hello = Hello {
        revision_min: PROTOCOL_REVISION,
        revision_max: PROTOCOL_REVISION,
        nonce: Vec::new(),
        status: PeerStatus { release: env!("CARGO_PKG_VERSION").to_owned(), ..PeerStatus::default() },
    };
    control.send(&Message::Hello(hello)).await.map_err(lost)?;
    match control.expect().await.map_err(lost)? {
        Message::Welcome(_) => Ok(control),
        Message::Refused { refusal, .. } => Err(refusal.into()),
        _ => Err(CodedError::new(&codes::BAD_FRAME, "the core did not answer with a welcome")),
    }
}
