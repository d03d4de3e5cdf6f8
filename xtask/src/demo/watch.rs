//! Seeing how far things are: what the core says of its sessions, datasets and counters, and bars that show it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use super::data::files_under;
use super::show::bytes_text;
use crate::world::Core;

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Bytes of a folder that are looked at to guess how well it compresses.
const SAMPLE_BYTES: u64 = 4 << 20;

/// A folder that a device publishes.
#[derive(Clone)]
pub(super) struct Published {
    pub(super) device: String,
    pub(super) dataset: String,
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// About as many bytes will travel.
    pub(super) wire_estimate: u64,
}

impl Published {
    /// Measures a folder.
    pub(super) fn of(device: &str, dataset: &str, folder: &Path) -> anyhow::Result<Self> {
        let files = files_under(folder)?;
        let mut bytes = 0;
        let mut sample = Vec::new();
        for file in &files {
            let length = fs::metadata(folder.join(file))?.len();
            if bytes < SAMPLE_BYTES {
                fs::File::open(folder.join(file))?.take(SAMPLE_BYTES).read_to_end(&mut sample)?;
            }
            bytes += length;
        }
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&sample)?;
        let packed = packed.finish()?.len() as u64;
        let wire_estimate = (u128::from(bytes) * u128::from(packed) / (sample.len().max(1) as u128)) as u64;
        let (device, dataset) = (device.to_owned(), dataset.to_owned());
        Ok(Self { device, dataset, files: files.len() as u64, bytes, wire_estimate })
    }
}

/// Bytes on the wire and bytes saved, as the core counts them from its start.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub(super) wire_in: u64,
    pub(super) wire_out: u64,
    pub(super) saved_dedup: u64,
    pub(super) saved_delta: u64,
    pub(super) saved_compression: u64,
}

impl Counters {
    /// Reads the core's metrics.
    pub(super) fn read(core: &Core) -> anyhow::Result<Self> {
        let admin =
            core.json(&["status"])?["admin"].as_str().context("the core's status names no admin address")?.to_owned();
        let page = http_get(&admin, "/metrics")?;
        let sum = |name: &str, label: &str| {
            let lines = page.lines().filter(|line| line.starts_with(name) && line.contains(label));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
        };
        let (wire, saved) = ("headwater_core_wire_bytes_total{", "headwater_core_saved_bytes_total{");
        Ok(Self {
            wire_in: sum(wire, "reason=\"received\""),
            wire_out: sum(wire, "direction=\"out\""),
            saved_dedup: sum(saved, "kind=\"dedup\""),
            saved_delta: sum(saved, "kind=\"delta\""),
            saved_compression: sum(saved, "kind=\"compression\""),
        })
    }

    /// What was added since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            wire_in: self.wire_in.saturating_sub(before.wire_in),
            wire_out: self.wire_out.saturating_sub(before.wire_out),
            saved_dedup: self.saved_dedup.saturating_sub(before.saved_dedup),
            saved_delta: self.saved_delta.saturating_sub(before.saved_delta),
            saved_compression: self.saved_compression.saturating_sub(before.saved_compression),
        }
    }
}

/// The body that a web server answers a plain GET with.
fn http_get(address: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("nothing answers at {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| anyhow!("{address} answered no HTTP"))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(anyhow!("{address}{path}: {}", head.lines().next().unwrap_or_default()));
    }
    Ok(body.to_owned())
}

/// A session as the core sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Session {
    pub(super) in_bytes: u64,
    pub(super) out_bytes: u64,
}

/// The connected devices by name. A device that has just been killed may have its old session still: the youngest counts.
pub(super) fn sessions(core: &Core) -> anyhow::Result<BTreeMap<String, Session>> {
    let status = core.json(&["status"])?;
    let mut sessions = BTreeMap::new();
    let mut youngest = BTreeMap::new();
    for row in status["sessions"].as_array().into_iter().flatten() {
        let name = row["device"].as_str().unwrap_or_default().to_owned();
        let since = number(&row["since_s"]);
        if youngest.get(&name).is_none_or(|other| since <= *other) {
            youngest.insert(name.clone(), since);
            sessions.insert(name, Session { in_bytes: number(&row["in_bytes"]), out_bytes: number(&row["out_bytes"]) });
        }
    }
    Ok(sessions)
}

/// The number of the newest version of a dataset; 0 where there is none.
pub(super) fn number_of(core: &Core, dataset: &str) -> anyhow::Result<u64> {
    Ok(datasets(core)?.get(dataset).map_or(0, |row| number(&row["number"])))
}

fn datasets(core: &Core) -> anyhow::Result<BTreeMap<String, Value>> {
    let rows = core.json_lines(&["dataset", "list"])?;
    Ok(rows.into_iter().map(|row| (row["name"].as_str().unwrap_or_default().to_owned(), row)).collect())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Bars on a terminal, lines elsewhere: how much of each folder the core has.
pub(super) struct Progress {
    published: Vec<Published>,
    bars: Vec<ProgressBar>,
    group: MultiProgress,
    arrived: Vec<u64>,
    done: Vec<bool>,
    on_terminal: bool,
    last_line: Instant,
}

impl Progress {
    pub(super) fn new(published: &[Published]) -> Self {
        let group = MultiProgress::new();
        let bars = published.iter().map(|one| group.add(bar(&one.device, one.wire_estimate))).collect();
        Self {
            published: published.to_vec(),
            bars,
            group,
            arrived: vec![0; published.len()],
            done: vec![false; published.len()],
            on_terminal: std::io::stderr().is_terminal(),
            last_line: Instant::now(),
        }
    }

    /// Asks the core, and says whether it has everything.
    pub(super) fn look(&mut self, core: &Core) -> anyhow::Result<bool> {
        let sessions = sessions(core)?;
        let datasets = datasets(core)?;
        for (index, one) in self.published.iter().enumerate() {
            self.arrived[index] = sessions.get(&one.device).map_or(0, |session| session.in_bytes);
            let row = datasets.get(&one.dataset);
            self.done[index] =
                row.is_some_and(|row| number(&row["bytes"]) == one.bytes && number(&row["files"]) >= one.files);
            let shown = if self.done[index] { one.wire_estimate } else { self.arrived[index].min(one.wire_estimate) };
            self.bars[index].set_position(shown);
            if self.done[index] {
                self.bars[index].finish();
            }
        }
        if !self.on_terminal && self.last_line.elapsed() > LINE_EVERY {
            self.last_line = Instant::now();
            let parts = self.published.iter().zip(&self.arrived).map(|(one, arrived)| {
                format!("{} {} %", one.device, 100 * (*arrived).min(one.wire_estimate) / one.wire_estimate.max(1))
            });
            println!("  {}", parts.collect::<Vec<_>>().join(", "));
        }
        Ok(self.done.iter().all(|done| *done))
    }

    /// Bytes that have arrived from a device in its present session.
    pub(super) fn arrived(&self, index: usize) -> u64 {
        self.arrived[index]
    }

    /// Whether the core has committed all of a device's folder.
    pub(super) fn is_done(&self, index: usize) -> bool {
        self.done[index]
    }

    /// A line between the bars.
    pub(super) fn note(&self, line: &str) {
        if self.on_terminal {
            // What can't be shown on the terminal is in the summary.
            let _ = self.group.println(line);
        } else {
            println!("  {line}");
        }
    }

    pub(super) fn finish(&self) {
        self.bars.iter().for_each(ProgressBar::finish);
        let total: u64 = self.published.iter().map(|one| one.bytes).sum();
        println!("the core has all {}", bytes_text(total));
    }
}

/// The bar of the subscriber.
pub(super) struct Fetching {
    bar: ProgressBar,
}

impl Fetching {
    pub(super) fn new(bytes: u64) -> Self {
        Self { bar: bar("reader", bytes) }
    }

    pub(super) fn look(&self, core: &Core, device: &str) -> anyhow::Result<()> {
        let sent = sessions(core)?.get(device).map_or(0, |session| session.out_bytes);
        self.bar.set_position(sent.min(self.bar.length().unwrap_or(0)));
        Ok(())
    }

    pub(super) fn finish(&self) {
        self.bar.finish();
    }
}

fn bar(name: &str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("  {prefix:8} {bar:40} {bytes:>10} of about {total_bytes}")
        .expect("the template is a constant");
    ProgressBar::new(length).with_style(style).with_prefix(name.to_owned())
}
