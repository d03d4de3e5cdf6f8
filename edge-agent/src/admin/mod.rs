//! The HTTP port for Prometheus: `/metrics`, and `/healthz`. It is off unless the settings give it an address, it only ever
//! reads, and it has no rights to check.

mod metrics;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use headwater_host::error::CodedError;
use headwater_host::listen::bind_failed;
use tokio::net::TcpListener;

use crate::agent::Agent;
use crate::blocking::blocking;

/// Listens on an address of `metrics.listen`.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, CodedError> {
    TcpListener::bind(address).await.map_err(|error| bind_failed("metrics.listen", address, error))
}

/// Serves the port until the task is dropped.
pub(crate) async fn serve(agent: Arc<Agent>, listener: TcpListener) {
    let routes = Router::new().route("/metrics", get(metrics)).route("/healthz", get(health)).with_state(agent);
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "metrics are not served any more");
    }
}

async fn metrics(State(agent): State<Arc<Agent>>) -> Response {
    let looked = blocking(move || Ok((agent.status()?, agent.oldest_unsent_s()))).await;
    match looked {
        Ok((status, oldest_unsent_s)) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], metrics::render(&status, oldest_unsent_s)).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Healthy means that the catalog answers. A link that is down is what an agent is made for.
async fn health(State(agent): State<Arc<Agent>>) -> Response {
    match blocking(move || Ok(agent.catalog().datasets().map(drop)?)).await {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the catalog does not answer\n").into_response(),
    }
}
