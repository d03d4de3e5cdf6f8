//! How the core is, and what keeps it well: status, doctor, verification, gc.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use headwater_host::error::CodedError;

use super::handler::{Emitter, catalog_failed};
use super::{Answer, Finding, StatusRow};
use crate::admin::KindLabels;
use crate::catalog::DeviceState;
use crate::core::Core;

/// Free bytes below which `doctor` warns.
const DISK_FREE_LOW_BYTES: u64 = 5 << 30;
/// Free bytes below which `doctor` says that it is bad.
const DISK_FREE_BAD_BYTES: u64 = 512 << 20;
/// Open files that a core with many devices may need.
const OPEN_FILES_WANTED: u64 = 4096;
/// Receive buffer of a UDP socket that fast links need, in bytes.
const UDP_BUFFER_WANTED_BYTES: u64 = 4 << 20;

pub(super) fn status(core: &Arc<Core>, out: &Emitter) -> Result<(), CodedError> {
    out.send(&Answer::Status(Box::new(status_row(core)?)))
}

/// How the core is, for `status` and the status page. Blocks.
pub(crate) fn status_row(core: &Core) -> Result<StatusRow, CodedError> {
    let devices = core.catalog.devices().map_err(catalog_failed)?;
    let datasets = core.catalog.datasets().map_err(catalog_failed)?;
    let mut versions = 0;
    for dataset in &datasets {
        versions += super::datasets::count_versions(core, dataset)?;
    }
    let chunks = core.catalog.chunk_totals().map_err(catalog_failed)?;
    let packs = core.catalog.packs().map_err(catalog_failed)?;
    let sessions = core.sessions.rows();
    Ok(StatusRow {
        release: env!("CARGO_PKG_VERSION").to_owned(),
        name: core.config.name.clone(),
        listen: core.bound().to_string(),
        admin: core.bound_admin().map(|address| address.to_string()).unwrap_or_default(),
        up_s: core.started.elapsed().as_secs(),
        devices: devices.iter().filter(|device| device.state == DeviceState::Active).count() as u64,
        connected: sessions.len() as u64,
        datasets: datasets.len() as u64,
        versions,
        chunks: chunks.chunks,
        packs: packs.len() as u64,
        stored_bytes: packs.iter().map(|pack| pack.end_bytes).sum(),
        plain_bytes: chunks.plain_bytes,
        disk_free_bytes: disk_free_bytes(&core.folder),
        wire_in: core.metrics.wire_by_reason("in"),
        wire_out: core.metrics.wire_by_reason("out"),
        sessions,
        workers: core.workers.rows(),
        errors: core.journal.rows(),
    })
}

/// Sets the gauges to what is true now, for a scrape. Blocks.
pub(crate) fn refresh_gauges(core: &Core) -> Result<(), CodedError> {
    let row = status_row(core)?;
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let metrics = &core.metrics;
    metrics.sessions.set(gauge(row.connected));
    metrics.devices.set(gauge(row.devices));
    metrics.datasets.set(gauge(row.datasets));
    metrics.versions.set(gauge(row.versions));
    metrics.chunks.set(gauge(row.chunks));
    metrics.disk_free_bytes.set(gauge(row.disk_free_bytes));
    metrics.store_bytes.get_or_create(&KindLabels { kind: "stored" }).set(gauge(row.stored_bytes));
    metrics.store_bytes.get_or_create(&KindLabels { kind: "plain" }).set(gauge(row.plain_bytes));
    metrics.up_seconds.set(core.started.elapsed().as_secs_f64());
    metrics.socket(core.meter.counts());
    Ok(())
}

pub(super) fn doctor(core: &Arc<Core>, out: &Emitter) -> Result<(), CodedError> {
    for finding in [
        disk(core),
        open_files(),
        udp_buffers(),
        keys(core),
        addresses(core),
        damage(core)?,
        memory(),
    ] {
        out.send(&Answer::Finding(finding))?;
    }
    Ok(())
}

fn finding(what: &str, state: &str, found: String, hint: &str) -> Finding {
    Finding { what: what.to_owned(), state: state.to_owned(), found, hint: hint.to_owned() }
}

fn disk(core: &Core) -> Finding {
    let free = disk_free_bytes(&core.folder);
    let found = format!("{} MiB are free on the disk of `{}`", free >> 20, core.folder.display());
    match free {
        0..DISK_FREE_BAD_BYTES => finding("disk", "bad", found, "free space, run `core-node gc`, or set a retention"),
        DISK_FREE_BAD_BYTES..DISK_FREE_LOW_BYTES => {
            finding("disk", "warning", found, "plan for a larger disk, or set a retention: `core-node dataset retention`")
        }
        _ => finding("disk", "good", found, ""),
    }
}

fn open_files() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let found = format!("this process may open {limit} files");
    if limit < OPEN_FILES_WANTED {
        finding("open files", "warning", found, "raise it: `LimitNOFILE=65536` in the systemd unit, or `ulimit -n`")
    } else {
        finding("open files", "good", found, "")
    }
}

fn udp_buffers() -> Finding {
    let read = fs::read_to_string("/proc/sys/net/core/rmem_max");
    let Some(bytes) = read.ok().and_then(|text| text.trim().parse::<u64>().ok()) else {
        return finding("UDP buffers", "good", "the system says nothing of a limit".to_owned(), "");
    };
    let found = format!("sockets may buffer {} KiB", bytes >> 10);
    if bytes < UDP_BUFFER_WANTED_BYTES {
        finding("UDP buffers", "warning", found, "for fast links raise it: `sysctl -w net.core.rmem_max=8388608 net.core.wmem_max=8388608`")
    } else {
        finding("UDP buffers", "good", found, "")
    }
}

fn keys(core: &Core) -> Finding {
    let open = ["authority.key", "identity.key", "catalog.db"].into_iter().find(|name| {
        fs::metadata(core.folder.join(name)).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
    });
    let folder_open = fs::metadata(&core.folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0);
    match open {
        Some(name) if folder_open => finding(
            "keys",
            "bad",
            format!("others may read `{}`", core.folder.join(name).display()),
            "close it: `chmod -R go= ` the data folder",
        ),
        _ => finding("keys", "good", "only this user may read the keys; keep a backup of authority.*".to_owned(), ""),
    }
}

fn addresses(core: &Core) -> Finding {
    let bound = core.bound();
    if bound.ip().is_loopback() {
        return finding(
            "address",
            "warning",
            format!("it listens on {bound}: only programs on this machine reach it"),
            "set `listen = \"0.0.0.0:4733\"` for devices elsewhere",
        );
    }
    if core.config.addresses.is_empty() {
        return finding(
            "address",
            "warning",
            "tokens name this machine's own address, which may change".to_owned(),
            "set `addresses = [\"NAME:PORT\"]` to what devices can always dial",
        );
    }
    finding("address", "good", format!("tokens name {}", core.config.addresses.join(", ")), "")
}

fn damage(core: &Core) -> Result<Finding, CodedError> {
    let damaged = core.catalog.damaged().map_err(catalog_failed)?.len();
    Ok(if damaged == 0 {
        finding("store", "good", "no chunk is known to be damaged".to_owned(), "")
    } else {
        finding(
            "store",
            "bad",
            format!("{damaged} chunks are damaged"),
            "check the disk (`dmesg`, SMART); devices that still have the files send them again at their next publication",
        )
    })
}

fn memory() -> Finding {
    let read = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available_kib: Option<u64> = read
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok());
    match available_kib {
        Some(kib) if kib < 300 << 10 => {
            finding("memory", "warning", format!("{} MiB are available", kib >> 10), "a core with many devices wants 512 MiB")
        }
        Some(kib) => finding("memory", "good", format!("{} MiB are available", kib >> 10), ""),
        None => finding("memory", "good", "the system says nothing of it".to_owned(), ""),
    }
}

/// Free bytes on the disk of `folder`, for one who is not root.
pub(crate) fn disk_free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}
