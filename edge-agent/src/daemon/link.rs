//! Keeping a session with the core: dialling again after each end, with back-off and jitter.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use headwater_host::error::{CodedError, codes};
use headwater_host::systemd;
use headwater_protocol::sync::{Tries, retry_within};
use headwater_quic::work;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::race::{connect_soon, is_of_the_way, race_when_silent};
use crate::agent::{Agent, LinkState, problem};
use crate::blocking::blocking;
use crate::catalog::EventLevel;
use crate::session::Connected;
use crate::session::sync::{connect, own_names, peer_status};

/// A session that lasted this long was a good one: when it ends, the link is tried at once and often for a while.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// How often the core is told how this device is, if something changed.
const STATUS_EVERY: Duration = Duration::from_mins(1);

/// Keeps a session for as long as the daemon runs. Where the core says that this device is not welcome any more, it knocks
/// again only when something changes here, as when the device has joined anew: the rest of the daemon goes on, since
/// local datasets need no core.
pub(super) async fn keep(agent: Arc<Agent>) -> Infallible {
    let mut history = History::default();
    let mut changes = agent.changes();
    loop {
        changes.mark_unchanged();
        if agent.device().is_none() {
            set(&agent, LinkState { waiting_for: "this device to join a core".to_owned(), ..LinkState::default() });
            let _ = changes.changed().await;
            continue;
        }
        if link_is_closed(&agent).await {
            tokio::select! {
                biased;
                () = agent.gate().opens() => {}
                _ = changes.changed() => {}
            }
            continue;
        }
        let error = dial_and_hold(&agent, &mut history).await;
        if agent.device().is_none() || agent.gate().closed().is_some() {
            continue;
        }
        if is_final(&error) {
            say_refused(&agent, &error);
            let _ = changes.changed().await;
            continue;
        }
        history.tries = history.tries.after(!is_of_the_way(&error));
        let longest = history.retry_within(&agent).await;
        let wait = history.backoff.next(work::random_byte()).min(longest.unwrap_or(Duration::MAX));
        say_unreachable(&agent, &error, wait);
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => {}
            _ = changes.changed() => {}
        }
    }
}

/// How the sessions went so far: what says how soon the next one is tried.
#[derive(Default)]
struct History {
    backoff: Backoff,
    tries: Tries,
    good_until: Option<Instant>,
}

impl History {
    /// Within what time a new session is wanted, where one is wanted soon.
    async fn retry_within(&self, agent: &Arc<Agent>) -> Option<Duration> {
        retry_within(work_waits(agent).await, self.good_until.map(|until| until.elapsed()), self.tries)
    }
}

/// Whether the policies keep the link closed now; says so where they do.
async fn link_is_closed(agent: &Arc<Agent>) -> bool {
    let settings = agent.settings();
    match crate::link::look(agent).await.map(|outlook| crate::link::waiting_for(&outlook, &settings)) {
        Ok(None) => false,
        Ok(Some(waiting_for)) => {
            agent.note_once(
                EventLevel::Info,
                "",
                "",
                format!("nothing may go over the link: it waits for {waiting_for}"),
            );
            set(agent, LinkState { waiting_for, ..LinkState::default() });
            systemd::status("waiting for the link to open");
            true
        }
        // The spending is unknown now; the gate stays as it was.
        Err(error) => {
            agent.note_error("", &error);
            false
        }
    }
}

/// Dials the core and holds the session until it ends; gives why there is none any more.
async fn dial_and_hold(agent: &Arc<Agent>, history: &mut History) -> CodedError {
    let key = || agent.device().map(|device| device.identity.public_key());
    let dialled_as = key();
    let connected = match history.retry_within(agent).await {
        Some(_) => Box::pin(connect_soon(agent)).await,
        None => Box::pin(connect(agent, &own_names(&agent.folders().0))).await,
    };
    let connected = match connected {
        Ok(connected) => connected,
        Err(error) => return error,
    };
    if key() != dialled_as {
        connected.link.close("the device left");
        return CodedError::new(&codes::NOT_JOINED, "this device left its core while it was being dialled");
    }
    let began = Instant::now();
    let error = Box::pin(hold(agent, connected)).await;
    let lasted = began.elapsed();
    history.backoff.was_there(lasted);
    if lasted >= GOOD_SESSION {
        *history = History { good_until: Some(Instant::now()), ..History::default() };
    }
    error
}

/// The core will not have this device.
fn say_refused(agent: &Agent, error: &CodedError) {
    agent.note(EventLevel::Error, &error.code, "", crate::agent::one_line(error));
    let waiting_for = "this device to join again: the core will not have it".to_owned();
    let problem = Some(problem("", error));
    set(agent, LinkState { waiting_for, problem, refused: true, ..LinkState::default() });
    systemd::status("refused by the core");
}

/// There is no session now, and the next try is in `wait`.
fn say_unreachable(agent: &Agent, error: &CodedError, wait: Duration) {
    let line = format!("no session with the core: {}", crate::agent::one_line(error));
    agent.note_once(EventLevel::Info, &error.code, "", line);
    let waiting_for = format!("the core; the next try is in {} s", wait.as_secs().max(1));
    set(agent, LinkState { waiting_for, problem: Some(problem("", error)), ..LinkState::default() });
    systemd::status("waiting for the core");
}

/// Holds a session until it ends, and says why it did. A session that falls silent in the middle of a transfer is replaced
/// as soon as another one stands.
async fn hold(agent: &Arc<Agent>, connected: Arc<Connected>) -> CodedError {
    agent.note_once(EventLevel::Info, "", "", "connected to the core".to_owned());
    systemd::status("connected");
    let mut connected = connected;
    loop {
        set(agent, LinkState { connected: Some(Arc::clone(&connected)), ..LinkState::default() });
        let outcome = tokio::select! {
            biased;
            ended = connected.link.ended() => Err(ended.to_error()),
            better = Box::pin(race_when_silent(agent, &connected)) => Ok(better),
            never = tell_status(agent, &connected) => match never {},
        };
        crate::session::sync::count_udp(agent, &connected.link);
        match outcome {
            Ok(better) => {
                agent.note(EventLevel::Info, "", "", "the session was silent; a new one took its place");
                connected.link.replace();
                connected = better;
            }
            Err(error) => return error,
        }
    }
}

/// Tells the core how this device is, when that changes.
async fn tell_status(agent: &Arc<Agent>, connected: &Connected) -> Infallible {
    let mut said = peer_status(agent).await;
    loop {
        tokio::time::sleep(STATUS_EVERY).await;
        let status = peer_status(agent).await;
        let news = status.backlog_bytes != said.backlog_bytes || status.last_error != said.last_error;
        if news {
            if connected.link.send_status(status.clone()).await.is_err() {
                return std::future::pending().await;
            }
            said = status;
        }
    }
}

/// Whether something is to go to the core, or something that it has is missing here.
async fn work_waits(agent: &Arc<Agent>) -> bool {
    let looking = Arc::clone(agent);
    agent.unsent_since().is_some() || blocking(move || looking.misses_something()).await.unwrap_or(false)
}

/// Whether knocking again is of no use: the core has said that it will not have this device.
fn is_final(error: &CodedError) -> bool {
    error.is(&codes::DEVICE_REVOKED) || error.is(&codes::IDENTITY_CLONED) || error.is(&codes::UNKNOWN_DEVICE)
}

fn set(agent: &Agent, state: LinkState) {
    agent.link().send_replace(state);
}
