//! The HTTP port for people and Prometheus: `/metrics`, `/healthz`, and `/`, a page that says what `status` says.
//!
//! It only ever reads, it has no rights to check, and it listens on the loopback interface unless it is told otherwise.

mod metrics;
mod page;

pub use metrics::{ErrorLabels, KindLabels, MeasureLabels, Metrics, WireLabels};

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::control::{refresh_gauges, status_row};
use crate::core::Core;

/// Serves the port until the task is dropped.
pub async fn serve(core: Arc<Core>, listener: TcpListener) {
    let routes = Router::new()
        .route("/", get(status))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(core);
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "metrics are not served any more");
    }
}

async fn metrics(State(core): State<Arc<Core>>) -> Response {
    let rendered = tokio::task::spawn_blocking(move || {
        refresh_gauges(&core)?;
        Ok::<_, headwater_host::error::CodedError>(core.metrics.render())
    })
    .await;
    match rendered {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A note that nobody writes: to look for it costs next to nothing.
const HEALTH_NOTE: &str = "health";

/// Healthy means that the store can be written to and the catalog answers.
async fn health(State(core): State<Arc<Core>>) -> Response {
    if !core.store.is_writing() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the store's writer has ended\n").into_response();
    }
    let asked = tokio::task::spawn_blocking(move || core.catalog.note(HEALTH_NOTE)).await;
    match asked {
        Ok(Ok(_)) => (StatusCode::OK, "ok\n").into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the catalog does not answer\n").into_response(),
    }
}

async fn status(State(core): State<Arc<Core>>) -> Response {
    match tokio::task::spawn_blocking(move || status_row(&core)).await {
        Ok(Ok(row)) => Html(page::render(&row)).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
