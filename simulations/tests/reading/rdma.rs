//! Over RDMA, on a machine with a verbs device: in the lab's guest, whose device is a Soft-RoCE one on the network interface `e0`.

use std::process::Command;
use std::time::{Duration, Instant};

use headwater_client::{Client, Options};

use crate::support::{Files, core_with_settings, import, mixed, noise, read_all, reader_token, samples};

const TRUSTED: &str = "[serving]\ntrusted_network = true\n";

async fn client(token: &str) -> Client {
    Client::connect(Options::of_token(token, None).expect("a token")).await.expect("connected")
}

fn set_link(state: &str) {
    let status = Command::new("ip").args(["link", "set", "e0", state]).status().expect("ip runs");
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an RDMA device: `cargo xtask lab rdma`"]
async fn every_sample_comes_over_rdma() {
    let files = mixed();
    let core = core_with_settings(&files, TRUSTED);
    let client = client(&reader_token(&core, "**")).await;
    let dataset = client.dataset("lab/data").await.expect("opened");
    read_all(&dataset, &samples(&files)).await;
    read_all(&dataset, &samples(&files)).await;
    let stats = client.stats().await;
    assert_eq!((stats.transport, stats.transport_reason, stats.mismatches), (Some("rdma"), None, 0));
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an RDMA device: `cargo xtask lab rdma`"]
async fn an_untrusted_network_is_read_over_tcp() {
    let core = core_with_settings(&mixed(), "");
    let client = client(&reader_token(&core, "**")).await;
    let dataset = client.dataset("lab/data").await.expect("opened");
    dataset.read(&[0, 1]).await.expect("read");
    let stats = client.stats().await;
    assert_eq!(stats.transport, Some("tcp"));
    assert!(stats.transport_reason.is_some_and(|why| why.contains("trusted_network")));
}

/// What is under way when the port goes down, and all after it, comes over TCP: no sample is lost, none comes twice.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an RDMA device: `cargo xtask lab rdma`"]
async fn a_port_that_goes_down_costs_nothing_but_time() {
    let files: Files = (0..3_000u64).map(|number| (format!("{number:05}.bin"), noise(number, 4_000))).collect();
    let core = core_with_settings(&files, TRUSTED);
    let client = client(&reader_token(&core, "**")).await;
    let dataset = client.dataset("lab/data").await.expect("opened");
    let all = samples(&files);
    let batches: Vec<Vec<u64>> = (0..all.len() as u64).collect::<Vec<_>>().chunks(50).map(<[u64]>::to_vec).collect();
    let mut reading = dataset.batches(batches.clone(), 4);
    for (index, expected) in batches.iter().enumerate() {
        if index == batches.len() / 2 {
            assert_eq!(client.stats().await.transport, Some("rdma"));
            set_link("down");
        }
        let batch = reading.next().await.expect("a batch").expect("read");
        crate::support::check(&batch, expected, &all);
    }
    let stats = client.stats().await;
    set_link("up");
    assert_eq!((stats.transport, stats.samples), (Some("tcp"), all.len() as u64));
    println!("the job reads over TCP because: {}", stats.transport_reason.expect("a reason"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an RDMA device: `cargo xtask lab rdma`"]
async fn a_core_that_starts_anew_is_read_over_rdma_again() {
    let files = mixed();
    let mut core = core_with_settings(&files, TRUSTED);
    let client = client(&reader_token(&core, "**")).await;
    let dataset = client.dataset("lab/data").await.expect("opened");
    dataset.read(&[0, 1, 2]).await.expect("read");
    core.kill();
    core.run();
    read_all(&dataset, &samples(&files)).await;
    assert_eq!(client.stats().await.transport, Some("rdma"));
}

/// How fast 256 KiB come, for the line beside that of `ib_write_bw`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an RDMA device: `cargo xtask lab rdma`"]
async fn bandwidth() {
    const BYTES: usize = 256 << 10;
    let files: Files = (0..64u64).map(|number| (format!("{number:03}.bin"), noise(number, BYTES))).collect();
    let core = core_with_settings(&files, TRUSTED);
    import(&core, "lab/other", &Files::from([("one".to_owned(), b"1".to_vec())]));
    for verify in [true, false] {
        let mut options = Options::of_token(&reader_token(&core, "**"), None).expect("a token");
        options.verify = verify;
        let client = Client::connect(options).await.expect("connected");
        let dataset = client.dataset("lab/data").await.expect("opened");
        let batches = |rounds: usize| (0..rounds).flat_map(|_| (0..64).map(|number| vec![number])).collect::<Vec<_>>();
        // Into the cache.
        let mut reading = dataset.batches(batches(1), 8);
        while let Some(batch) = reading.next().await {
            batch.expect("read");
        }
        let began = Instant::now();
        let mut reading = dataset.batches(batches(4), 8);
        let mut bytes = 0;
        while let Some(batch) = reading.next().await {
            bytes += batch.expect("read").bytes();
        }
        let rate = bytes as f64 / began.elapsed().max(Duration::from_millis(1)).as_secs_f64() / 1e6;
        let plane = client.stats().await.transport.expect("connected");
        println!("{plane}, 256 KiB a sample, verification {}: {rate:.1} MB/s", if verify { "on" } else { "off" });
    }
}
