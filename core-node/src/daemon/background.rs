//! What the core does by itself: new editions of collections, retention, gc.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinSet};

use crate::catalog::{CatalogError, Retention, UnixMs};
use crate::control::{add_edition, collect_garbage, members_of};
use crate::core::Core;
use crate::ingest::error_chain;

/// How often is looked whether a collection is due.
const COLLECTIONS_EVERY: Duration = Duration::from_secs(5);
/// How often retention is applied.
const RETENTION_EVERY: Duration = Duration::from_mins(10);
/// Versions that are looked at at once.
const VERSIONS_BATCH: usize = 1000;
/// Seconds in a day.
const DAY_S: u64 = 86_400;

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
    tasks.spawn(every("collections", COLLECTIONS_EVERY, core.clone(), make_editions(core)));
    tasks.spawn(every("retention", RETENTION_EVERY, core.clone(), apply_retention));
    let gc_every = core.config.gc.every.0;
    if !gc_every.is_zero() {
        tasks.spawn(every("gc", gc_every, core.clone(), |core| {
            collect_garbage(core, false, &mut |_| {}).map_err(|error| error.to_string())
        }));
    }
    let running = tokio::spawn(async move { while tasks.join_next().await.is_some() {} });
    Background(running.abort_handle())
}

/// Runs `work` on a blocking thread every `period`, and shows it in `status`.
async fn every<W>(name: &'static str, period: Duration, core: Arc<Core>, work: W)
where
    W: Fn(&Arc<Core>) -> Result<String, String> + Send + Sync + 'static,
{
    let work = Arc::new(work);
    core.workers.done(name, "");
    loop {
        tokio::time::sleep(period).await;
        let (run, of) = (work.clone(), core.clone());
        core.workers.doing(name, "working");
        let ended = tokio::task::spawn_blocking(move || run(&of)).await;
        let last = match ended {
            Ok(Ok(last)) => last,
            Ok(Err(error)) => {
                tracing::error!(worker = name, error, "work in the background failed");
                error
            }
            Err(error) => error.to_string(),
        };
        core.workers.done(name, last);
    }
}

/// Makes a new edition of each collection that is due. When the last look was is forgotten at a restart, which costs one
/// look too many: an edition with the same members is not made twice.
fn make_editions(core: &Core) -> impl Fn(&Arc<Core>) -> Result<String, String> + use<> {
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
            let edition = add_edition(core, &collection.rule, &members).map_err(|error| error.to_string())?;
            made += u64::from(before != Some(edition.number));
        }
        Ok(if made == 0 { "nothing was due".to_owned() } else { format!("{made} new editions") })
    }
}

/// Drops the versions that no retention rule keeps. What devices may have freed stays: that needs a person's word.
fn apply_retention(core: &Arc<Core>) -> Result<String, String> {
    let failed = |error: CatalogError| error_chain(&error);
    let default = Retention {
        keep_last: Some(u64::from(core.config.retention.keep_last)).filter(|&keep| keep > 0),
        keep_newer_than_s: Some(u64::from(core.config.retention.keep_days) * DAY_S).filter(|&seconds| seconds > 0),
    };
    let _alone = core.housekeeping.blocking_lock();
    let (mut dropped, mut kept_for_devices) = (0, 0);
    for dataset in core.catalog.datasets().map_err(failed)? {
        let rule = if dataset.retention == Retention::default() { default } else { dataset.retention };
        if rule == Retention::default() {
            continue;
        }
        let tags = core.catalog.tags(dataset.id).map_err(failed)?;
        let mut versions = Vec::new();
        let mut before = None;
        loop {
            let batch = core.catalog.versions(dataset.id, before, VERSIONS_BATCH).map_err(failed)?;
            before = batch.last().map(|last| last.number);
            let full = batch.len() == VERSIONS_BATCH;
            versions.extend(batch.into_iter().map(|version| (version.number, version.committed_at)));
            if !full {
                break;
            }
        }
        for number in surplus(rule, &versions, core.now()) {
            if tags.iter().any(|tag| tag.number == number) {
                continue;
            }
            match core.catalog.drop_versions(dataset.id, &[number], false) {
                Ok(()) => dropped += 1,
                Err(crate::catalog::DropError::LastCopy { .. }) => kept_for_devices += 1,
                // A tag or collection came between, or it is gone already.
                Err(crate::catalog::DropError::Catalog(error)) => return Err(failed(error)),
                Err(_) => {}
            }
        }
    }
    Ok(format!("{dropped} versions dropped, {kept_for_devices} kept because devices have freed their own copies"))
}

/// The numbers of `versions` (newest first) that `rule` does not keep. The newest always stays.
fn surplus(rule: Retention, versions: &[(u64, UnixMs)], now: UnixMs) -> Vec<u64> {
    let last = rule.keep_last.map_or(0, |keep| usize::try_from(keep).unwrap_or(usize::MAX));
    let since = rule.keep_newer_than_s.map(|seconds| now.minus(Duration::from_secs(seconds)));
    versions
        .iter()
        .enumerate()
        .skip(1)
        .filter(|(index, (_, committed_at))| *index >= last && since.is_none_or(|since| *committed_at < since))
        .map(|(_, (number, _))| *number)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_rule_keeps() {
        let versions: Vec<_> = (1..=5u64).rev().map(|number| (number, UnixMs(number * 1000))).collect();
        let check = |keep_last, keep_newer_than_s, wanted: &[u64]| {
            let rule = Retention { keep_last, keep_newer_than_s };
            assert_eq!(surplus(rule, &versions, UnixMs(6000)), wanted, "{rule:?}");
        };
        check(Some(2), None, &[3, 2, 1]);
        check(None, Some(3), &[2, 1]);
        check(Some(4), Some(1), &[1]);
        check(Some(0), None, &[4, 3, 2, 1]);
    }
}
