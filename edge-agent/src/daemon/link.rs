//! Keeping a session with the core: dialling again after each end, with back-off and jitter.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use headwater_host::error::{CodedError, codes};
use headwater_host::systemd;
use headwater_quic::work;
use tokio::time::Instant;

use super::backoff::Backoff;
use crate::agent::{Agent, LinkState, problem};
use crate::catalog::EventLevel;
use crate::session::Connected;
use crate::session::sync::{connect, own_names, peer_status};

/// A session that lasted this long was a good one: the next wait is short again.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// How often a session in use is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A session in use from which nothing came for so long is raced against a new one: its end may be told only much later.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How often the core is told how this device is, if something changed.
const STATUS_EVERY: Duration = Duration::from_mins(1);

/// Keeps a session for as long as the daemon runs. Where the core says that this device is not welcome any more, it knocks
/// again only when something changes here, as when the device has joined anew: the rest of the daemon goes on, since
/// local datasets need no core.
pub(super) async fn keep(agent: Arc<Agent>) -> Infallible {
    let mut backoff = Backoff::default();
    let mut changes = agent.changes();
    loop {
        changes.mark_unchanged();
        if agent.device().is_none() {
            set(&agent, LinkState { waiting_for: "this device to join a core".to_owned(), ..LinkState::default() });
            let _ = changes.changed().await;
            continue;
        }
        let names = own_names(&agent.folders().0);
        let began = Instant::now();
        let error = match Box::pin(connect(&agent, &names)).await {
            Ok(connected) => {
                let error = Box::pin(hold(&agent, connected)).await;
                if began.elapsed() >= GOOD_SESSION {
                    backoff.reset();
                }
                error
            }
            Err(error) => error,
        };
        if agent.device().is_none() {
            continue;
        }
        if is_final(&error) {
            agent.note(EventLevel::Error, &error.code, "", crate::agent::one_line(&error));
            set(
                &agent,
                LinkState {
                    waiting_for: "this device to join again: the core will not have it".to_owned(),
                    problem: Some(problem("", &error)),
                    refused: true,
                    ..LinkState::default()
                },
            );
            systemd::status("refused by the core");
            let _ = changes.changed().await;
            continue;
        }
        let wait = backoff.next(work::random_byte());
        agent.note_once(
            EventLevel::Info,
            &error.code,
            "",
            format!("no session with the core: {}", crate::agent::one_line(&error)),
        );
        set(
            &agent,
            LinkState {
                waiting_for: format!("the core; the next try is in {} s", wait.as_secs().max(1)),
                problem: Some(problem("", &error)),
                ..LinkState::default()
            },
        );
        systemd::status("waiting for the core");
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => {}
            _ = changes.changed() => {}
        }
    }
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
                connected.link.close("a newer session took its place");
                connected = better;
            }
            Err(error) => return error,
        }
    }
}

/// Watches a session, and dials another one when it is silent though something is under way. Gives the new session.
async fn race_when_silent(agent: &Arc<Agent>, connected: &Connected) -> Arc<Connected> {
    let mut heard = connected.link.stats().udp_bytes_received;
    let mut heard_at = Instant::now();
    let mut backoff = Backoff::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let stats = connected.link.stats();
        if stats.transfers == 0 || stats.udp_bytes_received != heard {
            heard = stats.udp_bytes_received;
            heard_at = Instant::now();
            backoff.reset();
            continue;
        }
        if heard_at.elapsed() < SILENCE_MAX {
            continue;
        }
        let names = own_names(&agent.folders().0);
        match Box::pin(connect(agent, &names)).await {
            Ok(better) => return better,
            Err(error) => {
                tracing::debug!(%error, "the session is silent, and no other can be had");
                tokio::time::sleep(backoff.next(work::random_byte())).await;
            }
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

/// Whether knocking again is of no use: the core has said that it will not have this device.
fn is_final(error: &CodedError) -> bool {
    error.is(&codes::DEVICE_REVOKED) || error.is(&codes::IDENTITY_CLONED) || error.is(&codes::UNKNOWN_DEVICE)
}

fn set(agent: &Agent, state: LinkState) {
    agent.link().send_replace(state);
}
