//! Sixty thousand small files: the first sync, one with nothing new, and one with one changed file, against rsync.

use std::fs;

use anyhow::Context as _;
use serde_json::Value;

use super::large::{SETTLED, expect_published, text};
use super::report::{Measured, Report};
use super::rsync::Rsync;
use super::usage::watched;
use super::{Bench, corpus};
use crate::world::{Core, Device};

const FILES: u64 = 60_000;
/// What a changed file may cost beyond its own bytes.
const CHANGE_BYTES_BAR: u64 = 64 << 10;

/// All three figures, in both places.
pub(super) fn all(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    for place in bench.places() {
        let scratch = place.folder("small")?;
        let data = scratch.path().join("data");
        fs::create_dir_all(&data)?;
        let bytes = corpus::pictures(&data, bench.count(FILES))?;
        std::thread::sleep(SETTLED);
        let core = Core::start(&bench.programs, scratch.path())?;
        let device = Device::join(&bench.programs, scratch.path(), "camera", &core.token(1)?)?;
        device.output(&["publish", &text(&data), "--dataset", "cam/camera"])?;
        let sync = || -> anyhow::Result<(Value, f64)> {
            let finished = watched(device.command().args(["sync", "--once", "--json"]))?;
            Ok((serde_json::from_str(&finished.stdout).context("the report is no JSON")?, finished.took.as_secs_f64()))
        };
        let rsync = Rsync::start(scratch.path())?;
        let copy = || rsync.as_ref().map(|rsync| rsync.copy(&data)).transpose();

        let (first, took) = sync()?;
        expect_published(&first, bytes)?;
        compared(report, place.name, "first sync of 60,000 small files, scan included", took, copy()?);
        let (_, took) = sync()?;
        compared(report, place.name, "second sync of them, nothing changed", took, copy()?);

        let changed = data.join("000/00000.png");
        let mut content = fs::read(&changed)?;
        content.extend_from_slice(b"changed");
        fs::write(&changed, &content)?;
        std::thread::sleep(SETTLED);
        let (sync, took) = sync()?;
        let wire = sync["wire"]["udp"].as_u64().context("the report has no bytes on the wire")?;
        let bar = content.len() as u64 + CHANGE_BYTES_BAR;
        report.add(Measured {
            figure: "one changed file of them",
            place: place.name,
            ours: format!("{wire} B of UDP payload both ways, {took:.2} s"),
            baseline: format!("the file: {} B", content.len()),
            bar: "≤ 64 KiB beyond the file, ≤ 1 s",
            reached: Some(wire <= bar && took <= 1.0),
        });
    }
    Ok(())
}

fn compared(report: &mut Report, place: &str, figure: &str, took: f64, rsync: Option<std::time::Duration>) {
    let rsync = rsync.map(|rsync| rsync.as_secs_f64());
    report.add(Measured {
        figure,
        place,
        ours: rsync.map_or_else(|| format!("{took:.2} s"), |rsync| format!("{took:.2} s ({:.2} ×)", took / rsync)),
        baseline: rsync
            .map_or_else(|| "rsync is not installed".to_owned(), |rsync| format!("rsync to its daemon: {rsync:.2} s")),
        bar: "no slower",
        reached: rsync.map(|rsync| took <= rsync),
    });
}
