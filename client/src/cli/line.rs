//! What a device could do: the rate of its link as the kernel knows it, and that of `ib_write_bw` from the device to itself.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use headwater_fabric::planes::RdmaDevice;
use headwater_host::config::HumanBytes;
use headwater_host::error::CodedError;
use headwater_quic::work;
use serde_json::json;

use super::say;

/// The program, of the package `perftest`.
const PROGRAM: &str = "ib_write_bw";
/// Bytes of each of its writes: as much as a sample of 256 KiB.
const WRITE_BYTES: u32 = 256 << 10;
/// For how long it writes, in seconds.
const SECONDS: u32 = 3;
/// How long its listening half needs until it listens.
const LISTENS_AFTER: Duration = Duration::from_secs(1);
/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Bytes of a megabyte as the program counts them.
const MB: f64 = (1 << 20) as f64;

/// Says what `bytes_s` over `device` are beside what it could do.
pub(super) async fn compare(device: &RdmaDevice, bytes_s: f64, json: bool) -> Result<(), CodedError> {
    if let Some(line) = line_rate(device) {
        let document = json!({ "line_bytes_per_s": line, "share_of_line": bytes_s / line });
        let said = format!("{:.0} % of the link's {}/s", bytes_s / line * 100.0, HumanBytes(line as u64));
        say(json, &document, &said)?;
    }
    let of = device.clone();
    let measured = work::spawn_blocking(move || itself(&of)).await;
    match measured.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(writes) => {
            let document = json!({ "ib_write_bw_bytes_per_s": writes, "share_of_ib_write_bw": bytes_s / writes });
            let said = format!(
                "{:.0} % of {PROGRAM}, which moves {}/s from {} to itself",
                bytes_s / writes * 100.0,
                HumanBytes(writes as u64),
                device.name
            );
            say(json, &document, &said)
        }
        Err(why) => {
            let document = json!({ "ib_write_bw_bytes_per_s": null, "ib_write_bw_reason": why });
            say(json, &document, &format!("nothing of {PROGRAM} to compare with: {why}"))
        }
    }
}

/// Bytes a second of the device's link.
fn line_rate(device: &RdmaDevice) -> Option<f64> {
    let file = format!("/sys/class/infiniband/{}/ports/{}/rate", device.name, device.port);
    parse_rate(&std::fs::read_to_string(Path::new(&file)).ok()?)
}

/// Reads `100 Gb/sec (4X EDR)`.
fn parse_rate(text: &str) -> Option<f64> {
    let (number, rest) = text.trim().split_once(' ')?;
    let number: f64 = number.parse().ok()?;
    (rest.starts_with("Gb/sec") && number > 0.0).then_some(number * 1e9 / 8.0)
}

/// Lets the program write from the device to itself; bytes a second. Blocks for some seconds.
fn itself(device: &RdmaDevice) -> Result<f64, String> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "it is not installed (package `perftest`)".to_owned(),
        _ => error.to_string(),
    };
    // The halves find one another over TCP, on a port that is free now.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr()).map_err(failed)?.port();
    let half = || {
        let mut command = Command::new(PROGRAM);
        command.args(["-d", &device.name, "-i", &device.port.to_string(), "-x", &device.gid_index.to_string()]);
        command.args(["-s", &WRITE_BYTES.to_string(), "-D", &SECONDS.to_string(), "-p", &port.to_string(), "-F"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let mut listens = half().spawn().map_err(failed)?;
    std::thread::sleep(LISTENS_AFTER);
    let said = half().arg("127.0.0.1").spawn().and_then(within_limit);
    // It has ended by itself where all went well.
    let _ = listens.kill();
    let _ = listens.wait();
    let Output { stdout, stderr, .. } = said.map_err(failed)?;
    parse_bandwidth(&String::from_utf8_lossy(&stdout)).ok_or_else(|| {
        let stderr = String::from_utf8_lossy(&stderr);
        let line = stderr.lines().map(str::trim).find(|line| !line.is_empty());
        format!("it says: {}", line.unwrap_or("nothing that is a rate"))
    })
}

/// What a child said until its end, which comes at the limit at the latest.
fn within_limit(mut child: Child) -> std::io::Result<Output> {
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        if began.elapsed() > LIMIT {
            child.kill()?;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    child.wait_with_output()
}

/// The average of the last line of figures: bytes of a write, writes, peak, average, messages a second.
fn parse_bandwidth(said: &str) -> Option<f64> {
    let figures = |line: &str| -> Option<Vec<f64>> { line.split_whitespace().map(|word| word.parse().ok()).collect() };
    let figures = said.lines().filter_map(figures).rfind(|figures| figures.len() == 5)?;
    (figures[0] as u32 == WRITE_BYTES && figures[3] > 0.0).then_some(figures[3] * MB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_printed() {
        assert_eq!(parse_rate("100 Gb/sec (4X EDR)\n"), Some(12.5e9));
        assert_eq!(parse_rate("2.5 Gb/sec (1X SDR)"), Some(312.5e6));
        assert_eq!(parse_rate("0 Gb/sec"), None);
        assert_eq!(parse_rate("fast"), None);
        let said = " #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]\n\
                    \u{20}262144     400              0.00               31.35              0.000125\n---\n";
        assert_eq!(parse_bandwidth(said), Some(31.35 * MB));
        assert_eq!(parse_bandwidth("Couldn't connect to 127.0.0.1"), None);
    }
}
