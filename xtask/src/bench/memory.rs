//! Peak memory, as the kernel counts it: resident pages, those of the program file included.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::large::{SETTLED, expect_published, text};
use super::report::{Measured, Report, mebibytes};
use super::usage::{Guarded, available_bytes, memory, watched};
use super::{Bench, corpus};
use crate::world::{Core, Device, wait_for};

const MIB: u64 = 1 << 20;
const SENDERS: u64 = 50;
const IDLE_DEVICES: u64 = 1000;
/// Memory that is left alone when idle agents are started.
const RESERVE_BYTES: u64 = 4 << 30;
/// How long a daemon is left alone before its idle memory is read.
const IDLE_AFTER: Duration = Duration::from_secs(10);
const CONNECTED_WITHIN: Duration = Duration::from_mins(5);

/// The agent while it scans and sends 10 GiB, and when it has nothing to do.
pub(super) fn send(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let place = &bench.disk;
    let scratch = place.folder("memory-send")?;
    let data = scratch.path().join("data");
    fs::create_dir_all(&data)?;
    let bytes = bench.size(10 << 30);
    corpus::noise(&data.join("large.bin"), bytes, 5)?;
    std::thread::sleep(SETTLED);
    let core = Core::start(&bench.programs, scratch.path())?;
    let mut device = Device::join(&bench.programs, scratch.path(), "sender", &core.token(1)?)?;
    device.output(&["publish", &text(&data), "--dataset", "cam/sender"])?;
    let finished = watched(device.command().args(["sync", "--once", "--json"]))?;
    let sync: Value = serde_json::from_str(&finished.stdout)?;
    expect_published(&sync, bytes)?;
    report.add(Measured {
        figure: "peak memory of the agent, 10 GiB scanned and sent",
        place: place.name,
        ours: format!("{} in {:.0} s", mebibytes(finished.peak_bytes), finished.took.as_secs_f64()),
        baseline: "restic for 1 GiB: 177 MB (not in this run)".to_owned(),
        bar: "≤ 64 MiB",
        reached: Some(finished.peak_bytes <= 64 * MIB),
    });
    device.run()?;
    std::thread::sleep(IDLE_AFTER);
    let idle = memory(device.daemon()?.id())?;
    device.stop()?;
    report.add(Measured {
        figure: "memory of the idle, connected agent",
        place: place.name,
        ours: format!("{} (peak since its start {})", mebibytes(idle.now_bytes), mebibytes(idle.peak_bytes)),
        baseline: String::new(),
        bar: "≤ 20 MiB",
        reached: Some(idle.now_bytes <= 20 * MIB),
    });
    Ok(())
}

/// The agent with a million files.
pub(super) fn files(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let place = &bench.memory;
    let scratch = place.folder("memory-files")?;
    let data = scratch.path().join("data");
    let count = bench.count(1_000_000);
    corpus::many(&data, count, 700)?;
    std::thread::sleep(SETTLED);
    let core = Core::start(&bench.programs, scratch.path())?;
    let device = Device::join(&bench.programs, scratch.path(), "sender", &core.token(1)?)?;
    device.output(&["publish", &text(&data), "--dataset", "cam/sender"])?;
    for (figure, sync) in [("first sync", 1), ("second sync, nothing changed", 2)] {
        let finished = watched(device.command().args(["sync", "--once", "--json"]))?;
        if sync == 1 {
            expect_published(&serde_json::from_str(&finished.stdout)?, count * 700)?;
        }
        report.add(Measured {
            figure: &format!("peak memory of the agent with 1,000,000 files, {figure}"),
            place: place.name,
            ours: format!("{} in {:.1} s", mebibytes(finished.peak_bytes), finished.took.as_secs_f64()),
            baseline: String::new(),
            bar: "≤ 96 MiB",
            reached: Some(finished.peak_bytes <= 96 * MIB),
        });
    }
    Ok(())
}

/// The core while fifty devices send at once.
pub(super) fn core(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let place = &bench.memory;
    let scratch = place.folder("memory-core")?;
    let mut core = Core::start(&bench.programs, scratch.path())?;
    let token = core.token(SENDERS as usize)?;
    let bytes = bench.size(100 * MIB);
    let mut devices = Vec::new();
    for number in 0..SENDERS {
        let name = format!("sender-{number}");
        let data = scratch.path().join("data").join(&name);
        fs::create_dir_all(&data)?;
        corpus::noise(&data.join("part.bin"), bytes, number + 1)?;
        let device = Device::join(&bench.programs, scratch.path(), &name, &token)?;
        device.output(&["publish", &text(&data), "--dataset", &format!("cam/{name}")])?;
        devices.push(device);
    }
    std::thread::sleep(SETTLED);
    let mut running = Vec::new();
    for device in &devices {
        let mut command = device.command();
        command.args(["sync", "--once", "--json"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        running.push(Guarded(command.spawn()?));
    }
    let mut failed = 0;
    for agent in &mut running {
        failed += u32::from(!agent.0.wait()?.success());
    }
    let peak = memory(core.daemon()?.id())?.peak_bytes;
    let stored = core.json_lines(&["dataset", "list"])?;
    let complete = stored.iter().filter(|row| row["bytes"].as_u64() == Some(bytes)).count();
    report.add(Measured {
        figure: "peak memory of the core, 50 devices sending 100 MiB each",
        place: place.name,
        ours: format!("{}; {complete} datasets complete, {failed} agents failed", mebibytes(peak)),
        baseline: String::new(),
        bar: "≤ 256 MiB",
        reached: Some(peak <= 256 * MIB && complete as u64 == SENDERS && failed == 0),
    });
    Ok(())
}

/// The core for each device that is connected and does nothing.
pub(super) fn idle(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let place = &bench.memory;
    let scratch = place.folder("memory-idle")?;
    let mut core = Core::start(&bench.programs, scratch.path())?;
    let wanted = bench.count(IDLE_DEVICES);
    let token = core.token(wanted as usize)?;
    std::thread::sleep(IDLE_AFTER);
    let before = memory(core.daemon()?.id())?.now_bytes;
    let mut devices = Vec::new();
    while (devices.len() as u64) < wanted && available_bytes()? > RESERVE_BYTES {
        let name = format!("idle-{}", devices.len());
        let mut device = Device::join(&bench.programs, scratch.path(), &name, &token)?;
        device.run()?;
        devices.push(device);
    }
    let count = devices.len() as u64;
    wait_for("all devices to be connected", CONNECTED_WITHIN, || {
        Ok(core.json(&["status"])?["connected"].as_u64().context("the status counts no connections")? >= count)
    })?;
    std::thread::sleep(IDLE_AFTER);
    let after = memory(core.daemon()?.id())?.now_bytes;
    let each = after.saturating_sub(before) / count.max(1);
    let bare = bench.peer(&["idle", "--connections", &count.to_string()])?;
    report.add(Measured {
        figure: "memory of the core per idle connected device",
        place: place.name,
        ours: format!("{:.1} KiB each, {count} devices", each as f64 / 1024.0),
        baseline: format!("bare quinn: {:.1} KiB an end", bare["bytes_per_end"].as_f64().unwrap_or(0.0) / 1024.0),
        bar: "≤ 64 KiB, of 1,000",
        reached: Some(each <= 64 << 10 && count == wanted),
    });
    Ok(())
}
