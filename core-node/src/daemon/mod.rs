//! The daemon: what it opens at its start and in which order, its accept loop, and its end.
//!
//! ```text
//! lock the data folder -> catalog -> store (recovery) -> keys -> ports -> local socket -> DIR/address -> ready
//! ```
//! Whatever fails on the way is a coded error, and nothing that came before it is left behind.

mod admission;
mod background;
mod commands;
mod joining;
mod journal;
mod open;
mod session;
mod sessions;
mod transfers;
mod workers;

pub use journal::Journal;
pub use open::{ADDRESS_FILE, InitOptions, init, open};
pub use sessions::{Doing, DoingGuard, SessionPlace, Sessions};
pub use workers::Workers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headwater_host::control::ControlServer;
use headwater_host::error::{CodedError, codes};
use headwater_host::listen::bind_failed;
use headwater_host::lock::DataFolderLock;
use headwater_host::{durable, signals, systemd};
use headwater_quic::{Arrival, Arriving, Listener, ServerOptions, TransportOptions, listen, serve_join, work};
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::admin;
use crate::config::Config;
use crate::control::LocalHandler;
use crate::core::Core;
use crate::ingest::error_chain;
use crate::serve::reading;

/// How long peers may take to hear that the daemon stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time between two looks at whether the store's writer lives.
const WRITER_LOOK_EVERY: Duration = Duration::from_secs(2);

/// What the daemon is started with.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The data folder.
    pub folder: PathBuf,
    /// The configuration.
    pub config: Config,
}

/// Runs the daemon until it is told to stop, or until a part of it without which it is no core has ended. Threads may
/// still write when this returns, so `_lock`, the lock on the data folder, is to be held until the process has ended.
pub async fn run(options: RunOptions, _lock: &DataFolderLock) -> Result<(), CodedError> {
    let core = {
        let RunOptions { folder, config } = options;
        tokio::task::spawn_blocking(move || open(folder, config))
            .await
            .map_err(|error| CodedError::new(&codes::INTERNAL, "the start broke off").with_source(error))??
    };
    let listener = listen_for_devices(&core)?;
    let admin_listener = listen_for_admins(&core.config).await?;
    if let Some(address) = admin_listener.as_ref().and_then(|listener| listener.local_addr().ok()) {
        core.set_bound_admin(address);
    }
    let data_listener = listen_for_data(bound_address(&listener)?, core.config.listen).await?;
    if let Ok(address) = data_listener.local_addr() {
        core.readers.set_port(address.port());
    }
    let control = ControlServer::bind(&core.folder)?;
    let bound = bound_address(&listener)?;
    core.set_bound(bound);
    let address_file = core.folder.join(ADDRESS_FILE);
    durable::write_atomic(&address_file, format!("{bound}\n").as_bytes(), 0o644).map_err(|error| {
        CodedError::io(&codes::WRITE_FAILED, format!("can't write `{}`", address_file.display()), error)
    })?;

    let background = background::start(&core);
    let mut parts = start_parts(&core, listener.clone(), data_listener, control, admin_listener);
    tracing::info!(%bound, folder = %core.folder.display(), "ready");
    systemd::ready(&format!("listening on {bound}"));
    let ended = tokio::select! {
        signal = signals::stop_requested() => signal.map(|signal| tracing::info!(signal, "stopping")).map_err(|error| {
            CodedError::new(&codes::INTERNAL, "signals can't be waited for").with_source(error)
        }),
        Some(part) = parts.join_next() => Err(part_ended(part)),
    };
    systemd::stopping();

    parts.shutdown().await;
    background.abort();
    core.sessions.end_all("the core stops");
    if tokio::time::timeout(CLOSE_TIMEOUT, listener.close("the core stops")).await.is_err() {
        tracing::debug!("some peers did not confirm the end");
    }
    // The address says that a core is here; a core that is gone leaves none.
    let _ = std::fs::remove_file(&address_file);
    tracing::info!("stopped");
    ended
}

/// Serves devices, and does what the core does by itself, until dropped: the daemon without a local socket, HTTP and signals.
pub async fn serve(core: Arc<Core>) -> Result<(), CodedError> {
    let listener = listen_for_devices(&core)?;
    let _background = background::start(&core);
    accept(core, listener).await;
    Ok(())
}

/// Starts the parts without which the daemon is no core; each gives its name if it ends.
fn start_parts(
    core: &Arc<Core>,
    listener: Listener,
    data_listener: TcpListener,
    control: ControlServer,
    admin_listener: Option<TcpListener>,
) -> JoinSet<&'static str> {
    let mut parts = JoinSet::new();
    let (accepting, serving, answering, writing) = (core.clone(), core.clone(), core.clone(), core.clone());
    parts.spawn(async move {
        accept(accepting, listener).await;
        "the port for devices"
    });
    parts.spawn(async move {
        reading::accept(serving, data_listener).await;
        "the port for data"
    });
    parts.spawn(async move {
        control.serve(Arc::new(LocalHandler { core: answering })).await;
        "the local socket"
    });
    parts.spawn(async move {
        while writing.store.is_writing() {
            tokio::time::sleep(WRITER_LOOK_EVERY).await;
        }
        "the store's writer"
    });
    if let Some(listener) = admin_listener {
        let core = core.clone();
        parts.spawn(async move {
            admin::serve(core, listener).await;
            "the port of metrics"
        });
    }
    parts
}

/// A part of the daemon has ended although nobody told it to. Whoever started the daemon starts it anew.
fn part_ended(part: Result<&'static str, JoinError>) -> CodedError {
    let (name, source) = match part {
        Ok(name) => (name, None),
        Err(error) => ("a part of the daemon", Some(error)),
    };
    let error = CodedError::new(&codes::INTERNAL, format!("{name} broke off, so the core ends"));
    match source {
        Some(source) => error.with_source(source),
        None => error,
    }
}

async fn accept(core: Arc<Core>, listener: Listener) {
    while let Some(arriving) = listener.accept().await {
        work::spawn(Box::pin(arrive(core.clone(), arriving)));
    }
}

async fn arrive(core: Arc<Core>, arriving: Arriving) {
    let knocked = Instant::now();
    let arrival = match Box::pin(arriving.finish()).await {
        Ok(arrival) => arrival,
        Err(error) => {
            tracing::debug!(error = error_chain(&error), "nothing came of one who knocked");
            return;
        }
    };
    match arrival {
        Arrival::Session { connection, peer, downstream } => {
            session::serve(core, connection, peer, downstream, knocked).await;
        }
        Arrival::Join(connection) => {
            let desk = joining::Desk::new(core);
            if let Err(error) = Box::pin(serve_join(connection, &desk)).await {
                tracing::debug!(error = error_chain(&error), "nothing came of one who wanted to join");
            }
        }
    }
}

fn listen_for_devices(core: &Core) -> Result<Listener, CodedError> {
    let network = &core.config.network;
    let options = ServerOptions {
        transport: TransportOptions {
            congestion: network.congestion.parse().unwrap_or_default(),
            idle_timeout: network.idle_timeout.0,
            mtu_max: network.mtu_max,
            ..TransportOptions::default()
        },
        meter: Some(core.meter.clone()),
        ..ServerOptions::default()
    };
    listen(core.config.listen, &core.keys.authority, &core.keys.identity, &options).map_err(|error| match error {
        headwater_quic::ListenError::Bind { address, source } => bind_failed("listen", address, source),
        other => CodedError::new(&codes::IDENTITY_UNUSABLE, "the core's identity can't be used").with_source(other),
    })
}

fn bound_address(listener: &Listener) -> Result<SocketAddr, CodedError> {
    listener
        .local_address()
        .map_err(|error| CodedError::new(&codes::ADDRESS_UNUSABLE, "the bound address is not known").with_source(error))
}

/// The data port has the number of the port for devices, over TCP. Where that number was the system's choice and is taken for
/// TCP, the system chooses another: jobs are told it in their sessions.
async fn listen_for_data(bound: SocketAddr, configured: SocketAddr) -> Result<TcpListener, CodedError> {
    match TcpListener::bind(bound).await {
        Err(_) if configured.port() == 0 => TcpListener::bind(configured).await,
        listener => listener,
    }
    .map_err(|error| bind_failed("listen", bound, error))
}

async fn listen_for_admins(config: &Config) -> Result<Option<TcpListener>, CodedError> {
    if !config.admin {
        return Ok(None);
    }
    let bound = TcpListener::bind(config.admin_listen).await;
    bound.map(Some).map_err(|error| bind_failed("admin_listen", config.admin_listen, error))
}
