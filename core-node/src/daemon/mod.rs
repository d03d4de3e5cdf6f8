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
use headwater_host::lock::DataFolderLock;
use headwater_host::{durable, signals, systemd};
use headwater_quic::{Arrival, Arriving, Listener, ServerOptions, TransportOptions, listen, serve_join};
use tokio::net::TcpListener;

use crate::admin;
use crate::config::Config;
use crate::control::LocalHandler;
use crate::core::Core;
use crate::ingest::error_chain;

/// How long peers may take to hear that the daemon stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// What the daemon is started with.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The data folder.
    pub folder: PathBuf,
    /// The configuration.
    pub config: Config,
}

/// Runs the daemon until it is told to stop.
pub async fn run(options: RunOptions) -> Result<(), CodedError> {
    let lock = DataFolderLock::acquire(&options.folder)?;
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
    let control = ControlServer::bind(&core.folder)?;
    let bound = listener.local_address().map_err(|error| {
        CodedError::new(&codes::ADDRESS_UNUSABLE, "the bound address is not known").with_source(error)
    })?;
    core.set_bound(bound);
    let address_file = core.folder.join(ADDRESS_FILE);
    durable::write_atomic(&address_file, format!("{bound}\n").as_bytes(), 0o644).map_err(|error| {
        CodedError::io(&codes::WRITE_FAILED, format!("can't write `{}`", address_file.display()), error)
    })?;

    let background = background::start(&core);
    let accepting = tokio::spawn(accept(core.clone(), listener.clone()));
    let answering = tokio::spawn({
        let core = core.clone();
        async move { control.serve(Arc::new(LocalHandler { core })).await }
    });
    let administering = admin_listener.map(|listener| tokio::spawn(admin::serve(core.clone(), listener)));

    tracing::info!(%bound, folder = %core.folder.display(), "ready");
    systemd::ready(&format!("listening on {bound}"));
    let signal = signals::stop_requested()
        .await
        .map_err(|error| CodedError::new(&codes::INTERNAL, "signals can't be waited for").with_source(error))?;
    tracing::info!(signal, "stopping");
    systemd::stopping();

    accepting.abort();
    answering.abort();
    background.abort();
    if let Some(task) = administering {
        task.abort();
    }
    core.sessions.end_all("the core stops");
    if tokio::time::timeout(CLOSE_TIMEOUT, listener.close("the core stops")).await.is_err() {
        tracing::debug!("some peers did not confirm the end");
    }
    // The address says that a core is here; a core that is gone leaves none.
    let _ = std::fs::remove_file(&address_file);
    drop(lock);
    tracing::info!("stopped");
    Ok(())
}

async fn accept(core: Arc<Core>, listener: Listener) {
    while let Some(arriving) = listener.accept().await {
        tokio::spawn(Box::pin(arrive(core.clone(), arriving)));
    }
}

async fn arrive(core: Arc<Core>, arriving: Arriving) {
    let arrival = match Box::pin(arriving.finish()).await {
        Ok(arrival) => arrival,
        Err(error) => {
            tracing::debug!(error = error_chain(&error), "nothing came of one who knocked");
            return;
        }
    };
    match arrival {
        Arrival::Session { connection, peer } => session::serve(core, connection, peer).await,
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

async fn listen_for_admins(config: &Config) -> Result<Option<TcpListener>, CodedError> {
    if !config.admin {
        return Ok(None);
    }
    let bound = TcpListener::bind(config.admin_listen).await;
    bound.map(Some).map_err(|error| bind_failed("admin_listen", config.admin_listen, error))
}

fn bind_failed(setting: &str, address: SocketAddr, error: std::io::Error) -> CodedError {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            CodedError::new(&codes::PORT_IN_USE, format!("another program listens on {address} already")).with_hint(
                format!(
                    "choose another port with `{setting}` in the configuration, or stop the other program (`ss -lntup`)"
                ),
            )
        }
        _ => CodedError::new(&codes::ADDRESS_UNUSABLE, format!("can't listen on {address}"))
            .with_hint(format!("give `{setting}` an address of this machine, as `0.0.0.0:4733`"))
            .with_source(error),
    }
}
