//! What a process has used, and what went over loopback, as the kernel counts it.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How often a process's memory is looked at; the kernel keeps the peak, so only growth in the last moment is missed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A command that ran to its end.
pub(super) struct Finished {
    pub(super) stdout: String,
    pub(super) took: Duration,
    pub(super) peak_bytes: u64,
}

/// Runs a command to its end and watches its memory.
pub(super) fn watched(command: &mut Command) -> anyhow::Result<Finished> {
    let line = crate::process::line_of(command);
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let reader = std::thread::spawn(move || std::io::read_to_string(&mut stdout));
    let mut peak_bytes = 0;
    let status = loop {
        peak_bytes = peak_bytes.max(memory(child.id()).map_or(0, |memory| memory.peak_bytes));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    let took = start.elapsed();
    let stdout = reader.join().expect("reading does not panic")?;
    if !status.success() {
        bail!("`{line}` failed: {status}\n{}", stdout.trim_end());
    }
    Ok(Finished { stdout, took, peak_bytes })
}

/// A child that is killed with its owner.
pub(super) struct Guarded(pub(super) Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Memory of a process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// Resident now.
    pub(super) now_bytes: u64,
    /// The most that was resident at once.
    pub(super) peak_bytes: u64,
}

/// The memory of a running process.
pub(super) fn memory(process: u32) -> anyhow::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| -> anyhow::Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kibibytes * 1024)
    };
    Ok(Memory { now_bytes: field("VmRSS:")?, peak_bytes: field("VmHWM:")? })
}

/// Memory that the machine could give.
pub(super) fn available_bytes() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

/// Bytes that loopback has carried, with IP and UDP headers, since the machine started.
pub(super) fn loopback_bytes() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/sys/class/net/lo/statistics/rx_bytes")?;
    Ok(text.trim().parse()?)
}
