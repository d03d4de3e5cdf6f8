//! One connected peer: hello and welcome, then messages, offers and fetches until one side ends it.
//!
//! The task of an idle session waits in one place and holds no buffers of its own; transfers and commands run in tasks
//! beside it, which end with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use headwater_host::error::{CodedError, codes};
use headwater_protocol::trust::Principal as Peer;
use headwater_protocol::wire::{
    EndedDataset, Following, Hello, MESSAGE_LIST_MAX, Message, News, ReaderMessage, Refusal,
};
use headwater_quic::endpoint::close;
use headwater_quic::session::{Asked, Session, SessionEvent, SessionEvents, SessionHandle, SessionOptions, Side};
use headwater_quic::{ControlStream, Downstream, work};
use quinn::Connection;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Mutex, Semaphore, broadcast, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::admission::{Admitted, admit};
use super::commands::{self, Commands};
use super::sessions::{SessionPlace, Sessions};
use super::transfers;
use crate::catalog::DeviceState;
use crate::control::revoked;
use crate::core::{Announcement, Core};
use crate::federation::Presence;
use crate::ingest::{catalog_refusal, note_freed};
use crate::serve::reading::ReaderSession;
use crate::serve::{Followed, Resolved, own_heads};

/// Transfers of one session that run at once; more wait, and the session bounds how many.
const TASKS_MAX: usize = 8;
/// How long a refusal may take to reach the peer before the connection is closed.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves one connection, whose peer knocked at `knocked`, from its hello to its end.
pub(super) async fn serve(
    core: Arc<Core>,
    connection: Connection,
    shown: headwater_quic::Peer,
    downstream: Downstream,
    knocked: Instant,
) {
    let remote = connection.remote_address();
    let hello_timeout = core.config.network.hello_timeout.0;
    let opened = tokio::time::timeout(hello_timeout, open(&core, &connection, &shown, knocked)).await;
    let (control, admitted) = match opened {
        Ok(Some(opened)) => opened,
        Ok(None) => return,
        Err(_) => {
            connection.close(close::PROTOCOL, b"no hello came in time");
            return;
        }
    };
    let (account, _counted) = core.account.begin(admitted.peer.key, connection.clone());
    let options =
        SessionOptions { memory: Some(core.memory.clone()), account: Some(account), ..SessionOptions::default() };
    let (handle, events) = Session::start(connection.clone(), control, Side::Listener, options);
    let peer = admitted.peer;
    let (place, end) = Sessions::enter(&core, &peer, remote, handle.clone());
    core.metrics.sessions_total.inc();
    tracing::info!(device = peer.name, %remote, "connected");
    let device = peer.name.clone();
    let live = LiveSession {
        announcements: core.announcements(),
        core,
        peer: Arc::new(peer),
        handle,
        connection,
        downstream,
        place,
        followed: Followed::default(),
        question: 0,
        told: Vec::new(),
        tasks: JoinSet::new(),
        slots: Arc::new(Semaphore::new(TASKS_MAX)),
        commands: Commands::new(),
        mending: Arc::default(),
        reader: None,
        presence: None,
    };
    let reason = Box::pin(live.run(events, end)).await;
    tracing::info!(device, %remote, reason, "disconnected");
}

/// Hello and welcome; none if the peer is refused or went away.
async fn open(
    core: &Arc<Core>,
    connection: &Connection,
    shown: &headwater_quic::Peer,
    knocked: Instant,
) -> Option<(ControlStream, Admitted)> {
    let remote = connection.remote_address();
    let mut control = match ControlStream::accept(connection).await {
        Ok(control) => control,
        Err(error) => {
            tracing::debug!(%remote, %error, "a session ended before its hello");
            return None;
        }
    };
    let hello = match control.expect().await {
        Ok(Message::Hello(hello)) => hello,
        Ok(_) => {
            let refusal = CodedError::new(&codes::BAD_FRAME, "the session did not begin with a hello").refusal();
            refuse(core, connection, control, refusal, &shown.name).await;
            return None;
        }
        Err(error) if error.is_protocol_violation() => {
            let refusal = CodedError::new(&codes::BAD_FRAME, error.to_string()).refusal();
            refuse(core, connection, control, refusal, &shown.name).await;
            return None;
        }
        Err(error) => {
            tracing::debug!(%remote, %error, "a session ended before its hello");
            return None;
        }
    };
    match judge(core, shown, knocked, hello).await {
        Ok(admitted) => match control.send(&Message::Welcome(admitted.welcome.clone())).await {
            Ok(()) => Some((control, admitted)),
            Err(error) => {
                tracing::debug!(%remote, %error, "a session ended before its welcome");
                None
            }
        },
        Err(refusal) => {
            refuse(core, connection, control, refusal, &shown.name).await;
            None
        }
    }
}

async fn judge(
    core: &Arc<Core>,
    shown: &headwater_quic::Peer,
    knocked: Instant,
    hello: Hello,
) -> Result<Admitted, Refusal> {
    if !core.sessions.has_room() {
        return Err(CodedError::new(&codes::TOO_BUSY, "this core has as many sessions as it may").refusal());
    }
    let (core, shown) = (core.clone(), shown.clone());
    work::spawn_blocking(move || admit(&core, &shown, knocked, &hello)).await.unwrap_or_else(|error| {
        tracing::error!(%error, "an admission broke off");
        Err(CodedError::new(&codes::INTERNAL, "the core made a mistake with this session").refusal())
    })
}

async fn refuse(core: &Core, connection: &Connection, mut control: ControlStream, refusal: Refusal, name: &str) {
    tracing::info!(device = name, code = refusal.code, reason = refusal.message, "refused");
    note(core, &refusal, name);
    let said = refusal.message.clone();
    let told = async {
        // A peer that is gone needs no telling.
        if control.send(&Message::Refused { transfer: None, refusal }).await.is_ok() {
            control.split().0.delivered().await;
        }
    };
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, told).await;
    connection.close(close::REFUSED, said.as_bytes());
}

fn note(core: &Core, refusal: &Refusal, whom: &str) {
    core.metrics.error(&refusal.code);
    core.journal.note(&refusal.code, &refusal.message, whom);
}

/// What a session does next.
enum Next<A, E> {
    Announced(A),
    TaskEnded(Result<(), tokio::task::JoinError>),
    Event(E),
}

/// Waits for what a session does next. What the peer sends comes last: one that never stops must neither keep rights that it
/// has lost nor what its ended tasks leave behind.
async fn next<A, E>(
    announced: impl Future<Output = A>,
    tasks: &mut JoinSet<()>,
    event: impl Future<Output = E>,
) -> Next<A, E> {
    tokio::select! {
        biased;
        announced = announced => Next::Announced(announced),
        Some(ended) = tasks.join_next() => Next::TaskEnded(ended),
        event = event => Next::Event(event),
    }
}

struct LiveSession {
    core: Arc<Core>,
    peer: Arc<Peer>,
    handle: SessionHandle,
    connection: Connection,
    downstream: Downstream,
    place: SessionPlace,
    announcements: broadcast::Receiver<Announcement>,
    followed: Followed,
    /// The question that news answer.
    question: u32,
    /// What the peer was told last, so that it hears of each version once.
    told: Vec<News>,
    tasks: JoinSet<()>,
    slots: Arc<Semaphore>,
    commands: Commands,
    mending: Arc<Mending>,
    /// What a training job has opened.
    reader: Option<Arc<ReaderSession>>,
    /// Its part in federated runs.
    presence: Option<Presence>,
}

/// The mending of one session: one runs, and at most one waits for it.
#[derive(Default)]
struct Mending {
    waits: AtomicBool,
    turn: Mutex<()>,
}

impl LiveSession {
    /// Runs until the end; why it ended. `end` is heard whatever the session waits for, also a peer that reads nothing.
    async fn run(mut self, mut events: SessionEvents, mut end: mpsc::Receiver<Refusal>) -> String {
        let over = tokio::select! {
            biased;
            Some(refusal) = end.recv() => Err(refusal),
            over = self.live(&mut events) => over,
        };
        if let Some(reader) = &self.reader {
            reader.end("its session ended");
        }
        match over {
            Ok(reason) => reason,
            Err(refusal) => {
                let reason = refusal.message.clone();
                self.end(refusal).await;
                reason
            }
        }
    }

    /// Serves the peer; how it went away, or what it is to be told at the end.
    async fn live(&mut self, events: &mut SessionEvents) -> Result<String, Refusal> {
        // Whoever was revoked between its admission and its place among the sessions was not there to be told.
        self.look_again().await?;
        self.mend();
        loop {
            match next(self.announcements.recv(), &mut self.tasks, events.next()).await {
                Next::Announced(announced) => self.announced(announced).await?,
                Next::TaskEnded(Err(error)) if error.is_panic() => {
                    tracing::error!(device = self.peer.name, %error, "work for a session broke off");
                }
                Next::TaskEnded(_) => {}
                Next::Event(Some(SessionEvent::Closed { reason })) => return Ok(reason),
                Next::Event(Some(event)) => self.apply(event).await?,
                Next::Event(None) => return Ok("the session ended".to_owned()),
            }
        }
    }

    /// Reads again who the peer is and what it may.
    async fn look_again(&mut self) -> Result<(), Refusal> {
        let (core, key) = (self.core.clone(), self.peer.key);
        match self.blocking(move || core.catalog.device(&key)).await? {
            Some(device) if device.state == DeviceState::Active => {
                self.peer = Arc::new(self.core.rights.peer(&device));
                Ok(())
            }
            _ => Err(revoked(&self.peer.name).refusal()),
        }
    }

    async fn apply(&mut self, event: SessionEvent) -> Result<(), Refusal> {
        match event {
            SessionEvent::Message(message) => self.message(message).await?,
            SessionEvent::Offer(offer) => {
                let asked = Asked::Offer(offer.transfer);
                let work = transfers::receive(
                    self.core.clone(),
                    self.peer.clone(),
                    self.handle.clone(),
                    offer,
                    self.place.doing.clone(),
                );
                self.serve(asked, work);
            }
            SessionEvent::Fetch { transfer, dataset, version } => {
                let asked = Asked::Fetch(transfer);
                let work = transfers::send(
                    self.core.clone(),
                    self.peer.clone(),
                    self.handle.clone(),
                    transfers::Fetch { transfer, dataset, version },
                    self.place.doing.clone(),
                );
                self.serve(asked, work);
            }
            SessionEvent::Closed { .. } => {}
        }
        Ok(())
    }

    /// Runs what the peer asked for beside the session, when it is its turn.
    fn serve(&mut self, asked: Asked, work: impl Future<Output = ()> + Send + 'static) {
        let (slots, handle) = (self.slots.clone(), self.handle.clone());
        work::spawn_on(&mut self.tasks, async move {
            if let Ok(_slot) = handle.wait_turn(asked, slots.acquire_owned()).await {
                work.await;
            }
        });
    }

    /// Runs a transfer of the core's own beside the session, at most [`TASKS_MAX`] at once with those of the peer.
    fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let slots = self.slots.clone();
        work::spawn_on(&mut self.tasks, async move {
            if let Ok(_slot) = slots.acquire_owned().await {
                work.await;
            }
        });
    }

    async fn message(&mut self, message: Message) -> Result<(), Refusal> {
        match message {
            Message::Status(status) => {
                let (core, key) = (self.core.clone(), self.peer.key);
                let noted = self.blocking(move || core.catalog.note_seen(&key, core.now(), Some(&status))).await;
                if let Err(refusal) = noted {
                    // The peer waits for no answer to this, and it comes again.
                    note(&self.core, &refusal, &self.peer.name);
                }
            }
            Message::Heads { question, datasets } => {
                let (core, peer) = (self.core.clone(), self.peer.clone());
                let (heads, ended) = self.blocking(move || own_heads(&core, &peer, &datasets)).await?;
                self.send_heads(question, heads, ended).await;
            }
            Message::Follow { question, names } => {
                self.followed = Followed::new(names);
                self.question = question;
                self.told.clear();
                let (unmatched, refused) = match self.tell_news().await {
                    Ok(unmatched) => (unmatched, None),
                    Err(refusal) => {
                        note(&self.core, &refusal, &self.peer.name);
                        (Vec::new(), Some(refusal))
                    }
                };
                self.send(Message::FollowDone { question, unmatched, refused }).await;
            }
            Message::Freed { question, dataset, version, since } => {
                let (core, peer) = (self.core.clone(), self.peer.clone());
                let noted = self.blocking(move || note_freed(&core, &peer, &dataset, &version, since)).await?;
                self.send(Message::FreedNoted { question, noted }).await;
            }
            Message::DownCap { bytes_per_s } => self.downstream.set_cap(bytes_per_s),
            Message::Control { request, body } => self.command(request, body).await,
            Message::Reader(message) => self.reader(*message).await?,
            Message::Training(message) => {
                let presence = self.presence.get_or_insert_with(|| Presence::new(&self.core, &self.peer));
                presence.heard(&self.peer, &self.handle, *message);
            }
            other => tracing::debug!(device = self.peer.name, ?other, "a message that asks for nothing here"),
        }
        Ok(())
    }

    async fn command(&mut self, request: u32, body: String) {
        match self.commands.admit(self.peer.role) {
            Ok(slot) => {
                let (core, peer, handle) = (self.core.clone(), self.peer.clone(), self.handle.clone());
                work::spawn_on(&mut self.tasks, commands::carry_out(core, peer, handle, (request, body), slot));
            }
            Err(error) => {
                self.core.metrics.error(&error.code);
                commands::finish(&self.handle, request, Err(error)).await;
            }
        }
    }

    /// Answers a training job, or says that this peer is none. One question at a time, in their order.
    async fn reader(&mut self, message: ReaderMessage) -> Result<(), Refusal> {
        if self.reader.is_none() {
            match ReaderSession::new(&self.core, &self.peer, self.connection.remote_address(), self.handle.clone()) {
                Ok(reader) => self.reader = Some(reader),
                Err(error) => {
                    self.core.metrics.error(&error.code);
                    if let Some(question) = message.question() {
                        self.send(Message::Reader(Box::new(ReaderMessage::Refused {
                            question,
                            refusal: error.refusal(),
                        })))
                        .await;
                    }
                    return Ok(());
                }
            }
        }
        let (reader, peer) = (self.reader.clone(), self.peer.clone());
        let answer = self.blocking(move || Ok(reader.and_then(|reader| reader.answer(&peer, message)))).await?;
        if let Some(answer) = answer {
            self.send(Message::Reader(Box::new(answer))).await;
        }
        Ok(())
    }

    async fn announced(&mut self, announced: Result<Announcement, RecvError>) -> Result<(), Refusal> {
        match announced {
            Ok(Announcement::Changed(name)) => {
                if self.followed.may_concern(&self.peer, &name) {
                    self.tell_news().await?;
                }
            }
            // What was missed may have been anything.
            Ok(Announcement::Rights) | Err(RecvError::Lagged(_)) => {
                self.look_again().await?;
                if let Some(reader) = self.reader.clone() {
                    let peer = self.peer.clone();
                    self.blocking(move || {
                        reader.look_again(&peer);
                        Ok(())
                    })
                    .await?;
                }
                if !self.followed.is_empty() {
                    self.tell_news().await?;
                }
            }
            Ok(Announcement::Damaged) => self.mend(),
            Err(RecvError::Closed) => {}
        }
        Ok(())
    }

    /// Asks the peer again for what of its datasets is damaged here.
    fn mend(&mut self) {
        if self.mending.waits.swap(true, Ordering::AcqRel) {
            // The one that waits will look when its turn comes.
            return;
        }
        let mending = self.mending.clone();
        let (core, peer, handle) = (self.core.clone(), self.peer.clone(), self.handle.clone());
        let doing = self.place.doing.clone();
        self.spawn(async move {
            let _turn = mending.turn.lock().await;
            mending.waits.store(false, Ordering::Release);
            transfers::mend(core, peer, handle, doing).await;
        });
    }

    /// Tells what is new among what is followed; gives the names that matched nothing.
    async fn tell_news(&mut self) -> Result<Vec<String>, Refusal> {
        let (core, peer, followed) = (self.core.clone(), self.peer.clone(), self.followed.clone());
        let Resolved { news, unmatched } = self.blocking(move || followed.resolve(&core, &peer)).await?;
        let fresh: Vec<_> = news.iter().filter(|item| !self.told.contains(item)).cloned().collect();
        self.told = news;
        for part in fresh.chunks(MESSAGE_LIST_MAX) {
            self.send(Message::News { question: self.question, list: part.to_vec() }).await;
        }
        Ok(unmatched)
    }

    /// At most as many datasets have ended as were asked for in one message.
    async fn send_heads(&self, question: u32, mut heads: Vec<Following>, ended: Vec<EndedDataset>) {
        let mut rest = heads.split_off(heads.len().min(MESSAGE_LIST_MAX));
        self.send(Message::HeadsAre { question, heads, ended }).await;
        while !rest.is_empty() {
            let after = rest.split_off(rest.len().min(MESSAGE_LIST_MAX));
            self.send(Message::HeadsAre { question, heads: rest, ended: Vec::new() }).await;
            rest = after;
        }
    }

    async fn send(&self, message: Message) {
        // A session that is gone says so in its events.
        let _ = self.handle.send(message).await;
    }

    /// Runs a catalog lookup on a blocking thread; a failure is what the peer is to be told, so that it doesn't wait for an
    /// answer that never comes.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, crate::catalog::CatalogError> + Send + 'static,
    ) -> Result<T, Refusal> {
        match work::spawn_blocking(work).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(catalog_refusal(&error)),
            Err(error) => {
                tracing::error!(%error, "a lookup broke off");
                Err(CodedError::new(&codes::INTERNAL, "the core made a mistake with a question of this session")
                    .refusal())
            }
        }
    }

    /// Ends the session and tells the peer why.
    async fn end(&mut self, refusal: Refusal) {
        self.tasks.abort_all();
        note(&self.core, &refusal, &self.peer.name);
        let revoked = codes::DEVICE_REVOKED.code == refusal.code;
        let said = refusal.message.clone();
        let told = async {
            if self.handle.send(Message::Refused { transfer: None, refusal }).await.is_ok() {
                // The message must be out before the connection closes; a round trip shows it.
                let _ = self.handle.ping().await;
            }
        };
        let _ = tokio::time::timeout(REFUSAL_TIMEOUT, told).await;
        let code = if revoked { close::REVOKED } else { close::REFUSED };
        self.connection.close(code, said.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_peer_that_never_stops_sending_delays_nothing_else() {
        let mut tasks = JoinSet::new();
        assert!(matches!(next(ready(1), &mut tasks, ready(2)).await, Next::Announced(1)));
        tasks.spawn(async {});
        tokio::task::yield_now().await;
        assert!(matches!(next(pending::<()>(), &mut tasks, ready(2)).await, Next::TaskEnded(Ok(()))));
        assert!(matches!(next(pending::<()>(), &mut tasks, ready(2)).await, Next::Event(2)));
    }
}
