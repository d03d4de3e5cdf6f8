//! What training jobs get: through the `headwater` command and the Python package, beside iperf3 and MosaicML's streaming.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::report::{Measured, Report};
use super::{Bench, Scratch, corpus};
use crate::process::{on_path, output, root, run as run_command, target_dir};
use crate::world::Core;
use crate::{setup, wheel};

/// The cache holds what is measured, and the network is this machine's own.
const SETTINGS: &str = "\n[memory]\ncache = \"1GiB\"\n\n[serving]\ntrusted_network = true\n";
/// How often a start is timed; the middle one counts.
const STARTS: usize = 5;
const SECONDS: &str = "5";

/// A core with one dataset, and a token that reads it.
struct Served {
    _core: Core,
    _scratch: Scratch,
    token: PathBuf,
    programs: PathBuf,
    samples: u64,
}

impl Served {
    /// `count` samples of `bytes` incompressible bytes, a file each, in the memory-backed folder.
    fn new(bench: &Bench, count: u64, bytes: u64) -> anyhow::Result<Self> {
        let fill = |data: &Path| {
            for number in 0..count {
                let folder = data.join(format!("{:04}", number / 1000));
                if number.is_multiple_of(1000) {
                    fs::create_dir_all(&folder)?;
                }
                corpus::noise(&folder.join(format!("{number:07}.img")), bytes, number)?;
            }
            Ok(())
        };
        Self::of(bench, count, fill, &[])
    }

    /// The same as records of one file.
    fn records(bench: &Bench, count: u64, bytes: u64) -> anyhow::Result<Self> {
        let fill = |data: &Path| {
            fs::create_dir_all(data)?;
            corpus::noise(&data.join("records.bin"), count * bytes, 1)
        };
        Self::of(bench, count, fill, &["--samples", &format!("records:{bytes}")])
    }

    fn of(
        bench: &Bench,
        samples: u64,
        fill: impl FnOnce(&Path) -> anyhow::Result<()>,
        rule: &[&str],
    ) -> anyhow::Result<Self> {
        let scratch = bench.memory.folder("training")?;
        let data = scratch.path().join("data");
        fill(&data)?;
        let core = Core::start_with(&bench.programs, scratch.path(), SETTINGS)?;
        let folder = data.to_str().context("a folder's name is text")?;
        output(core.command().args(["import", folder, "--dataset", "bench/data"]).args(rule))?;
        fs::remove_dir_all(&data)?;
        let token = core.reader_token()?;
        let programs = bench.programs.core.parent().context("programs lie in a folder")?.to_owned();
        Ok(Self { _core: core, _scratch: scratch, token, programs, samples })
    }

    /// `headwater bench` of it.
    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("headwater"));
        command.args(["bench", "bench/data@latest", "--json", "--seconds", SECONDS]).args(arguments);
        command.env("HEADWATER_TOKEN_FILE", &self.token);
        command
    }

    /// The script of Python with the package.
    fn python(&self, python: &Path, arguments: &[&str]) -> anyhow::Result<Value> {
        peer(python, &[&["--dataset", "bench/data@latest"], arguments].concat(), Some(&self.token))
    }
}

fn peer(python: &Path, arguments: &[&str], token: Option<&Path>) -> anyhow::Result<Value> {
    let mut command = Command::new(python);
    command.arg(root().join("simulations/peers/reading.py")).args(arguments).stderr(Stdio::null());
    if let Some(token) = token {
        command.env("HEADWATER_TOKEN_FILE", token);
    }
    let text = output(&mut command)?;
    serde_json::from_str(text.lines().last().unwrap_or_default()).with_context(|| format!("the script said `{text}`"))
}

/// An interpreter with our wheel and, where it can be had, streaming.
fn interpreter() -> anyhow::Result<(PathBuf, bool)> {
    setup::ensure(&setup::PYTHON)?;
    setup::ensure(&[setup::TORCHVISION])?;
    let environment = target_dir().join("python-peers");
    let python = environment.join("bin/python");
    if !python.is_file() {
        // Debian's torch is the light one; it was built for the numpy before 2.
        run_command(Command::new("/usr/bin/python3").args(["-m", "venv", "--system-site-packages"]).arg(&environment))?;
    }
    let wheel = wheel::build(&target_dir())?;
    let pip =
        |arguments: &[&str]| run_command(Command::new(&python).args(["-m", "pip", "install", "-q"]).args(arguments));
    pip(&["--force-reinstall", "--no-deps", wheel.to_str().context("a wheel's name is text")?])?;
    let has_streaming = pip(&["mosaicml-streaming", "numpy<2"]);
    if let Err(error) = &has_streaming {
        println!("no comparison with streaming: {error:#}");
    }
    Ok((python, has_streaming.is_ok()))
}

fn number(document: &Value, key: &str) -> anyhow::Result<f64> {
    document[key].as_f64().with_context(|| format!("there is no `{key}` in {document}"))
}

/// The line of `headwater bench` for what came after the first pass.
fn warm(text: &str) -> anyhow::Result<Value> {
    let lines = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    lines
        .into_iter()
        .find(|line| line["what"] == "after it")
        .with_context(|| format!("`headwater bench` said `{text}`"))
}

/// Extents of 1 MiB from the resident cache, verified, on a trusted network.
pub(super) fn large(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    setup::ensure(&[setup::IPERF3])?;
    let served = Served::new(bench, 128, 1 << 20)?;
    let said = output(&mut served.client(&["--batch", "4", "--ahead", "4"]))?;
    let rate = number(&warm(&said)?, "bytes_per_s")?;
    let iperf = iperf()?;
    report.add(Measured {
        figure: "TCP, 1 MiB samples from the resident cache, verified, trusted network",
        place: "loopback",
        ours: match iperf {
            Some(iperf) => format!("{:.2} GB/s ({:.2} ×)", rate / 1e9, rate / iperf),
            None => format!("{:.2} GB/s", rate / 1e9),
        },
        baseline: iperf.map_or_else(
            || "iperf3 is not installed".to_owned(),
            |iperf| format!("one iperf3 stream: {:.2} GB/s", iperf / 1e9),
        ),
        bar: "≥ 0.55 ×",
        reached: iperf.map(|iperf| rate >= 0.55 * iperf),
    });
    Ok(())
}

/// Bytes per second of one stream over loopback.
fn iperf() -> anyhow::Result<Option<f64>> {
    if !on_path("iperf3") {
        return Ok(None);
    }
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let mut server = Command::new("iperf3")
        .args(["--server", "--one-off", "--port", &port, "--bind", "127.0.0.1"])
        .stdout(Stdio::null())
        .spawn()?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    let client =
        output(Command::new("iperf3").args(["--client", "127.0.0.1", "--port", &port, "--time", SECONDS, "--json"]));
    let _ = server.kill();
    server.wait()?;
    let said: Value = serde_json::from_str(&client?)?;
    Ok(Some(number(&said["end"]["sum_received"], "bits_per_second")? / 8.0))
}

/// Samples of 784 bytes in batches of 256, in Python, from another process.
pub(super) fn small(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let (python, has_streaming) = interpreter()?;
    let served = Served::new(bench, bench.count(200_000), 784)?;
    let rate = number(&served.python(&python, &["small"])?, "samples_per_s")?;
    let streaming = if has_streaming {
        let shards = bench.memory.folder("shards")?;
        let folder = shards.path().join("small");
        let folder = folder.to_str().context("a folder's name is text")?;
        peer(&python, &["mosaic-write", "--folder", folder, "--samples", "60000", "--bytes", "784"], None)?;
        Some(number(&peer(&python, &["mosaic-small", "--folder", folder], None)?, "samples_per_s")?)
    } else {
        None
    };
    report.add(Measured {
        figure: "784-byte samples, fully shuffled, verified, batches of 256, Python, over TCP",
        place: "loopback",
        ours: format!("{rate:.0}/s"),
        baseline: streaming.map_or_else(
            || "streaming is not installed".to_owned(),
            |rate| format!("streaming from local shards, iterating: {rate:.0}/s"),
        ),
        bar: "≥ 250,000/s",
        reached: Some(rate >= 250_000.0),
    });
    Ok(())
}

/// Samples of 100 KB through a stock `DataLoader` with two workers.
pub(super) fn images(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let (python, has_streaming) = interpreter()?;
    if !has_streaming {
        bail!("there is nothing to compare with");
    }
    let count = bench.count(4000);
    let served = Served::new(bench, count, 100_000)?;
    let ours = served.python(&python, &["images", "--batch", "32"])?;
    drop(served);
    let shards = bench.memory.folder("shards")?;
    let folder = shards.path().join("images");
    let folder = folder.to_str().context("a folder's name is text")?;
    let written = count.to_string();
    peer(&python, &["mosaic-write", "--folder", folder, "--samples", &written, "--bytes", "100000"], None)?;
    let theirs = peer(&python, &["mosaic-images", "--folder", folder, "--batch", "32"], None)?;
    for (epoch, name) in ["100 KB samples, DataLoader with 2 workers, epoch 1", "the same, epoch 2"].iter().enumerate()
    {
        let rate = |said: &Value| said["samples_per_s"][epoch].as_f64().context("two epochs were to be read");
        let (ours, theirs) = (rate(&ours)?, rate(&theirs)?);
        report.add(Measured {
            figure: name,
            place: "loopback",
            ours: format!("{ours:.0}/s ({:.2} ×)", ours / theirs),
            baseline: format!("streaming from local shards: {theirs:.0}/s"),
            bar: "≥ 1 ×",
            reached: Some(ours >= theirs),
        });
    }
    Ok(())
}

/// From nothing to the first batch of a million samples, at the start and far into an epoch.
pub(super) fn start(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let (python, _) = interpreter()?;
    let served = Served::new(bench, bench.count(1_000_000), 64)?;
    let far = (served.samples / 10 * 9).to_string();
    let middle = |arguments: &[&str]| -> anyhow::Result<f64> {
        let mut starts = (0..STARTS)
            .map(|_| number(&served.python(&python, arguments)?, "seconds"))
            .collect::<anyhow::Result<Vec<_>>>()?;
        starts.sort_by(f64::total_cmp);
        Ok(starts[STARTS / 2])
    };
    // The first one ever also has the core look at the pages.
    let first = middle(&["start"])?;
    let resumed = middle(&["start", "--start", &far])?;
    report.add(Measured {
        figure: "first batch of 256 of 1,000,000 samples, cold client",
        place: "loopback",
        ours: format!("{:.0} ms", first * 1e3),
        baseline: format!("middle of {STARTS}, connecting included"),
        bar: "≤ 300 ms",
        reached: Some(first <= 0.3),
    });
    report.add(Measured {
        figure: "resumed at sample 900,000 of them",
        place: "loopback",
        ours: format!("{:.0} ms", resumed * 1e3),
        baseline: format!("a start: {:.0} ms", first * 1e3),
        bar: "≤ 50 ms more",
        reached: Some(resumed <= first + 0.05),
    });
    Ok(())
}

/// What a client takes that reads ten million samples.
pub(super) fn client_memory(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    let (python, _) = interpreter()?;
    let served = Served::records(bench, bench.count(10_000_000), 16)?;
    let said = served.python(&python, &["start"])?;
    let grown = number(&said, "grown_bytes")?;
    report.add(Measured {
        figure: "memory of a client of 10,000,000 samples, its receive buffers included",
        place: "loopback",
        ours: format!("{:.1} MiB", grown / f64::from(1 << 20)),
        baseline: format!("beyond Python with the package; {} samples there", said["samples"]),
        bar: "≤ 64 MiB beyond the buffers",
        reached: Some(grown <= 64.0 * f64::from(1 << 20)),
    });
    Ok(())
}

/// Two hundred sessions in four processes.
pub(super) fn many(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    const PROCESSES: usize = 4;
    const SESSIONS: usize = 50;
    let served = Served::new(bench, bench.count(4000), 100_000)?;
    let load = ["--batch", "16", "--ahead", "2"];
    let one = number(&warm(&output(&mut served.client(&load))?)?, "bytes_per_s")?;
    let sessions = SESSIONS.to_string();
    let readers = (0..PROCESSES)
        .map(|_| {
            let mut command = served.client(&load);
            command.args(["--sessions", &sessions]).stdout(Stdio::piped());
            Ok(command.spawn()?)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut rates = Vec::new();
    for reader in readers {
        let output = reader.wait_with_output()?;
        let said = warm(&String::from_utf8_lossy(&output.stdout))?;
        let found = said["bytes_per_s_of_sessions"].as_array().context("each session's rate was to be said")?;
        rates.extend(found.iter().filter_map(Value::as_f64));
    }
    let sum: f64 = rates.iter().sum();
    let mean = sum / rates.len() as f64;
    let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
    if rates.len() != PROCESSES * SESSIONS {
        bail!("{} sessions read, of {}", rates.len(), PROCESSES * SESSIONS);
    }
    report.add(Measured {
        figure: "200 sessions in 4 processes at once, 100 KB samples: their sum",
        place: "loopback",
        ours: format!("{:.2} GB/s ({:.2} ×)", sum / 1e9, sum / one),
        baseline: format!("one session: {:.2} GB/s", one / 1e9),
        bar: "≥ 0.9 ×",
        reached: Some(sum >= 0.9 * one),
    });
    report.add(Measured {
        figure: "the slowest of them",
        place: "loopback",
        ours: format!("{:.2} MB/s ({:.2} ×)", slowest / 1e6, slowest / mean),
        baseline: format!("their mean: {:.2} MB/s", mean / 1e6),
        bar: "≥ 0.5 ×",
        reached: Some(slowest >= 0.5 * mean),
    });
    Ok(())
}
