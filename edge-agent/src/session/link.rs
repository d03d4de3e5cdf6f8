//! A session from the agent's side: what the core says of datasets is gathered here, for whoever waits for it.
//!
//! One small task reads the session's events. It answers what needs no thought, and keeps the rest as state that others
//! watch: the heads that were asked for, the newest version of each followed dataset, the end of the session.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_host::error::{CodedError, codes};
use headwater_protocol::federated::TrainingMessage;
use headwater_protocol::id::VersionId;
use headwater_protocol::wire::{EndedDataset, Following, MESSAGE_LIST_MAX, Message, News, PeerStatus, Refusal};
use headwater_quic::endpoint::close;
use headwater_quic::session::{SessionEvent, SessionEvents, SessionHandle, SessionStats};
use headwater_quic::work;

use crate::watched;

/// How long the core may take to answer a question that needs no work.
const ANSWER_WAIT: Duration = Duration::from_mins(1);

/// A live session. Cheap to clone.
#[derive(Clone)]
pub struct Link {
    connection: quinn::Connection,
    handle: SessionHandle,
    news: watched::Sender<Said>,
    /// One question at a time; the number of the last one.
    questions: Arc<tokio::sync::Mutex<u32>>,
}

/// What the core has of this device's own datasets.
#[derive(Clone, Debug, Default)]
pub struct Heads {
    /// The newest versions.
    pub heads: Vec<Following>,
    /// Datasets without one that had some before they were deleted.
    pub ended: Vec<EndedDataset>,
}

/// What the core has said so far.
#[derive(Clone, Debug, Default)]
struct Said {
    heads: Option<Answer<Heads>>,
    freed_noted: Option<Answer<bool>>,
    /// The question that news must answer: what comes for an earlier set of names is not for this one.
    question: u32,
    /// By the name that is followed and the dataset's.
    following: BTreeMap<(String, String), News>,
    follow_done: Option<FollowDone>,
    ended: Option<Ended>,
}

/// An answer of the core. One that comes late, after its question was given up, is on the way when the next question is
/// asked: only the number tells whose it is.
#[derive(Clone, Debug)]
struct Answer<T> {
    question: u32,
    answer: T,
}

impl<T: Clone> Answer<T> {
    fn to(this: Option<&Self>, question: u32) -> Option<T> {
        this.filter(|this| this.question == question).map(|this| this.answer.clone())
    }
}

/// The names that match nothing, or why the core could not say.
type FollowDone = Result<Vec<String>, Refusal>;

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// A code, where the core gave one.
    pub code: Option<String>,
    /// Why.
    pub reason: String,
    /// What to do.
    pub hint: String,
}

impl Ended {
    /// The end as an error.
    pub fn to_error(&self) -> CodedError {
        match &self.code {
            Some(code) => Refusal { code: code.clone(), message: self.reason.clone(), hint: self.hint.clone() }.into(),
            None => CodedError::new(&codes::SESSION_ENDED, format!("the session with the core ended: {}", self.reason)),
        }
    }
}

impl Link {
    /// Takes a session that has just been started. `fetches` gets what the core asks for.
    pub fn start(
        connection: quinn::Connection,
        handle: SessionHandle,
        events: SessionEvents,
        fetches: Arc<dyn Fetches>,
    ) -> Self {
        let news = watched::Sender::new(Said::default());
        let link = Self { connection, handle, news, questions: Arc::default() };
        work::spawn(link.clone().pump(events, fetches));
        link
    }

    /// The session, for transfers.
    pub fn handle(&self) -> &SessionHandle {
        &self.handle
    }

    /// Its counters.
    pub fn stats(&self) -> SessionStats {
        self.handle.stats()
    }

    /// Whether a question waits for its answer.
    pub fn is_asking(&self) -> bool {
        self.questions.try_lock().is_err()
    }

    /// The newest committed version of each of this device's own datasets.
    pub async fn heads(&self, datasets: &[String]) -> Result<Heads, CodedError> {
        let mut questions = self.questions.lock().await;
        let mut all = Heads::default();
        for part in datasets.chunks(MESSAGE_LIST_MAX) {
            let question = next(&mut questions);
            self.send(Message::Heads { question, datasets: part.to_vec() }).await?;
            let answer = self.wait(|news| Answer::to(news.heads.as_ref(), question)).await?;
            all.heads.extend(answer.heads);
            all.ended.extend(answer.ended);
        }
        Ok(all)
    }

    /// Tells the core that bytes of this dataset of ours are freed, all of which `version` has, and with them all that were
    /// freed of versions from the number `since` on; whether it noted that.
    pub async fn freed(&self, dataset: &str, version: VersionId, since: u64) -> Result<bool, CodedError> {
        let mut questions = self.questions.lock().await;
        let question = next(&mut questions);
        self.send(Message::Freed { question, dataset: dataset.to_owned(), version, since }).await?;
        self.wait(|news| Answer::to(news.freed_noted.as_ref(), question)).await
    }

    /// Follows these names and no others, and gives what they stand for now and those that match nothing. News keep coming.
    pub async fn follow(&self, names: &[String]) -> Result<(Vec<News>, Vec<String>), CodedError> {
        let _one_at_a_time = self.questions.lock().await;
        self.news.send_modify(|news| {
            news.question = news.question.wrapping_add(1);
            news.follow_done = None;
            news.following.clear();
        });
        let question = self.news.borrow().question;
        self.send(Message::Follow { question, names: names.to_vec() }).await?;
        let unmatched = self.wait(|news| news.follow_done.clone()).await?.map_err(CodedError::from)?;
        Ok((self.following(), unmatched))
    }

    /// What the followed names stand for, as far as the core has said.
    pub fn following(&self) -> Vec<News> {
        self.news.borrow().following.values().cloned().collect()
    }

    /// Resolves when a followed dataset has a newer version than when `seen` was taken from [`Link::following`].
    pub async fn news_after(&self, seen: &[News]) -> Result<Vec<News>, CodedError> {
        let mut receiver = self.news.subscribe();
        let news = receiver
            .wait_for(|news| news.ended.is_some() || !news.following.values().eq(seen.iter()))
            .await
            .map_err(|_| gone())?;
        match &news.ended {
            Some(ended) => Err(ended.to_error()),
            None => Ok(news.following.values().cloned().collect()),
        }
    }

    /// Tells the core how this device is.
    pub async fn send_status(&self, status: PeerStatus) -> Result<(), CodedError> {
        self.send(Message::Status(status)).await
    }

    /// Tells the core something of training.
    pub async fn say_of_training(&self, message: TrainingMessage) -> Result<(), CodedError> {
        self.send(Message::Training(Box::new(message))).await
    }

    /// Tells the core how much it may send to this device in a second; none lifts the cap.
    pub async fn send_down_cap(&self, bytes_per_s: Option<u64>) -> Result<(), CodedError> {
        self.send(Message::DownCap { bytes_per_s }).await
    }

    /// Resolves when the session has ended.
    pub async fn ended(&self) -> Ended {
        let mut receiver = self.news.subscribe();
        let ended = receiver.wait_for(|news| news.ended.is_some()).await.ok().and_then(|news| news.ended.clone());
        ended.unwrap_or_else(|| Ended { code: None, reason: "the session is gone".to_owned(), hint: String::new() })
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.news.borrow().ended.is_some()
    }

    /// Asks the core for a sign of life, without waiting: what arrives shows in the counters.
    pub fn ask_for_sign(&self) {
        let handle = self.handle.clone();
        work::spawn(async move {
            // A session that has ended gives none.
            let _ = handle.ping().await;
        });
    }

    /// Ends the session at once, because another one has taken its place: the core then keeps what it has of it before it is
    /// asked over the other.
    pub fn replace(&self) {
        self.connection.close(close::DONE, b"a newer session took its place");
    }

    /// Ends the session cleanly.
    pub fn close(&self, reason: &str) {
        self.handle.close(0, reason);
    }

    async fn send(&self, message: Message) -> Result<(), CodedError> {
        self.handle.send(message).await.map_err(|error| match self.news.borrow().ended.as_ref() {
            Some(ended) => ended.to_error(),
            None => CodedError::new(&codes::SESSION_ENDED, "the session with the core ended").with_source(error),
        })
    }

    async fn wait<T>(&self, answer: impl Fn(&Said) -> Option<T>) -> Result<T, CodedError> {
        let mut receiver = self.news.subscribe();
        let waited = receiver.wait_for(|news| news.ended.is_some() || answer(news).is_some());
        let news = tokio::time::timeout(ANSWER_WAIT, waited)
            .await
            .map_err(|_| CodedError::new(&codes::CORE_UNREACHABLE, "the core does not answer any more"))?
            .map_err(|_| gone())?;
        match (answer(&news), &news.ended) {
            (Some(answer), _) => Ok(answer),
            (None, Some(ended)) => Err(ended.to_error()),
            (None, None) => Err(gone()),
        }
    }

    async fn pump(self, mut events: SessionEvents, fetches: Arc<dyn Fetches>) {
        while let Some(event) = events.next().await {
            match event {
                SessionEvent::Message(Message::Training(message)) => fetches.hear(*message),
                SessionEvent::Message(message) => self.take(message),
                SessionEvent::Offer(offer) => {
                    let refusal =
                        CodedError::new(&codes::FORBIDDEN, "this device takes only versions that it asked for");
                    let _ = self.handle.refuse(offer.transfer, refusal.refusal()).await;
                }
                SessionEvent::Fetch { transfer, dataset, version } => {
                    fetches.fetch(self.handle.clone(), transfer, dataset, version);
                }
                SessionEvent::Closed { reason } => self.end(&reason),
            }
        }
        self.end("the connection is gone");
    }

    /// Notes the end; a reason that the core gave in words comes before what the connection says.
    fn end(&self, reason: &str) {
        let ended = match self.connection.close_reason() {
            Some(cause) => {
                let error = super::dial::connection_error(&cause);
                let code = (!error.is(&codes::SESSION_ENDED)).then(|| error.code.into_owned());
                Ended { code, reason: close::describe(&cause), hint: error.hint }
            }
            None => Ended { code: None, reason: reason.to_owned(), hint: String::new() },
        };
        self.news.send_modify(|news| {
            news.ended.get_or_insert(ended);
        });
    }

    fn take(&self, message: Message) {
        match message {
            Message::HeadsAre { question, heads, ended } => self.news.send_if_modified(|news| {
                news.heads = Some(Answer { question, answer: Heads { heads, ended } });
                true
            }),
            Message::FreedNoted { question, noted } => self.news.send_if_modified(|news| {
                news.freed_noted = Some(Answer { question, answer: noted });
                true
            }),
            Message::News { question, list } => self.news.send_if_modified(|news| {
                let is_ours = question == news.question;
                if is_ours {
                    for item in list {
                        news.following.insert((item.name.clone(), item.newest.dataset.clone()), item);
                    }
                }
                is_ours
            }),
            Message::FollowDone { question, unmatched, refused } => self.news.send_if_modified(|news| {
                let is_ours = question == news.question;
                if is_ours {
                    news.follow_done = Some(refused.map_or(Ok(unmatched), Err));
                }
                is_ours
            }),
            Message::Refused { transfer: None, refusal } => self.news.send_if_modified(|news| {
                news.ended = Some(Ended { code: Some(refusal.code), reason: refusal.message, hint: refusal.hint });
                true
            }),
            other => {
                tracing::debug!(?other, "the core sent something that means nothing to a device");
                false
            }
        };
    }
}

/// What answers the core when it asks for a version of this device.
pub trait Fetches: Send + Sync + 'static {
    /// Begins to send the version, or refuses. Must not block.
    fn fetch(&self, handle: SessionHandle, transfer: u32, dataset: String, version: VersionId);

    /// Takes what the core says of training. Must not block.
    fn hear(&self, message: TrainingMessage);
}

/// The number of the next question.
fn next(questions: &mut u32) -> u32 {
    *questions = questions.wrapping_add(1);
    *questions
}

fn gone() -> CodedError {
    CodedError::new(&codes::SESSION_ENDED, "the session with the core is gone")
}
