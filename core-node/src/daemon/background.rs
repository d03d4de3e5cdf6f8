//! What the core does by itself: new editions of collections, gc with retention, federated runs, and telling sessions of damage.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_host::error::codes;
use headwater_quic::work;
use tokio::task::{AbortHandle, JoinSet};

use crate::catalog::CatalogError;
use crate::control::{add_edition, collect_garbage, gc_due_in, members_of};
use crate::core::{Announcement, Core};
use crate::federation;
use crate::ingest::error_chain;
use crate::samples;

/// How often is looked whether a collection is due.
const COLLECTIONS_EVERY: Duration = Duration::from_secs(5);

/// How long damage is gathered before sessions hear of it: it seldom comes alone.
const DAMAGE_GATHERED_FOR: Duration = Duration::from_secs(1);

/// When sessions hear of it again that something is damaged still, for the first time and at the rarest.
const DAMAGE_AGAIN_FIRST: Duration = Duration::from_mins(1);
const DAMAGE_AGAIN_MAX: Duration = Duration::from_hours(6);

/// How often is looked whether the samples of a version are missing, or are there without a version.
const SAMPLES_EVERY: Duration = Duration::from_hours(1);

/// When work is tried again that something else kept from running.
const LATER: Duration = Duration::from_mins(1);

/// The tasks in the background; they end when told.
pub(super) struct Background(AbortHandle);

impl Background {
    pub(super) fn abort(&self) {
        self.0.abort();
    }
}

/// Starts all work in the background.
pub(super) fn start(core: &Arc<Core>) -> Background {
    let mut tasks = JoinSet::new();
    work::spawn_on(&mut tasks, announce_damage(core.clone()));
    let editions = make_editions(core);
    work::spawn_on(&mut tasks, every("collections", COLLECTIONS_EVERY, COLLECTIONS_EVERY, core.clone(), editions));
    work::spawn_on(&mut tasks, find_samples(core.clone()));
    work::spawn_on(&mut tasks, federation::drive(core.clone()));
    let gc_every = core.config.gc.every.0;
    if !gc_every.is_zero() {
        let core = core.clone();
        work::spawn_on(&mut tasks, async move {
            let of = core.clone();
            let due = work::spawn_blocking(move || gc_due_in(&of, gc_every)).await.unwrap_or(gc_every);
            let collect = |core: &Arc<Core>| match collect_garbage(core) {
                Ok(said) => Ok(Ran::Done(said)),
                // A verification runs, which takes hours where there is much.
                Err(error) if error.is(&codes::TOO_BUSY) => Ok(Ran::Later(error.message)),
                Err(error) => Err(error.to_string()),
            };
            every("gc", due, gc_every, core, collect).await;
        });
    }
    let running = work::spawn(async move {
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a worker in the background broke off");
            }
        }
    });
    Background(running.abort_handle())
}

/// Tells sessions that something is damaged, whoever found it; and again, ever more rarely, for as long as it is: what was to
/// mend it may have failed, as a disk does or a link.
async fn announce_damage(core: Arc<Core>) {
    let mut found = core.store.damage_found();
    let mut again = DAMAGE_AGAIN_FIRST;
    loop {
        tokio::select! {
            biased;
            changed = found.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(DAMAGE_GATHERED_FOR).await;
                found.mark_unchanged();
                again = DAMAGE_AGAIN_FIRST;
            }
            () = tokio::time::sleep(again) => {
                again = (again * 2).min(DAMAGE_AGAIN_MAX);
                let of = core.clone();
                let counted = work::spawn_blocking(move || of.catalog.counts().map(|counts| counts.chunks.damaged)).await;
                if !matches!(counted, Ok(Ok(1..))) {
                    continue;
                }
            }
        }
        core.tell(Announcement::Damaged);
    }
}

/// Finds the samples of each version that comes, where they are inside files, and from time to time those that were missed.
async fn find_samples(core: Arc<Core>) {
    const NAME: &str = "samples";
    let mut announcements = core.announcements();
    loop {
        let of = core.clone();
        core.workers.doing(NAME, "working");
        let kept_up = work::spawn_blocking(move || samples::keep_up(&of)).await;
        core.workers.done(
            NAME,
            match kept_up {
                Ok(Ok(said)) => said,
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            },
        );
        let until = tokio::time::Instant::now() + SAMPLES_EVERY;
        // What was missed may have been anything.
        while let Ok(Ok(announced)) = tokio::time::timeout_at(until, announcements.recv()).await {
            let Announcement::Changed(name) = announced else { continue };
            let (of, name) = (core.clone(), name.to_string());
            if let Ok(Err(error)) = work::spawn_blocking(move || samples::follow(&of, &name)).await {
                tracing::warn!(%error, "samples could not be looked for");
            }
        }
    }
}

/// How a piece of work went.
enum Ran {
    /// It is done until the next time.
    Done(String),
    /// It could not be done now, for this reason, and is tried again soon.
    Later(String),
}

/// Runs `job` on a blocking thread, first after `first` and then every `period`, and shows it in `status`.
async fn every<W>(name: &'static str, first: Duration, period: Duration, core: Arc<Core>, job: W)
where
    W: Fn(&Arc<Core>) -> Result<Ran, String> + Send + Sync + 'static,
{
    let job = Arc::new(job);
    core.workers.done(name, "");
    let mut wait = first;
    loop {
        tokio::time::sleep(wait).await;
        wait = period;
        let (run, of) = (job.clone(), core.clone());
        core.workers.doing(name, "working");
        let ended = work::spawn_blocking(move || run(&of)).await;
        let last = match ended {
            Ok(Ok(Ran::Done(last))) => last,
            Ok(Ok(Ran::Later(reason))) => {
                tracing::info!(worker = name, reason, "work in the background waits");
                wait = period.min(LATER);
                reason
            }
            Ok(Err(error)) => {
                tracing::error!(worker = name, error, "work in the background failed");
                error
            }
            Err(error) => {
                tracing::error!(worker = name, %error, "work in the background broke off");
                error.to_string()
            }
        };
        core.workers.done(name, last);
    }
}

/// Makes a new edition of each collection that is due. When the last look was is forgotten at a restart, which costs one
/// look too many: an edition with the same members is not made twice.
fn make_editions(core: &Core) -> impl Fn(&Arc<Core>) -> Result<Ran, String> + use<> {
    let started = core.started;
    let looked: std::sync::Mutex<HashMap<String, Instant>> = std::sync::Mutex::default();
    move |core| {
        let failed = |error: CatalogError| error_chain(&error);
        let mut looked = looked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut made = 0u64;
        for collection in core.catalog.collections().map_err(failed)? {
            let Some(every_s) = collection.rule.every_s else { continue };
            let last = looked.get(&collection.rule.name).copied().unwrap_or(started);
            if last.elapsed() < Duration::from_secs(every_s) {
                continue;
            }
            looked.insert(collection.rule.name.clone(), Instant::now());
            let members = members_of(core, &collection.rule).map_err(failed)?;
            let before = collection.latest.map(|(number, ..)| number);
            match add_edition(core, &collection.rule, &members) {
                Ok(edition) => made += u64::from(before != Some(edition.number)),
                Err(error) => {
                    // A member was dropped meanwhile, or it was deleted itself: the others are made all the same.
                    tracing::warn!(collection = collection.rule.name, %error, "a collection gets no new number this time");
                }
            }
        }
        Ok(Ran::Done(if made == 0 { "nothing was due".to_owned() } else { format!("{made} new editions") }))
    }
}
