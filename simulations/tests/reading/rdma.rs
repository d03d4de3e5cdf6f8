//! Over RDMA, on a machine with a verbs device: in the lab's guest, whose device is a Soft-RoCE one on the network interface `e0`.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use headwater_client::{Client, Dataset, Options};

use simulations::processes::{Daemon, Program, program, run, wait_for};

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

/// A process whose memory may not be locked can register no receive buffer.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an RDMA device: `cargo xtask lab rdma`"]
async fn a_job_that_may_not_lock_memory_reads_over_tcp() {
    let files = mixed();
    let core = core_with_settings(&files, TRUSTED);
    // The superuser may lock whatever the limit says.
    let script = "ulimit -l 64; exec \"$0\" bench lab/data --seconds 1 --json";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(program(Program::Client)).uid(65534).env("HOME", "/");
    command.env("HEADWATER_TOKEN", reader_token(&core, "**"));
    let said = run(command).success().documents().pop().expect("its last word");
    assert_eq!(said["transport"], "tcp", "{said}");
    let why = said["transport_reason"].as_str().expect("a reason");
    assert!(why.contains("ulimit -l"), "{why}");
}

/// What the device could do by itself stands beside what came of it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an RDMA device: `cargo xtask lab rdma`"]
async fn a_bench_has_the_device_s_own_rate_beside_it() {
    let core = core_with_settings(&mixed(), TRUSTED);
    let said = |arguments: &[&str]| {
        let mut command = Command::new(program(Program::Client));
        command.args(arguments).env("HEADWATER_TOKEN", reader_token(&core, "**"));
        run(command).success()
    };
    let measured = said(&["bench", "lab/data", "--seconds", "1", "--json"]).documents();
    let of = |key: &str| measured.iter().find_map(|document| document[key].as_f64());
    let (share, writes) = (of("share_of_ib_write_bw"), of("ib_write_bw_bytes_per_s"));
    assert!(share.is_some_and(|share| share > 0.0) && writes > Some(1e6), "{measured:?}");
    assert!(of("share_of_line").is_some(), "{measured:?}");
    let doctor = said(&["doctor"]).stdout;
    assert!(doctor.contains("rxe0 port 1, GID"), "{doctor}");
}

/// A job that is killed while the device writes into its memory: the core lets go of it at once, and serves others.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an RDMA device: `cargo xtask lab rdma`"]
async fn a_killed_job_leaves_nothing_behind() {
    let files = mixed();
    let core = core_with_settings(&files, TRUSTED);
    let token = reader_token(&core, "**");
    let mut command = Command::new(program(Program::Client));
    command.args(["bench", "lab/data", "--seconds", "600"]).env("HEADWATER_TOKEN", &token);
    let job = Daemon::start(command, &core.scratch().join("job.log"));
    wait_for("the job to read", || core.log().contains("plane=\"rdma\"").then_some(()));
    job.kill();
    let begun = Instant::now();
    let sessions = || core.ask(&["status"])["sessions"].as_array().map_or(0, Vec::len);
    wait_for("the core to notice", || (sessions() == 0).then_some(()));
    println!("the core noticed the killed job after {:.0?}, with the time of asking it", begun.elapsed());
    let client = client(&token).await;
    let dataset = client.dataset("lab/data").await.expect("opened");
    read_all(&dataset, &samples(&files)).await;
    assert_eq!(client.stats().await.transport, Some("rdma"));
}

/// Bytes of what is read for figures, and how many of them there are.
const LARGE_BYTES: usize = 256 << 10;
const LARGE: u64 = 64;
/// Reads that are under way at once.
const AHEAD: usize = 8;

/// Files of noise, all of one size.
fn files(count: u64, bytes: usize) -> Files {
    (0..count).map(|number| (format!("{number:03}.bin"), noise(number, bytes))).collect()
}

/// Reads over RDMA for a while, for who looks at what the processors do meanwhile.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an RDMA device: `cargo xtask lab profile`"]
async fn load() {
    const FOR: Duration = Duration::from_secs(20);
    let core = core_with_settings(&files(LARGE, LARGE_BYTES), TRUSTED);
    let mut options = Options::of_token(&reader_token(&core, "**"), None).expect("a token");
    options.verify = false;
    let client = Client::connect(options).await.expect("connected");
    let dataset = client.dataset("lab/data").await.expect("opened");
    let (began, mut bytes) = (Instant::now(), 0);
    while began.elapsed() < FOR {
        bytes += read_one_by_one(&dataset, LARGE, 1, AHEAD).await;
    }
    println!("{:.1} MB/s", bytes as f64 / began.elapsed().as_secs_f64() / 1e6);
    assert_eq!(client.stats().await.transport, Some("rdma"));
}

/// How fast 256 KiB come, what processor time that takes, and when single samples of 4 KiB are there: over both planes, for the
/// lines beside those of `ib_write_bw`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an RDMA device: `cargo xtask lab rdma`"]
async fn bandwidth() {
    const ROUNDS: u64 = 12;
    const SMALL_BYTES: usize = 4 << 10;
    const SMALL: u64 = 200;
    let core = core_with_settings(&files(LARGE, LARGE_BYTES), TRUSTED);
    import(&core, "lab/small", &files(SMALL, SMALL_BYTES));
    for (over_rdma, verify) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut options = Options::of_token(&reader_token(&core, "**"), None).expect("a token");
        options.rdma.enabled = over_rdma;
        options.verify = verify;
        let client = Client::connect(options).await.expect("connected");
        let large = client.dataset("lab/data").await.expect("opened");
        // Into the cache.
        read_one_by_one(&large, LARGE, 1, AHEAD).await;
        let (began, used) = (Instant::now(), Used::now(core.pid()));
        let bytes = read_one_by_one(&large, LARGE, ROUNDS, AHEAD).await;
        let (took, used) = (began.elapsed().as_secs_f64(), Used::now(core.pid()).since(&used));
        let gib = bytes as f64 / f64::from(1 << 30);

        let small = client.dataset("lab/small").await.expect("opened");
        read_one_by_one(&small, SMALL, 1, AHEAD).await;
        let began = Instant::now();
        read_one_by_one(&small, SMALL, 1, 1).await;
        let latency = began.elapsed() / SMALL as u32;
        println!(
            "{}, {}: 256 KiB at {:.1} MB/s, {:.0} s of processor time a GiB (core {:.0}, job {:.0}, kernel and others {:.0}), 4 KiB in {} µs",
            client.stats().await.transport.expect("connected"),
            if verify { "verified" } else { "not verified" },
            bytes as f64 / took / 1e6,
            used.machine / gib,
            used.core / gib,
            used.job / gib,
            (used.machine - used.core - used.job) / gib,
            latency.as_micros(),
        );
        client.close().await;
    }
}

/// Reads all samples so many times, each in a batch of its own; their bytes.
async fn read_one_by_one(dataset: &Dataset, samples: u64, rounds: u64, ahead: usize) -> usize {
    let batches: Vec<_> = (0..rounds).flat_map(|_| (0..samples).map(|number| vec![number])).collect();
    let mut reading = dataset.batches(batches, ahead);
    let mut bytes = 0;
    while let Some(batch) = reading.next().await {
        bytes += batch.expect("read").bytes();
    }
    bytes
}

/// Seconds of processor time: of user code in the core and in this process, and of all there is.
struct Used {
    core: f64,
    job: f64,
    machine: f64,
}

impl Used {
    fn now(core: u32) -> Self {
        // Linux counts in hundredths of a second, whatever its timer does.
        let of = |file: String, fields: &[usize]| {
            let text = std::fs::read_to_string(&file).expect(&file);
            let numbers: Vec<f64> = text
                .rsplit(')')
                .next()
                .and_then(|rest| rest.lines().next())
                .expect("a line")
                .split_whitespace()
                .map(|field| field.parse().unwrap_or_default())
                .collect();
            fields.iter().map(|&field| numbers[field]).sum::<f64>() / 100.0
        };
        // User time is the 12th field after the name; of the machine: user, nice, system, and both kinds of interrupts.
        let user = |process: String| of(format!("/proc/{process}/stat"), &[11]);
        Self {
            core: user(core.to_string()),
            job: user("self".to_owned()),
            machine: of("/proc/stat".to_owned(), &[1, 2, 3, 6, 7]),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self { core: self.core - before.core, job: self.job - before.job, machine: self.machine - before.machine }
    }
}
