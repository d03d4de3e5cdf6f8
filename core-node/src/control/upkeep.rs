//! How the core is: status, the gauges of a scrape, doctor.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use headwater_host::doctor::{self as checks, Check};
use headwater_host::error::{CodedError, find};

use super::handler::{Asker, Emitter, catalog_failed};
use super::{Answer, Finding, StatusRow};
use crate::account::{RECEIVED, SENT};
use crate::admin::KindLabels;
use crate::catalog::CatalogError;
use crate::core::Core;

/// Free bytes that `doctor` wants on the store's disk.
const DISK_FREE_WANTED_BYTES: u64 = 5 << 30;
/// Open files that a core with many devices may need.
const OPEN_FILES_WANTED: u64 = 4096;
/// Receive buffer of a UDP socket that fast links need, in bytes.
const UDP_BUFFER_WANTED_BYTES: u64 = 4 << 20;

pub(super) fn status(core: &Arc<Core>, asker: &Asker, out: &Emitter) -> Result<(), CodedError> {
    let mut row = status_row(core)?;
    if let Some(names) = asker.readable_names(core).map_err(catalog_failed)? {
        row.sessions = core.sessions.rows(&|dataset| names.contains(dataset));
        row.readers = core.readers.rows(&|dataset| names.contains(dataset));
        for error in &mut row.errors {
            error.message = find(&error.code).map(|row| row.meaning.to_owned()).unwrap_or_default();
        }
    }
    out.send(&Answer::Status(Box::new(row)))
}

/// How the core is, for `status` and the status page. Blocks.
pub(crate) fn status_row(core: &Core) -> Result<StatusRow, CodedError> {
    let counts = core.catalog.counts().map_err(catalog_failed)?;
    let sessions = core.sessions.rows(&|_| true);
    let wire = core.meter.counts();
    Ok(StatusRow {
        release: env!("CARGO_PKG_VERSION").to_owned(),
        name: core.config.name.clone(),
        listen: core.bound().to_string(),
        admin: core.bound_admin().map(|address| address.to_string()).unwrap_or_default(),
        up_s: core.started.elapsed().as_secs(),
        devices: counts.devices,
        connected: core.sessions.devices_connected(),
        datasets: counts.datasets,
        versions: counts.versions,
        chunks: counts.chunks.chunks,
        damaged_chunks: counts.chunks.damaged,
        packs: counts.packs,
        stored_bytes: counts.pack_bytes,
        plain_bytes: counts.chunks.plain_bytes,
        disk_free_bytes: disk_free_bytes(&core.folder),
        wire_in: by_reason(RECEIVED, core.account.received(&wire)),
        wire_out: by_reason(SENT, core.account.sent(&wire)),
        sessions,
        readers: core.readers.rows(&|_| true),
        workers: core.workers.rows(),
        errors: core.journal.rows(),
    })
}

fn by_reason<const N: usize>(reasons: [&str; N], bytes: [u64; N]) -> BTreeMap<String, u64> {
    reasons.into_iter().map(str::to_owned).zip(bytes).collect()
}

/// Sets the gauges to what is true now, for a scrape. Blocks.
pub(crate) fn refresh_gauges(core: &Core) -> Result<(), CodedError> {
    let row = status_row(core)?;
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let metrics = &core.metrics;
    metrics.sessions.set(gauge(row.sessions.len() as u64));
    metrics.reader_sessions.set(gauge(row.readers.len() as u64));
    metrics.reader_jobs.set(gauge(core.readers.jobs_live() as u64));
    metrics.cache_stats(&core.readers.cache.stats());
    metrics.chunks_damaged.set(gauge(row.damaged_chunks));
    metrics.devices.set(gauge(row.devices));
    metrics.datasets.set(gauge(row.datasets));
    metrics.versions.set(gauge(row.versions));
    metrics.chunks.set(gauge(row.chunks));
    metrics.disk_free_bytes.set(gauge(row.disk_free_bytes));
    metrics.store_bytes.get_or_create(&KindLabels { kind: "stored" }).set(gauge(row.stored_bytes));
    metrics.store_bytes.get_or_create(&KindLabels { kind: "plain" }).set(gauge(row.plain_bytes));
    metrics.up_seconds.set(core.started.elapsed().as_secs_f64());
    let counts = core.meter.counts();
    metrics.socket(&counts);
    metrics.wire(&core.account, &counts);
    metrics.store_stats(&core.store.stats());
    Ok(())
}

pub(super) fn doctor(core: &Arc<Core>, out: &Emitter) -> Result<(), CodedError> {
    let checks = [
        checks::disk_space("disk", &core.folder, DISK_FREE_WANTED_BYTES),
        checks::folder_rights("data folder", &core.folder, true),
        checks::private_folder("keys", &core.folder),
        checks::open_files("open files", OPEN_FILES_WANTED),
        checks::udp_buffers("UDP buffers", UDP_BUFFER_WANTED_BYTES),
        checks::clock("clock", true),
        addresses(core),
        catalog(core)?,
        damage(core)?,
        backup(core),
    ];
    for Check { name, verdict, found, hint } in checks {
        out.send(&Answer::Finding(Finding { what: name, state: verdict.to_string(), found, hint }))?;
    }
    Ok(())
}

fn addresses(core: &Core) -> Check {
    let bound = core.bound();
    if bound.ip().is_loopback() {
        return Check::warn(
            "address",
            format!("it listens on {bound}: only programs on this machine reach it"),
            "set `listen = \"0.0.0.0:4733\"` for devices elsewhere",
        );
    }
    if core.config.addresses.is_empty() {
        return Check::warn(
            "address",
            "tokens name this machine's own address, which may change",
            "set `addresses = [\"NAME:PORT\"]` to what devices can always dial",
        );
    }
    Check::ok("address", format!("tokens name {}", core.config.addresses.join(", ")))
}

fn catalog(core: &Core) -> Result<Check, CodedError> {
    let found = match core.catalog.check() {
        Err(CatalogError::Damaged { detail, .. }) => Some(detail),
        other => other.map_err(catalog_failed)?,
    };
    Ok(match found {
        None => Check::ok("catalog", "all of it was read, and it is sound"),
        Some(found) => Check::fail(
            "catalog",
            format!("it is damaged: {found}"),
            "stop the core, check the disk, and restore the catalog from a backup (docs/operating/backup.md)",
        ),
    })
}

fn damage(core: &Core) -> Result<Check, CodedError> {
    let damaged = core.catalog.damaged().map_err(catalog_failed)?.len();
    Ok(if damaged == 0 {
        Check::ok("store", "no chunk is known to be damaged")
    } else {
        Check::fail(
            "store",
            format!("{damaged} chunks are damaged"),
            "check the disk (`dmesg`, SMART); devices that still have the files send them again when they next publish",
        )
    })
}

/// Whether the authority's key has ever been copied can't be known from here; that it must be can be said.
fn backup(core: &Core) -> Check {
    Check::ok(
        "backup",
        format!(
            "keep a copy of `{}` elsewhere: without it no device ever joins again",
            core.folder.join("authority.key").display()
        ),
    )
}

/// Free bytes on the disk of `folder`.
fn disk_free_bytes(folder: &Path) -> u64 {
    checks::free_bytes(folder).map_or(0, |(free, _)| free)
}
