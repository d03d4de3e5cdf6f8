//! The control session with a core: questions, commands, and versions that travel whole. It lives until it is dropped, or the
//! connection ends.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headwater_host::control::Pieces;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::trust::Token;
use headwater_protocol::wire::{Hello, Message, PROTOCOL_REVISION, PeerStatus, ReaderMessage, Refusal};
use headwater_quic::session::{Session, SessionEvent, SessionEvents, SessionHandle, SessionOptions, Side};
use headwater_quic::transfer::IncomingOffer;
use headwater_quic::{
    ClientOptions, ConnectError, ControlStream, Dialler, FrameError, Identity, IdentityKey, JoinError, join, resolve,
    work,
};
use quinn::Connection;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

/// Parts of an answer to a command that wait for whoever asked.
const PARTS_MAX: usize = 64;

/// How long a core may take to answer at one of its addresses. Jobs have better links than devices, and people who wait.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

fn dialling() -> ClientOptions {
    ClientOptions { connect_timeout: CONNECT_TIMEOUT, ..ClientOptions::default() }
}

fn unreachable(said: String) -> CodedError {
    CodedError::new(&codes::CORE_UNREACHABLE, said)
        .with_hint("check the core's address, that it runs, and that its port is open to this machine over UDP and TCP")
}

/// A live session.
pub(crate) struct Control {
    handle: SessionHandle,
    talk: Arc<Talk>,
    ending: Arc<Ending>,
    dialler: Dialler,
}

/// Where it is said, once, why a session has ended.
#[derive(Debug)]
pub(crate) struct Ending(watch::Sender<Option<String>>);

impl Ending {
    /// Says why; what was said first holds.
    pub(crate) fn say(&self, why: String) {
        self.0.send_if_modified(|ended| ended.is_none().then(|| *ended = Some(why)).is_some());
    }
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

impl Control {
    /// Reaches the core at one of `addresses`.
    pub(crate) async fn open(addresses: &[String], identity: &Identity) -> Result<Self, CodedError> {
        let (dialler, connection) = reach(addresses, identity).await?;
        let control = greet(&connection).await?;
        let (handle, events) = Session::start(connection, control, Side::Dialler, SessionOptions::default());
        let talk = Arc::<Talk>::default();
        let ending = Arc::new(Ending(watch::Sender::new(None)));
        work::spawn(listen(talk.clone(), handle.clone(), events, ending.clone()));
        Ok(Self { handle, talk, ending, dialler })
    }

    /// Why it has ended, if it has.
    pub(crate) fn why_ended(&self) -> Option<String> {
        self.ending.0.borrow().clone()
    }

    /// Where whatever it can't do without says that it has ended.
    pub(crate) fn ending(&self) -> Arc<Ending> {
        self.ending.clone()
    }

    /// The session, for versions that travel whole.
    pub(crate) fn session(&self) -> &SessionHandle {
        &self.handle
    }

    /// Where the core is.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.handle.connection().remote_address()
    }

    /// Asks a question of a job.
    pub(crate) async fn ask(&self, question: impl FnOnce(u32) -> ReaderMessage) -> Result<ReaderMessage, CodedError> {
        let number = self.talk.number();
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.talk.waiting();
            if waiting.over {
                return Err(gone());
            }
            waiting.questions.insert(number, sender);
        }
        self.handle.send(Message::Reader(Box::new(question(number)))).await.map_err(|_| gone())?;
        match answer.await {
            Ok(ReaderMessage::Refused { refusal, .. }) => Err(refusal.into()),
            Ok(message) => Ok(message),
            Err(_) => Err(gone()),
        }
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

impl Drop for Control {
    fn drop(&mut self) {
        self.handle.close(0, "");
    }
}

/// The identity that all have who share the token.
pub(crate) async fn identity_of(token: &Token) -> Result<Identity, CodedError> {
    let key = IdentityKey::from_seed(&token.shared_key_seed());
    let name = token.digest().shared_name();
    let joined = join(token, &name, &key, &dialling()).await.map_err(join_failed)?;
    Ok(joined.identity)
}

fn join_failed(error: JoinError) -> CodedError {
    match error {
        JoinError::Refused(refusal) => refusal.into(),
        JoinError::Unreachable(_) | JoinError::Silent(_) => unreachable(error.to_string()),
        JoinError::OtherCore { .. } => CodedError::new(&codes::TOKEN_OF_ANOTHER_CORE, error.to_string()),
        JoinError::Exchange(_) | JoinError::Answer => CodedError::new(&codes::SESSION_ENDED, error.to_string()),
        JoinError::Identity(_) => CodedError::new(&codes::IDENTITY_UNUSABLE, error.to_string()),
    }
}

fn gone() -> CodedError {
    CodedError::new(&codes::SESSION_ENDED, "the session with the core ended")
}

/// Takes what the core says until the session ends.
async fn listen(talk: Arc<Talk>, handle: SessionHandle, mut events: SessionEvents, ending: Arc<Ending>) {
    let mut why = "the session with the core ended".to_owned();
    while let Some(event) = events.next().await {
        match event {
            SessionEvent::Message(Message::Refused { transfer: None, refusal }) => why = said(&refusal),
            SessionEvent::Message(message) => talk.heard(message).await,
            SessionEvent::Closed { reason } => {
                tracing::debug!(reason, "the session with the core ended");
                break;
            }
            // As the core does that looks for a whole copy of what is damaged there: it need not wait for one from here.
            SessionEvent::Offer(IncomingOffer { transfer, .. }) | SessionEvent::Fetch { transfer, .. } => {
                let refusal = CodedError::new(&codes::NOT_FOUND, "a client keeps no versions").refusal();
                let _ = handle.refuse(transfer, refusal).await;
            }
        }
    }
    talk.end();
    ending.say(why);
}

fn said(refusal: &Refusal) -> String {
    CodedError::from(refusal.clone()).message
}

async fn reach(addresses: &[String], identity: &Identity) -> Result<(Dialler, Connection), CodedError> {
    let mut last = unreachable("the token names no address of the core".to_owned());
    for text in addresses {
        let candidates = match resolve(text).await {
            Ok(candidates) => candidates,
            Err(error) => {
                last = unreachable(error.to_string()).with_source(error.source);
                continue;
            }
        };
        for address in candidates {
            let dialled = async {
                let dialler = Dialler::bind(address, &dialling())?;
                let connection = dialler.connect(address, identity).await?;
                Ok((dialler, connection))
            };
            last = match dialled.await {
                Ok(reached) => return Ok(reached),
                Err(error @ ConnectError::Untrusted { .. }) => {
                    CodedError::new(&codes::PEER_UNTRUSTED, error.to_string()).with_source(error)
                }
                Err(error) => unreachable(error.to_string()).with_source(error),
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
