//! How fast a version moves on loopback, beside bare quinn. Not run by default: `cargo test -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

const FILES: u64 = 128;
const FILE_BYTES: usize = 4 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_version_beside_bare_quinn() {
    let folder: memory::Folder =
        (0..FILES).map(|number| (format!("{number:03}.bin"), memory::noise(number, FILE_BYTES))).collect();
    let version = Version::of(&folder);
    let bytes = version.manifest.totals().bytes;
    for _ in 0..3 {
        let mut pair = pair().await;
        let (started, before) = (Instant::now(), cpu_s());
        let (sent, received) = publish(&mut pair, &version, &Store::default()).await;
        sent.expect("sent");
        received.expect("received");
        let rate = bytes as f64 / started.elapsed().as_secs_f64() / 1e6;
        let (ours, before) = (cpu_s() - before, cpu_s());
        let bare = bare(&pair, bytes).await;
        let gigabytes = bytes as f64 / 1e9;
        let (ours, theirs) = (ours / gigabytes, (cpu_s() - before) / gigabytes);
        eprintln!("a version: {rate:.0} MB/s, {ours:.2} CPU s/GB; bare stream: {bare:.0} MB/s, {theirs:.2} CPU s/GB");
    }
}

/// Bytes over one stream of the same connection, from memory, read and dropped.
async fn bare(pair: &Pair, bytes: u64) -> f64 {
    let (from, to) = (pair.device.0.connection().clone(), pair.core.0.connection().clone());
    let started = Instant::now();
    let send = async {
        let (mut stream, _) = from.open_bi().await.expect("a stream");
        let block = bytes::Bytes::from(memory::noise(1, 1 << 20));
        for _ in 0..bytes >> 20 {
            stream.write_chunk(block.clone()).await.expect("written");
        }
        stream.finish().expect("open");
    };
    let receive = async {
        let (_, mut stream) = to.accept_bi().await.expect("a stream");
        while stream.read_chunk(1 << 20, true).await.expect("read").is_some() {}
    };
    tokio::join!(send, receive);
    bytes as f64 / started.elapsed().as_secs_f64() / 1e6
}

/// Processor time of this process so far, in seconds.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<_> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    let ticks = |field: &str| field.parse::<f64>().expect("a number");
    (ticks(fields[11]) + ticks(fields[12])) / 100.0
}

/// Sessions that are opened and then left alone.
const IDLE_SESSIONS: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn memory_of_idle_sessions() {
    let core = support::core("core");
    let identity = support::device(&core, "cam-01");
    let mut sessions = Vec::new();
    let mut before = 0.0;
    // The first ones pay for what is there once.
    for number in 0..IDLE_SESSIONS + 50 {
        if number == 50 {
            before = resident_kib();
        }
        let (dialled, arrived) = tokio::join!(support::dial(core.address, &identity), support::session(&core));
        let (device, (core_side, _)) = (dialled.expect("connected"), arrived);
        let mut control = ControlStream::open(&device).await.expect("a stream");
        control.send(&Message::Ping(7)).await.expect("sent");
        let mut core_control = ControlStream::accept(&core_side).await.expect("a stream");
        core_control.recv().await.expect("a message");
        let options = SessionOptions::default();
        sessions.push(Session::start(device, control, Side::Dialler, options.clone()));
        sessions.push(Session::start(core_side, core_control, Side::Listener, options));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let each = (resident_kib() - before) / IDLE_SESSIONS as f64;
    eprintln!("{each:.0} KiB for both ends of an idle session, an endpoint at the dialling one included");
    for (handle, _) in &sessions {
        handle.ping().await.expect("it lives");
    }
    let each = (resident_kib() - before) / IDLE_SESSIONS as f64;
    eprintln!("{each:.0} KiB after a ping from each end");
}

/// Memory of this process that is resident, in KiB.
fn resident_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}
