//! Keeping a session with the core: dialling again after each end, with back-off and jitter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_host::error::{CodedError, codes};
use headwater_host::systemd;

use super::backoff::{Backoff, random};
use crate::agent::{Agent, LinkState, problem};
use crate::catalog::EventLevel;
use crate::session::Connected;
use crate::session::sync::{connect, own_names, peer_status};

/// A session that lasted this long was a good one: the next wait is short again.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// How often the core is told how this device is, if something changed.
const STATUS_EVERY: Duration = Duration::from_mins(1);

/// Keeps a session until the core says that this device is no longer welcome; that is the error.
pub(super) async fn keep(agent: Arc<Agent>) -> Result<(), CodedError> {
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
            return Err(error);
        }
        let wait = backoff.next(random());
        agent.note_once(
            EventLevel::Info,
            &error.code,
            "",
            format!("no session with the core: {}", crate::agent::one_line(&error)),
        );
        set(
            &agent,
            LinkState {
                connected: None,
                waiting_for: format!("the core; the next try is in {} s", wait.as_secs().max(1)),
                problem: Some(problem("", &error)),
            },
        );
        systemd::status("waiting for the core");
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = changes.changed() => {}
        }
    }
}

/// Holds a session until it ends, and says why it did.
async fn hold(agent: &Arc<Agent>, connected: Arc<Connected>) -> CodedError {
    agent.note_once(EventLevel::Info, "", "", "connected to the core".to_owned());
    systemd::status("connected");
    set(agent, LinkState { connected: Some(Arc::clone(&connected)), ..LinkState::default() });
    let mut said = peer_status(agent);
    let ended = loop {
        tokio::select! {
            ended = connected.link.ended() => break ended,
            () = tokio::time::sleep(STATUS_EVERY) => {
                let status = peer_status(agent);
                let news = status.backlog_bytes != said.backlog_bytes || status.last_error != said.last_error;
                if news && connected.link.send_status(status.clone()).await.is_ok() {
                    said = status;
                }
            }
        }
    };
    crate::session::sync::count_udp(agent, &connected.link);
    ended.to_error()
}

/// Whether knocking again is of no use: the core has said that it will not have this device.
fn is_final(error: &CodedError) -> bool {
    error.is(&codes::DEVICE_REVOKED) || error.is(&codes::IDENTITY_CLONED) || error.is(&codes::UNKNOWN_DEVICE)
}

fn set(agent: &Agent, state: LinkState) {
    agent.link().send_replace(state);
}
