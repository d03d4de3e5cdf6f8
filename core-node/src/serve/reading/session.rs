//! One job's session: what it has opened, and what ends with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headwater_fabric::Secret;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::delivery::SLOT_BYTES_MAX;
use headwater_protocol::trust::{Action, Principal as Peer, Role};
use headwater_protocol::wire::{DATA_SECRET_BYTES, DataWay, ReaderMessage};
use headwater_quic::session::SessionHandle;
use headwater_quic::work;
use tokio::sync::watch;

use super::sources::OpenSource;
use crate::core::Core;

/// Most sources that one session has open.
const SOURCES_MAX: usize = 1024;
/// Requests of one session that are worked on at once.
pub(super) const REQUESTS_MAX: usize = 16;

/// One job's session. It ends when its connection does: whichever of the two ends first takes the other along.
pub(crate) struct ReaderSession {
    pub(super) core: Arc<Core>,
    pub(super) id: u64,
    /// What logs call it.
    pub(super) who: String,
    handle: SessionHandle,
    opened: Mutex<Opened>,
    ended: watch::Sender<bool>,
}

#[derive(Default)]
struct Opened {
    next: u32,
    sources: BTreeMap<u32, Arc<OpenSource>>,
}

impl ReaderSession {
    /// The session of `peer`, which must have the right to read at all.
    pub(crate) fn new(core: &Arc<Core>, peer: &Peer, handle: SessionHandle) -> Result<Arc<Self>, CodedError> {
        if peer.role == Role::Device || !peer.role.allows(Action::Read) {
            return Err(CodedError::new(
                &codes::FORBIDDEN,
                format!("the role `{}` does not read as jobs do", peer.role),
            )
            .with_hint("use a token of `core-node token create --role reader`"));
        }
        Ok(Arc::new(Self {
            core: core.clone(),
            id: core.unique(),
            who: peer.name.clone(),
            handle,
            opened: Mutex::default(),
            ended: watch::Sender::new(false),
        }))
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
            ReaderMessage::OpenData { question } => (question, self.invite(question)),
            ReaderMessage::OpenSource { question, name } => (question, self.open(peer, question, &name)),
            ReaderMessage::CloseSource { source } => {
                let closed = self.opened().sources.remove(&source);
                drop(closed);
                return None;
            }
            ReaderMessage::DataOpened { .. } | ReaderMessage::SourceIs { .. } | ReaderMessage::Refused { .. } => {
                return None;
            }
        };
        Some(answer.unwrap_or_else(|error| {
            self.core.metrics.error(&error.code);
            ReaderMessage::Refused { question, refusal: error.refusal() }
        }))
    }

    fn invite(self: &Arc<Self>, question: u32) -> Result<ReaderMessage, CodedError> {
        let readers = &self.core.readers;
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
        let source = Arc::new(OpenSource::open(&self.core, peer, name)?);
        tracing::info!(job = self.who, name, samples = source.layout.samples(), "opened");
        let (id, number, members) = (source.id, source.number, source.members());
        let mut opened = self.opened();
        opened.next += 1;
        let source_number = opened.next;
        opened.sources.insert(source_number, source);
        Ok(ReaderMessage::SourceIs { question, source: source_number, id, number, members })
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
        self.core.readers.invitations().withdraw(self.id);
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
