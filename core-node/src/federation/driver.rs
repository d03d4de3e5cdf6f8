//! The task that drives all runs: it waits for something to happen, makes a step, and does what follows from it.

use std::sync::Arc;
use std::time::Duration;

use headwater_quic::work;
use tokio::sync::broadcast::error::RecvError;

use super::Heard;
use super::combine;
use super::step::After;
use crate::core::{Announcement, Core};
use crate::ingest::error_chain;

/// What `status` calls this work.
const NAME: &str = "federation";
/// How often is looked although nothing happened: the time of day changes who may take part.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// When a step is tried again that the catalog kept from being made.
const AGAIN: Duration = Duration::from_secs(5);

/// Drives all runs until dropped.
pub(crate) async fn drive(core: Arc<Core>) {
    let mut announcements = core.announcements();
    core.workers.done(NAME, "");
    while let Err(error) = blocking(&core, |core| core.federation.load(core)).await {
        core.workers.done(NAME, error);
        tokio::time::sleep(AGAIN).await;
    }
    loop {
        let wait = match blocking(&core, |core| core.federation.step(core)).await {
            Ok(after) => follow(&core, after),
            Err(error) => {
                tracing::error!(error, "runs can't go on");
                core.workers.done(NAME, error);
                AGAIN
            }
        };
        let until = tokio::time::Instant::now() + wait;
        loop {
            tokio::select! {
                biased;
                () = core.federation.wake.notified() => break,
                announced = announcements.recv() => match announced {
                    Ok(Announcement::Changed(name)) => core.federation.changed(&name),
                    Ok(Announcement::Rights | Announcement::Damaged) => {}
                    Err(RecvError::Lagged(_)) => core.federation.hear(Heard::AnyUpdate),
                    Err(RecvError::Closed) => return,
                },
                () = tokio::time::sleep_until(until) => break,
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    core: &Arc<Core>,
    job: impl FnOnce(&Arc<Core>) -> Result<T, crate::catalog::CatalogError> + Send + 'static,
) -> Result<T, String> {
    let core = core.clone();
    match work::spawn_blocking(move || job(&core)).await {
        Ok(done) => done.map_err(|error| error_chain(&error)),
        Err(error) => Err(error.to_string()),
    }
}

/// Does what follows from a step; when to make the next one.
fn follow(core: &Arc<Core>, after: After) -> Duration {
    if after.has_new_rights {
        core.announce_rights();
    }
    for job in after.jobs {
        let of = core.clone();
        work::spawn(async move {
            let (run, round) = (job.run.clone(), job.round);
            let with = of.clone();
            let combined = work::spawn_blocking(move || combine::combine(&with, &job)).await;
            let result = combined.unwrap_or_else(|error| Err(format!("the combination broke off: {error}")));
            of.federation.hear(Heard::Combined { run, round, result });
        });
    }
    after.wait.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)
}
