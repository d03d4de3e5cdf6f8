//! What keeps the store well: gc with retention, verification, and fetching damaged chunks again from their devices.

use std::sync::Arc;
use std::time::Duration;

use headwater_host::error::{CodedError, codes};
use headwater_protocol::id::VersionId;
use serde_json::json;

use super::handler::{Emitter, catalog_failed};
use super::{Answer, DamageRow, Progress};
use crate::catalog::{DatasetRecord, Retention, UnixMs};
use crate::core::{Announcement, Core};
use crate::ingest::error_chain;
use crate::store::{GcError, GcOptions, GcProgress, GcReport, VerifyError};

/// A pack of whose bytes at most so many percent are live is copied together with others.
const REWRITE_LIVE_PERCENT_MAX: u8 = 50;
/// Seconds in a day.
const DAY_S: u64 = 86_400;
/// The catalog's note of when gc ran last: Unix milliseconds, little-endian.
const LAST_GC_NOTE: &str = "gc/last";

pub(super) fn gc(core: &Arc<Core>, last_copy: bool, dry_run: bool, out: &Emitter) -> Result<(), CodedError> {
    let report = collect(core, last_copy, dry_run, &mut |progress| {
        let (what, done, total) = match progress {
            GcProgress::Marking { done, total } => ("marking versions", done, total),
            GcProgress::Sweeping { done, total } => ("sweeping packs", done, total),
        };
        out.progress(Progress { what: format!("{what}: {done} of {total}"), ..Progress::default() });
        true
    })?;
    let held = match report.versions_held.len() {
        0 => String::new(),
        count => {
            format!("; {count} old versions stay because devices have freed their own copies (--last-copy drops them)")
        }
    };
    let verb = if dry_run { "would be" } else { "are" };
    out.done(
        format!(
            "{} bytes in {} packs {verb} free, {} old versions {verb} dropped, {} bytes stay{held}",
            report.freed_bytes, report.packs_deleted, report.versions_dropped, report.live_bytes
        ),
        serde_json::to_value(&report).unwrap_or_default(),
    )
}

/// Applies retention and frees what nothing needs; one sentence of what came of it. Blocks.
pub(crate) fn collect_garbage(core: &Core) -> Result<String, CodedError> {
    let report = collect(core, false, false, &mut |_| true)?;
    Ok(format!(
        "{} bytes in {} packs freed, {} old versions dropped",
        report.freed_bytes, report.packs_deleted, report.versions_dropped
    ))
}

/// What gc is to do in this core.
pub fn gc_options(core: &Core, last_copy: bool, dry_run: bool) -> GcOptions {
    GcOptions {
        now: core.now(),
        retention: Retention {
            keep_last: Some(u64::from(core.config.retention.keep_last)).filter(|&keep| keep > 0),
            keep_newer_than_s: Some(u64::from(core.config.retention.keep_days) * DAY_S).filter(|&seconds| seconds > 0),
        },
        dry_run,
        last_copy,
        rewrite_live_percent_max: Some(REWRITE_LIVE_PERCENT_MAX),
    }
}

fn collect(
    core: &Core,
    last_copy: bool,
    dry_run: bool,
    progress: &mut dyn FnMut(GcProgress) -> bool,
) -> Result<GcReport, CodedError> {
    let options = gc_options(core, last_copy, dry_run);
    let report = core.store.collect(options, progress).map_err(gc_failed)?;
    if !dry_run {
        note_gc(core, core.now());
        if let Err(error) = core.catalog.tidy() {
            tracing::warn!(error = error_chain(&error), "the catalog could not give back what it does not need");
        }
    }
    core.metrics.gc_runs.inc();
    core.metrics.gc_freed_bytes.inc_by(if dry_run { 0 } else { report.freed_bytes });
    tracing::info!(freed_bytes = report.freed_bytes, packs = report.packs_deleted, dry_run, "gc");
    Ok(report)
}

fn gc_failed(error: GcError) -> CodedError {
    match error {
        GcError::Busy => busy(),
        GcError::Page { .. } => CodedError::new(
            &codes::PACK_DAMAGED,
            "gc stopped before it freed anything, because a version can't be read",
        )
        .with_source(error),
        GcError::Overtaken => CodedError::new(&codes::TOO_BUSY, error.to_string()),
        GcError::Store(_) | GcError::Packs(_) => {
            CodedError::new(&codes::WRITE_FAILED, "gc came to no end").with_source(error)
        }
        GcError::Catalog(error) => catalog_failed(error),
    }
}

fn busy() -> CodedError {
    CodedError::new(&codes::TOO_BUSY, "another gc or verification is running")
        .with_hint("wait for it; `core-node status` shows what runs")
}

pub(super) fn verify(core: &Arc<Core>, out: &Emitter) -> Result<(), CodedError> {
    let verified = core.store.verify(&mut |progress| {
        out.progress(Progress {
            what: format!("verifying, {} damaged", progress.damaged),
            files: progress.chunks,
            bytes: progress.bytes,
            bytes_total: progress.bytes_total,
        });
        !out.is_closed()
    });
    let report = verified.map_err(|error| match error {
        VerifyError::Busy => busy(),
        VerifyError::Packs(error) => CodedError::new(&codes::READ_FAILED, "the packs can't be read").with_source(error),
        VerifyError::Catalog(error) => catalog_failed(error),
    })?;
    for damaged in &report.damaged {
        let needs = |version: &&crate::store::AffectedVersion| version.damaged.contains(&damaged.id);
        let needed_by =
            report.affected.iter().filter(needs).map(|version| format!("{}@{}", version.dataset, version.number));
        out.send(&Answer::Damage(DamageRow {
            chunk: damaged.id.to_string(),
            reason: format!("pack {} at byte {}: {}", damaged.pack, damaged.offset, damaged.detail),
            needed_by: needed_by.collect(),
        }))?;
    }
    if report.damaged_count > 0 {
        core.metrics.damaged_chunks.inc_by(report.damaged_new);
        tracing::error!(damaged = report.damaged_count, versions = report.affected.len(), "damaged chunks were found");
        core.tell(Announcement::Damaged);
    }
    let said = match report.damaged_count {
        0 => format!("{} chunks of {} bytes in {} packs: no damage", report.chunks, report.bytes, report.packs),
        count => format!(
            "{count} damaged chunks are set aside; {} versions need them, and connected devices that have these are asked for them",
            report.affected.len()
        ),
    };
    let indexes = match report.indexes_damaged.len() {
        0 => String::new(),
        count => format!("; the indexes of {count} packs are damaged, which matters only if the catalog is lost"),
    };
    let affected: Vec<_> =
        report.affected.iter().map(|version| format!("{}@{}", version.dataset, version.number)).collect();
    out.done(
        said + &indexes,
        json!({
            "chunks": report.chunks,
            "bytes": report.bytes,
            "packs": report.packs,
            "damaged": report.damaged_count,
            "healed": report.healed,
            "indexes_damaged": report.indexes_damaged.iter().map(|pack| pack.0).collect::<Vec<_>>(),
            "affected": affected,
            "stopped": report.stopped,
        }),
    )
}

/// Which of the versions that `at_peer` names miss damaged chunks: what that peer is to be asked for again. Blocks; looks at
/// trees only where something is damaged.
pub(crate) fn damaged_versions(
    core: &Core,
    at_peer: &dyn Fn(&DatasetRecord) -> Option<VersionId>,
) -> Vec<(DatasetRecord, VersionId)> {
    let found = || -> Result<Vec<_>, VerifyError> {
        let mut versions = Vec::new();
        if core.catalog.counts()?.chunks.damaged == 0 {
            return Ok(versions);
        }
        for dataset in core.catalog.datasets()? {
            let Some(version) = at_peer(&dataset) else { continue };
            let record = core.catalog.version_by_id(dataset.id, &version)?;
            let Some(root) = record.and_then(|record| record.summary.root) else { continue };
            let whole = core.catalog.pages_complete(dataset.id, &[root])?.into_iter().all(|complete| complete);
            if !whole && !core.store.damaged_below(root)?.is_empty() {
                versions.push((dataset, version));
            }
        }
        Ok(versions)
    };
    found().unwrap_or_else(|error| {
        tracing::warn!(error = error_chain(&error), "what is damaged can't be looked up");
        Vec::new()
    })
}

/// How long until gc is due: `every` after the last one that came to its end, in this process or an earlier one. Blocks.
pub(crate) fn gc_due_in(core: &Core, every: Duration) -> Duration {
    let now = core.now();
    let last = match core.catalog.note(LAST_GC_NOTE) {
        Ok(Some(note)) => note.try_into().map_or(now, |bytes| UnixMs(u64::from_le_bytes(bytes))),
        Ok(None) => {
            note_gc(core, now);
            now
        }
        Err(error) => {
            tracing::warn!(error = error_chain(&error), "when gc ran last can't be looked up");
            now
        }
    };
    every.saturating_sub(Duration::from_millis(now.0.saturating_sub(last.0)))
}

fn note_gc(core: &Core, at: UnixMs) {
    if let Err(error) = core.catalog.set_note(LAST_GC_NOTE, &at.0.to_le_bytes()) {
        tracing::warn!(error = error_chain(&error), "that gc ran could not be noted");
    }
}
