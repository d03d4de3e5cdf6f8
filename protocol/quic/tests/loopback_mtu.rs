//! What the payload size costs between two processes of one machine. Run it by hand, on a quiet machine:
//!
//! ```text
//! cargo test -p headwater-quic --test loopback_mtu -- --ignored --nocapture
//! ```

mod support;

use std::time::Instant;

use headwater_quic::{ClientOptions, ServerOptions, TransportOptions, connect};

const STREAMS: usize = 8;
const STREAM_BYTES: usize = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn what_the_payload_size_costs() {
    const LARGE: usize = 7 << 20;
    // What a socket gets where net.core.rmem_max was left as it is.
    const USUAL: usize = 212_992;
    for (mtu, gso, socket_buffer_bytes) in [
        (1452, true, LARGE),
        (1452, false, LARGE),
        (6000, true, LARGE),
        (8952, true, LARGE),
        (16_000, true, LARGE),
        (32_000, true, LARGE),
        (65_000, true, LARGE),
        (1452, true, USUAL),
        (8952, true, USUAL),
        (16_000, true, USUAL),
        (32_000, true, USUAL),
        (65_000, true, USUAL),
    ] {
        let transport = TransportOptions { loopback_mtu: mtu, gso, socket_buffer_bytes, ..TransportOptions::default() };
        let server = ServerOptions { transport: transport.clone(), ..ServerOptions::default() };
        let core = support::core_with("core", &server);
        let identity = support::device(&core, "cam-01");
        let options = ClientOptions { transport, ..ClientOptions::default() };
        let (dialled, (accepted, _)) =
            tokio::join!(connect(core.address, &identity, &options), support::session(&core));
        let dialled = dialled.expect("connected");
        let (started, cpu) = (Instant::now(), cpu_s());
        let mut tasks = Vec::new();
        for _ in 0..STREAMS {
            let connection = dialled.clone();
            tasks.push(tokio::spawn(async move {
                let mut stream = connection.open_uni().await.expect("a stream");
                let block = bytes::Bytes::from(vec![7u8; 1 << 20]);
                for _ in 0..STREAM_BYTES >> 20 {
                    stream.write_chunk(block.clone()).await.expect("sent");
                }
                stream.finish().expect("ended");
            }));
            let connection = accepted.clone();
            tasks.push(tokio::spawn(async move {
                let mut stream = connection.accept_uni().await.expect("a stream");
                while stream.read_chunk(1 << 20, true).await.expect("received").is_some() {}
            }));
        }
        for task in tasks {
            task.await.expect("ran");
        }
        let (took, cpu) = (started.elapsed().as_secs_f64(), cpu_s() - cpu);
        let megabytes = (STREAMS * STREAM_BYTES) as f64 / 1e6;
        let stats = dialled.stats();
        eprintln!(
            "payload {mtu:>5}, gso {gso:>5}, socket buffer {socket_buffer_bytes:>7}: {:>6.0} MB/s, {:>5.2} CPU s/GB, {} of {} packets lost, mtu at the end {}",
            megabytes / took,
            cpu / megabytes * 1e3,
            stats.path.lost_packets,
            stats.path.sent_packets,
            stats.path.current_mtu
        );
    }
}

/// Processor time of this process so far, in seconds.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit_once(')').expect("a name in parentheses").1;
    let fields: Vec<_> = after_name.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime");
    ticks / 100.0
}
