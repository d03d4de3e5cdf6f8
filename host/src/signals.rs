//! Stopping gracefully: SIGTERM and SIGINT ask the daemon to finish; a second one is not waited for.

use tokio::signal::unix::{SignalKind, signal};

/// Resolves when the process is asked to stop, with the signal's name. After that the signals have their default effect
/// again only when they come a second time: the process then ends at once with status 130.
pub async fn stop_requested() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("asked to stop a second time: ending at once");
        std::process::exit(130);
    });
    Ok(name)
}
