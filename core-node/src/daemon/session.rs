//! One connected peer: hello and welcome, then messages, offers and fetches until one side ends it.
//!
//! The task of an idle session waits in one place and holds no buffers of its own; transfers and commands run in tasks
//! beside it, which end with it.

use std::sync::Arc;
use std::time::Duration;

use headwater_host::control::ReplySender;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::trust::Principal as Peer;
use headwater_protocol::wire::{Following, Hello, MESSAGE_LIST_MAX, Message, Refusal};
use headwater_quic::ControlStream;
use headwater_quic::endpoint::close;
use headwater_quic::session::{Session, SessionEvent, SessionEvents, SessionHandle, SessionOptions, Side};
use quinn::Connection;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;

use super::admission::{Admitted, admit};
use super::sessions::{SessionPlace, Sessions};
use super::transfers;
use crate::control::{Asker, answer};
use crate::core::{Announcement, Core};
use crate::ingest::catalog_refusal;
use crate::serve::{Followed, Resolved, own_heads};

/// Transfers and commands of one session that run at once; more wait.
const TASKS_MAX: usize = 8;
/// How long a refusal may take to reach the peer before the connection is closed.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves one connection from its hello to its end.
pub(super) async fn serve(core: Arc<Core>, connection: Connection, shown: headwater_quic::Peer) {
    let remote = connection.remote_address();
    let hello_timeout = core.config.network.hello_timeout.0;
    let opened = tokio::time::timeout(hello_timeout, open(&core, &connection, &shown)).await;
    let (control, admitted) = match opened {
        Ok(Some(opened)) => opened,
        Ok(None) => return,
        Err(_) => {
            connection.close(close::PROTOCOL, b"no hello came in time");
            return;
        }
    };
    let options = SessionOptions {
        window_bytes: core.window_bytes(),
        memory: Some(core.memory.clone()),
        ..SessionOptions::default()
    };
    let (handle, events) = Session::start(connection.clone(), control, Side::Listener, options);
    let peer = admitted.peer;
    let place = Sessions::enter(&core, peer.key, peer.name.clone(), remote, handle.clone());
    core.metrics.sessions_total.inc();
    tracing::info!(device = peer.name, %remote, "connected");
    let device = peer.name.clone();
    let live = LiveSession {
        announcements: core.announcements(),
        core,
        peer: Arc::new(peer),
        handle,
        connection,
        place,
        followed: Followed::default(),
        told: Vec::new(),
        tasks: JoinSet::new(),
        slots: Arc::new(Semaphore::new(TASKS_MAX)),
    };
    let reason = Box::pin(live.run(events)).await;
    tracing::info!(device, %remote, reason, "disconnected");
}

/// Hello and welcome; none if the peer is refused or went away.
async fn open(
    core: &Arc<Core>,
    connection: &Connection,
    shown: &headwater_quic::Peer,
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
    match judge(core, shown, hello).await {
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

async fn judge(core: &Arc<Core>, shown: &headwater_quic::Peer, hello: Hello) -> Result<Admitted, Refusal> {
    if !core.sessions.has_room() {
        return Err(CodedError::new(&codes::TOO_BUSY, "this core has as many sessions as it may").refusal());
    }
    let (core, shown) = (core.clone(), shown.clone());
    tokio::task::spawn_blocking(move || admit(&core, &shown, &hello)).await.unwrap_or_else(|error| {
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

struct LiveSession {
    core: Arc<Core>,
    peer: Arc<Peer>,
    handle: SessionHandle,
    connection: Connection,
    place: SessionPlace,
    announcements: broadcast::Receiver<Announcement>,
    followed: Followed,
    /// What the peer was told last, so that it hears of each version once.
    told: Vec<Following>,
    tasks: JoinSet<()>,
    slots: Arc<Semaphore>,
}

impl LiveSession {
    /// Runs until the end; why it ended.
    async fn run(mut self, mut events: SessionEvents) -> String {
        self.mend();
        loop {
            tokio::select! {
                biased;
                Some(refusal) = self.place.end.recv() => {
                    let reason = refusal.message.clone();
                    self.end(refusal).await;
                    return reason;
                }
                event = events.next() => match event {
                    Some(SessionEvent::Closed { reason }) => return reason,
                    Some(event) => self.apply(event).await,
                    None => return "the session ended".to_owned(),
                },
                announced = self.announcements.recv() => self.announced(announced).await,
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    async fn apply(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Message(message) => self.message(message).await,
            SessionEvent::Offer(offer) => {
                let work = transfers::receive(
                    self.core.clone(),
                    self.peer.clone(),
                    self.handle.clone(),
                    offer,
                    self.place.doing.clone(),
                );
                self.spawn(work);
            }
            SessionEvent::Fetch { transfer, dataset, version } => {
                let work = transfers::send(
                    self.core.clone(),
                    self.peer.clone(),
                    self.handle.clone(),
                    transfers::Fetch { transfer, dataset, version },
                    self.place.doing.clone(),
                );
                self.spawn(work);
            }
            SessionEvent::Closed { .. } => {}
        }
    }

    /// Runs `work` beside the session, at most [`TASKS_MAX`] at once.
    fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let slots = self.slots.clone();
        self.tasks.spawn(async move {
            if let Ok(_slot) = slots.acquire_owned().await {
                work.await;
            }
        });
    }

    async fn message(&mut self, message: Message) {
        match message {
            Message::Status(status) => {
                let (core, key) = (self.core.clone(), self.peer.key);
                self.blocking(move || core.catalog.note_seen(&key, core.now(), Some(&status))).await;
            }
            Message::Heads { datasets } => {
                let (core, peer) = (self.core.clone(), self.peer.clone());
                if let Some(heads) = self.blocking(move || own_heads(&core, &peer, &datasets)).await {
                    self.send_list(heads, Message::HeadsAre, true).await;
                }
            }
            Message::Follow { names } => {
                self.followed.add(names);
                self.told.clear();
                if let Some(unmatched) = self.tell_news().await {
                    self.send(Message::FollowDone { unmatched }).await;
                }
            }
            Message::Control { request, body } => {
                let work = command(self.core.clone(), self.peer.clone(), self.handle.clone(), request, body);
                self.spawn(work);
            }
            other => tracing::debug!(device = self.peer.name, ?other, "a message that asks for nothing here"),
        }
    }

    async fn announced(&mut self, announced: Result<Announcement, RecvError>) {
        match announced {
            Ok(Announcement::Changed(name)) => {
                if self.followed.may_concern(&self.peer, &name) {
                    self.tell_news().await;
                }
            }
            // What was missed may have been anything.
            Ok(Announcement::Rights) | Err(RecvError::Lagged(_)) => {
                let (core, key) = (self.core.clone(), self.peer.key);
                if let Some(Some(device)) = self.blocking(move || core.catalog.device(&key)).await {
                    self.peer = Arc::new(self.core.rights.peer(&device));
                }
                if !self.followed.is_empty() {
                    self.tell_news().await;
                }
            }
            Ok(Announcement::Damaged) => self.mend(),
            Err(RecvError::Closed) => {}
        }
    }

    /// Asks the peer again for what of its datasets is damaged here.
    fn mend(&mut self) {
        let work = transfers::mend(self.core.clone(), self.peer.clone(), self.handle.clone(), self.place.doing.clone());
        self.spawn(work);
    }

    /// Tells what is new among what is followed; gives the names that matched nothing.
    async fn tell_news(&mut self) -> Option<Vec<String>> {
        let (core, peer, followed) = (self.core.clone(), self.peer.clone(), self.followed.clone());
        let Resolved { news, unmatched } = self.blocking(move || followed.resolve(&core, &peer)).await?;
        let fresh: Vec<_> = news.iter().filter(|following| !self.told.contains(following)).cloned().collect();
        self.told = news;
        self.send_list(fresh, Message::News, false).await;
        Some(unmatched)
    }

    async fn send_list(&self, all: Vec<Following>, message: fn(Vec<Following>) -> Message, even_if_empty: bool) {
        if all.is_empty() && even_if_empty {
            self.send(message(all)).await;
            return;
        }
        for part in all.chunks(MESSAGE_LIST_MAX) {
            self.send(message(part.to_vec())).await;
        }
    }

    async fn send(&self, message: Message) {
        // A session that is gone says so in its events.
        let _ = self.handle.send(message).await;
    }

    /// Runs a catalog lookup on a blocking thread; a failure is told to the peer.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, crate::catalog::CatalogError> + Send + 'static,
    ) -> Option<T> {
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(value)) => Some(value),
            Ok(Err(error)) => {
                let refusal = catalog_refusal(&error);
                note(&self.core, &refusal, &self.peer.name);
                None
            }
            Err(error) => {
                tracing::error!(%error, "a lookup broke off");
                None
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

/// A person's command from elsewhere, and its answer in parts.
async fn command(core: Arc<Core>, peer: Arc<Peer>, handle: SessionHandle, request: u32, body: String) {
    let asker = Asker { who: peer.name.clone(), role: peer.role, peer: Some(Peer::clone(&peer)) };
    let (reply, mut parts) = ReplySender::channel();
    let answered = tokio::spawn(async move {
        let request = serde_json::from_str(&body)
            .map_err(|error| CodedError::new(&codes::BAD_FRAME, format!("the request is no JSON: {error}")))?;
        answer(core, asker, request, reply).await
    });
    while let Some(part) = parts.recv().await {
        let part = serde_json::json!({ "progress": part });
        if handle.send(Message::ControlReply { request, body: part.to_string(), last: false }).await.is_err() {
            return;
        }
    }
    let last = match answered.await {
        Ok(Ok(())) => serde_json::json!({ "done": null }),
        Ok(Err(error)) => serde_json::json!({ "failed": error }),
        Err(_) => serde_json::json!({ "failed": CodedError::new(&codes::INTERNAL, "the core made a mistake") }),
    };
    // A session that is gone has nobody to answer.
    let _ = handle.send(Message::ControlReply { request, body: last.to_string(), last: true }).await;
}
