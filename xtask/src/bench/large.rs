//! Large files: how fast they are scanned and sent, what a byte in front of them costs, and what a killed agent costs.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::report::{Measured, Report, cores, mebibytes, rate};
use super::usage::{Guarded, loopback_bytes, watched};
use super::{Bench, Place, Scratch, corpus};
use crate::world::{Core, Device};

const GIB: u64 = 1 << 30;
/// Files of this many bytes are scanned, one after another.
const SCAN_FILES: u64 = 4;
/// A fresh file is left alone for so long before an agent takes it, and then some.
pub(super) const SETTLED: Duration = Duration::from_millis(2500);
/// How often the agent is killed.
const KILLS: u32 = 10;

/// Scan: read, cut, hash and catalogue, against cutting and hashing alone on one thread.
pub(super) fn scan(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    for place in bench.places() {
        let scratch = place.folder("scan")?;
        let data = scratch.path().join("data");
        std::fs::create_dir_all(&data)?;
        let bytes = bench.size(SCAN_FILES * GIB / 2);
        for number in 0..SCAN_FILES {
            corpus::noise(&data.join(format!("{number}.bin")), bytes / SCAN_FILES, number + 1)?;
        }
        std::thread::sleep(SETTLED);
        let base = bench.peer(&["chunk", &text(&data.join("0.bin"))])?;
        let base_rate = base["bytes"].as_f64().unwrap_or(0.0) / seconds(&base);
        let core = Core::start(&bench.programs, scratch.path())?;
        let device = Device::join(&bench.programs, scratch.path(), "scanner", &core.token(1)?)?;
        device.output(&["publish", &text(&data), "--dataset", "cam/scanner"])?;
        let sync = device.json(&["sync", "--once"])?;
        expect_published(&sync, bytes)?;
        let took = sync["scan_ms"].as_f64().context("the sync does not say how long its scans took")? / 1000.0;
        let our_rate = bytes as f64 / took;
        let ratio = our_rate / base_rate;
        let wanted = 0.55 * cores() as f64;
        report.add(Measured {
            figure: "scan large files",
            place: place.name,
            ours: format!("{} ({ratio:.2} ×)", rate(bytes, took)),
            baseline: format!("one thread in memory: {:.0} MB/s", base_rate / 1e6),
            bar: &format!("≥ {wanted:.2} × (0.55 × cores)"),
            reached: Some(ratio >= wanted),
        });
    }
    Ok(())
}

/// A device with one large file, scanned already, and a core that has nothing of it.
struct Ready {
    core: Core,
    device: Device,
    file: PathBuf,
    _scratch: Scratch,
}

impl Ready {
    fn make(bench: &Bench, place: &Place, name: &str, bytes: u64) -> anyhow::Result<Self> {
        let scratch = place.folder(name)?;
        let data = scratch.path().join("data");
        std::fs::create_dir_all(&data)?;
        let file = data.join("large.bin");
        corpus::noise(&file, bytes, 99)?;
        std::thread::sleep(SETTLED);
        let mut core = Core::start(&bench.programs, scratch.path())?;
        let token = core.token(1)?;
        let device = Device::join(&bench.programs, scratch.path(), "sender", &token)?;
        device.output(&["publish", &text(&data), "--dataset", "cam/sender"])?;
        // Without a core, a sync scans and stops there.
        core.stop()?;
        let _ = device.json(&["sync", "--once"]);
        core.run()?;
        Ok(Self { core, device, file, _scratch: scratch })
    }

    /// One sync, until the core has said that everything is durable.
    fn sync(&self) -> anyhow::Result<(Value, f64)> {
        let finished = watched(self.device.command().args(["sync", "--once", "--json"]))?;
        let report: Value = serde_json::from_str(&finished.stdout).context("the sync's report is no JSON")?;
        Ok((report, finished.took.as_secs_f64()))
    }
}

/// Send: a file that is scanned already, until durable.
pub(super) fn send(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let bytes = bench.size(GIB);
    let mut memory_rate = 0.0;
    for place in bench.places() {
        let ready = Ready::make(bench, place, "send", bytes)?;
        let (sync, took) = ready.sync()?;
        expect_published(&sync, bytes)?;
        let ours = bytes as f64 / took;
        if place.name == "memory" {
            memory_rate = ours;
            let quinn = bench.peer(&["quinn", &text(&ready.file)])?;
            let base = bytes as f64 / seconds(&quinn);
            report.add(Measured {
                figure: "send 1 GiB, scanned already, until durable",
                place: place.name,
                ours: format!("{} ({:.2} ×)", rate(bytes, took), ours / base),
                baseline: format!("bare quinn: {:.0} MB/s", base / 1e6),
                bar: "≥ 0.70 ×",
                reached: Some(ours >= 0.7 * base),
            });
        } else {
            let write = bench.peer(&["write", &text(&ready.file), &text(&ready.file.with_extension("plain"))])?;
            let disk = bytes as f64 / seconds(&write);
            let base = disk.min(memory_rate);
            report.add(Measured {
                figure: "send 1 GiB, scanned already, until durable",
                place: place.name,
                ours: format!("{} ({:.2} ×)", rate(bytes, took), ours / base),
                baseline: format!(
                    "plain write and fdatasync: {:.0} MB/s; in memory: {:.0} MB/s",
                    disk / 1e6,
                    memory_rate / 1e6
                ),
                bar: "≥ 0.80 × the lower",
                reached: Some(ours >= 0.8 * base),
            });
        }
    }
    Ok(())
}

/// Insert: one byte before all others of a large file.
pub(super) fn insert(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    const CHUNKS_BAR: u64 = 3;
    const PAGES_BYTES_BAR: u64 = 128 << 10;
    for place in bench.places() {
        let ready = Ready::make(bench, place, "insert", bench.size(GIB))?;
        ready.sync()?;
        corpus::insert_at_start(&ready.file)?;
        std::thread::sleep(SETTLED);
        let (sync, took) = ready.sync()?;
        let sum = |field: &str| -> u64 { published(&sync).filter_map(|version| version[field].as_u64()).sum() };
        let (versions, chunks, plain) = (published(&sync).count(), sum("chunks"), sum("plain_bytes"));
        let wire = |reason: &str| sync["wire"][reason].as_u64().unwrap_or(0);
        let pages = wire("udp").saturating_sub(wire("chunks"));
        report.add(Measured {
            figure: "one byte inserted at the start of 1 GiB",
            place: place.name,
            ours: format!(
                "{chunks} chunks, {} B on the wire; pages and all else {pages} B; {plain} B plain; {took:.2} s",
                wire("chunks")
            ),
            baseline: "the file itself: 1 GiB".to_owned(),
            bar: "≤ 3 chunks and 128 KiB of manifest",
            reached: Some(versions == 1 && chunks <= CHUNKS_BAR && pages <= PAGES_BYTES_BAR),
        });
    }
    Ok(())
}

/// Kill: the agent is killed ten times in the middle of a send; what loopback carried in all, against a send without.
pub(super) fn kill(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    for place in bench.places() {
        kill_in(bench, place, report)?;
    }
    Ok(())
}

fn kill_in(bench: &Bench, place: &Place, report: &mut Report) -> anyhow::Result<()> {
    let bytes = bench.size(GIB);
    let undisturbed = {
        let ready = Ready::make(bench, place, "kill-none", bytes)?;
        let before = loopback_bytes()?;
        ready.sync()?;
        loopback_bytes()? - before
    };
    let ready = Ready::make(bench, place, "kill", bytes)?;
    let before = loopback_bytes()?;
    let mut kills = 0;
    for number in 1..=KILLS {
        // Killed when a further eleventh of it has travelled; so all kills are in the middle.
        let goal = before + undisturbed * u64::from(number) / u64::from(KILLS + 1);
        let mut command = ready.device.command();
        command.args(["sync", "--once", "--json"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut agent = Guarded(command.spawn()?);
        while loopback_bytes()? < goal {
            if agent.0.try_wait()?.is_some() {
                bail!("the agent had sent everything before kill {number}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        agent.0.kill()?;
        agent.0.wait()?;
        kills += 1;
    }
    let (sync, _) = ready.sync()?;
    expect_published(&sync, bytes)?;
    let disturbed = loopback_bytes()? - before;
    let ratio = disturbed as f64 / undisturbed as f64;
    drop(ready.core);
    report.add(Measured {
        figure: "agent killed ten times in the middle of sending 1 GiB",
        place: place.name,
        ours: format!("{} on loopback ({ratio:.3} ×), {kills} kills", mebibytes(disturbed)),
        baseline: format!("without kills: {}", mebibytes(undisturbed)),
        bar: "≤ 1.05 ×",
        reached: Some(ratio <= 1.05),
    });
    Ok(())
}

/// The versions that a sync published.
pub(super) fn published(sync: &Value) -> impl Iterator<Item = &Value> {
    sync["published"].as_array().into_iter().flatten()
}

/// Fails if a sync did not commit a version of so many bytes.
pub(super) fn expect_published(sync: &Value, bytes: u64) -> anyhow::Result<()> {
    match published(sync).last().and_then(|version| version["totals"]["bytes"].as_u64()) {
        Some(found) if found == bytes => Ok(()),
        found => bail!("the sync published {found:?} bytes where {bytes} were expected: {sync}"),
    }
}

pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn seconds(result: &Value) -> f64 {
    result["seconds"].as_f64().unwrap_or(f64::INFINITY)
}
