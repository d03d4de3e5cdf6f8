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
        let started = Instant::now();
        let (sent, received) = publish(&mut pair, &version, &Store::default()).await;
        sent.expect("sent");
        received.expect("received");
        let rate = bytes as f64 / started.elapsed().as_secs_f64() / 1e6;
        let bare = bare(&pair, bytes).await;
        eprintln!("a version: {rate:.0} MB/s, bare stream: {bare:.0} MB/s, {:.2}", rate / bare);
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
