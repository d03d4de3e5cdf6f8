//! The daemon: keeps a session with the core, scans folders when they change and from time to time, takes what it is
//! subscribed to, and answers commands.
//!
//! Each folder has a task of its own, the subscriptions have one together, the link has one. A supervisor keeps them in
//! line with the settings. They meet in the [`Agent`] only.

mod backoff;
mod keeper;
mod link;
mod race;
mod subscriptions;
mod supervisor;

use std::path::Path;
use std::sync::Arc;

use headwater_host::control::ControlServer;
use headwater_host::error::{CodedError, codes};
use headwater_host::{signals, systemd};
use headwater_quic::work;

use crate::admin;
use crate::agent::{Agent, Handler};
use crate::catalog::EventLevel;

/// Keeps the link, the folders and the subscriptions until dropped: the daemon without a local socket and signals.
pub async fn keep(agent: Arc<Agent>) {
    tokio::select! {
        biased;
        never = Box::pin(link::keep(Arc::clone(&agent))) => match never {},
        never = crate::link::keep(Arc::clone(&agent)) => match never {},
        never = Box::pin(crate::training::keep(Arc::clone(&agent))) => match never {},
        () = Box::pin(supervisor::supervise(agent)) => {}
    }
}

/// Runs until asked to stop.
pub async fn run(data: &Path, config: Option<&Path>) -> Result<(), CodedError> {
    let agent = Agent::open(data, config)?;
    agent.set_daemon();
    let server = ControlServer::bind(data)?;
    let metrics = match agent.settings().metrics.listen {
        Some(address) => Some(admin::listen(address).await?),
        None => None,
    };
    let handler = Arc::new(Handler(Arc::clone(&agent)));
    let serving = work::spawn(async move { server.serve(handler).await });
    let alive = systemd::watchdog_interval().map(|interval| {
        work::spawn(async move {
            loop {
                systemd::alive();
                tokio::time::sleep(interval).await;
            }
        })
    });
    let metrics = metrics.map(|listener| work::spawn(admin::serve(Arc::clone(&agent), listener)));
    systemd::ready("started");
    agent.note(EventLevel::Info, "", "", format!("started, release {}", env!("CARGO_PKG_VERSION")));
    let outcome = tokio::select! {
        biased;
        () = Box::pin(keep(Arc::clone(&agent))) => Ok(()),
        stopped = signals::stop_requested() => match stopped {
            Ok(signal) => {
                tracing::info!(signal, "asked to stop");
                Ok(())
            }
            Err(error) => Err(CodedError::new(&codes::INTERNAL, "signals can't be received").with_source(error)),
        },
    };
    systemd::stopping();
    for task in [Some(serving), alive, metrics].into_iter().flatten() {
        task.abort();
    }
    let connected = agent.link().send_replace(crate::agent::LinkState::default()).connected;
    if let Some(connected) = connected {
        connected.link.close("the device goes away");
    }
    if let Err(error) = &outcome {
        agent.note(EventLevel::Error, &error.code, "", crate::agent::one_line(error));
    }
    agent.close();
    outcome
}
