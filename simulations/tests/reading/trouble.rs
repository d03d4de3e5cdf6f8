//! What goes wrong around a job: damage on disk, a core that dies, a token that is withdrawn, a client that is killed, and
//! strangers at the data port.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headwater_client::{Client, Options};
use headwater_fabric::tcp::Hello;
use headwater_host::error::codes;
use simulations::processes::{CoreProcess, Program, Relay, program, wait_for};

use crate::support::{
    Files, check, client, connect, core_with, core_with_settings, import, mixed, noise, read_all, reader_token, samples,
};

/// Changes a byte of the first place in the packs that holds `bytes`.
fn damage(core: &CoreProcess, bytes: &[u8]) {
    for entry in fs::read_dir(core.data().join("packs")).expect("listed") {
        let path = entry.expect("an entry").path();
        let mut pack = fs::read(&path).expect("read");
        if let Some(at) = pack.windows(bytes.len()).position(|window| window == bytes) {
            pack[at + bytes.len() / 2] ^= 0x55;
            fs::write(&path, pack).expect("written");
            return;
        }
    }
    panic!("no pack holds these bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_costs_its_own_samples_only() {
    let files = mixed();
    let core = core_with(&files);
    damage(&core, &noise(3, 787));
    let client = client(&core).await;
    let dataset = client.dataset("lab/data").await.expect("opened");
    let all = samples(&files);
    let numbers: Vec<u64> = (0..dataset.len()).collect();
    let mut lost = Vec::new();
    for part in numbers.chunks(100) {
        let batch = dataset.read(part).await.expect("the others come");
        for (index, &number) in part.iter().enumerate() {
            match batch.sample(index) {
                Ok(_) => check(&dataset.read(&[number]).await.expect("read"), &[number], &all),
                Err(error) => {
                    assert!(error.is(&codes::SAMPLE_UNREADABLE) && error.message.contains("lab/data@1"), "{error}");
                    lost.push((all[number as usize][0].0.clone(), error.message));
                }
            }
        }
    }
    assert!(lost.iter().any(|(path, said)| path.starts_with("train/03/00003") && said.contains("train/03/00003")));
    assert!(lost.len() < all.len() / 2, "{} samples share one chunk", lost.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_is_killed_in_between_costs_nothing_but_time() {
    let files = mixed();
    let mut core = core_with(&files);
    let client = client(&core).await;
    let dataset = client.dataset("lab/data").await.expect("opened");
    let all = samples(&files);
    let numbers: Vec<Vec<u64>> = (0..dataset.len()).collect::<Vec<_>>().chunks(20).map(<[u64]>::to_vec).collect();
    let mut batches = dataset.batches(numbers.clone(), 4);
    for (index, expected) in numbers.iter().enumerate() {
        if index == 5 || index == 12 {
            core.kill();
            let (starting, started) = (
                std::thread::spawn(move || {
                    core.run();
                    core
                }),
                batches.next().await,
            );
            check(&started.expect("a batch").expect("read"), expected, &all);
            core = starting.join().expect("it runs again");
            continue;
        }
        check(&batches.next().await.expect("a batch").expect("read"), expected, &all);
    }
    assert_eq!(client.stats().await.connections, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_share_a_token_until_it_is_revoked() {
    let files = mixed();
    let core = core_with(&files);
    let token = core.token(&["--role", "reader", "--read", "lab/**", "--uses", "1"]);
    let mut jobs = Vec::new();
    for _ in 0..5 {
        let client = connect(&token).await;
        let dataset = client.dataset("lab/data").await.expect("opened");
        dataset.read(&[1, 2]).await.expect("read");
        jobs.push((client, dataset));
    }
    core.run_command(&["token", "revoke", &token]).success();
    for (_, dataset) in &jobs {
        let begun = Instant::now();
        let error = loop {
            match dataset.read(&[1, 2]).await {
                Ok(_) => assert!(begun.elapsed() < Duration::from_mins(1), "a revoked job reads on"),
                Err(error) => break error,
            }
        };
        assert!(error.is(&codes::DEVICE_REVOKED), "{error}");
    }
    let late = Client::connect(Options::of_token(&token, None).expect("a token")).await.err().expect("revoked");
    assert!(late.is(&codes::TOKEN_USED_UP), "{late}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_ends_reading() {
    let files = mixed();
    let core = core_with(&files);
    let reader = client(&core).await;
    let dataset = reader.dataset("lab/data").await.expect("opened");
    dataset.read(&[0]).await.expect("read");
    core.run_command(&["dataset", "delete", "lab/data"]).success();
    // What is being read is leased, and read to its end; opened again it is gone.
    dataset.read(&[0]).await.expect("read under the lease");
    let gone = reader.dataset("lab/data").await.err().expect("deleted");
    assert!(gone.is(&codes::NOT_FOUND), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_narrowed_in_mid_job_ends_its_reading_and_no_other() {
    let files = mixed();
    let core = core_with_settings(&files, "[[rules]]\nlabels = { project = \"x\" }\nread = [\"lab/**\"]\n");
    import(&core, "open/data", &Files::from([("a".to_owned(), b"a".to_vec())]));
    let token = core.token(&["--role", "reader", "--read", "open/**", "--label", "project=x"]);
    let job = connect(&token).await;
    let (ruled, open) = (job.dataset("lab/data").await.expect("ruled"), job.dataset("open/data").await.expect("open"));
    ruled.read(&[0]).await.expect("read");
    let devices = core.list(&["device", "list"]);
    let name = devices[0]["name"].as_str().expect("a name").to_owned();
    core.run_command(&["device", "label", &name, "project="]).success();
    let begun = Instant::now();
    let error = loop {
        match ruled.read(&[0]).await {
            Ok(_) => assert!(begun.elapsed() < Duration::from_mins(1), "it reads on"),
            Err(error) => break error,
        }
    };
    // What it may not read looks to it as if there were none.
    assert!(error.is(&codes::NOT_FOUND) && error.message.contains("lab/data"), "{error}");
    open.read(&[0]).await.expect("the rest of its rights stands");
}

/// A relay in front of the core that changes a byte of the first data connection: the job finds that, and asks again.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_were_changed_on_the_way_are_fetched_again() {
    let files = mixed();
    let core = core_with_settings(&files, "[serving]\ntrusted_network = true\n");
    // The core's port at an address that no core of the tests has.
    let IpAddr::V4(ip) = core.address().ip() else { panic!("the core is on loopback") };
    let [first, second, third, fourth] = ip.octets();
    let near = SocketAddr::from(([first, second ^ 64, third, fourth], core.address().port()));
    let (relay, changed) = (Relay::at(near.ip(), core.address()), relay_data(near, core.address(), 1_000_000));
    let mut options = Options::of_token(&reader_token(&core, "**"), None).expect("a token");
    options.token.addresses = vec![relay.address().to_string()];
    let client = Client::connect(options).await.expect("connected");
    let dataset = client.dataset("lab/data").await.expect("opened");
    read_all(&dataset, &samples(&files)).await;
    let stats = client.stats().await;
    assert!(changed.load(Ordering::Relaxed), "nothing was changed");
    assert_eq!((stats.mismatches, stats.connections), (1, 1));
}

/// Carries TCP from `near` to `far`, and changes the byte of the answers that comes after `at` others; whether it has.
fn relay_data(near: SocketAddr, far: SocketAddr, at: usize) -> Arc<AtomicBool> {
    let listener = TcpListener::bind(near).expect("bound");
    let changed = Arc::new(AtomicBool::new(false));
    let done = changed.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut job, done) = (stream.expect("accepted"), done.clone());
            let mut core = TcpStream::connect(far).expect("connected");
            let (mut from_job, mut to_core) = (job.try_clone().expect("cloned"), core.try_clone().expect("cloned"));
            std::thread::spawn(move || std::io::copy(&mut from_job, &mut to_core));
            std::thread::spawn(move || {
                let (mut buffer, mut passed) = (vec![0; 64 * 1024], 0);
                while let Ok(read @ 1..) = core.read(&mut buffer) {
                    if (passed..passed + read).contains(&at) && !done.swap(true, Ordering::Relaxed) {
                        buffer[at - passed] ^= 1;
                    }
                    passed += read;
                    if job.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    changed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_client_leaves_nothing_behind() {
    let files = mixed();
    let core = core_with(&files);
    let mut job = std::process::Command::new(program(Program::Client))
        .args(["bench", "lab/data", "--seconds", "600"])
        .env("HEADWATER_TOKEN", reader_token(&core, "**"))
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("started");
    wait_for("the job to read", || core.log().contains("plane=\"tcp\"").then_some(()));
    let sessions = || core.ask(&["status"])["sessions"].as_array().map_or(0, Vec::len);
    assert_eq!(sessions(), 1);
    job.kill().expect("killed");
    job.wait().expect("a status");
    let begun = Instant::now();
    wait_for("the core to notice", || (sessions() == 0).then_some(()));
    // Far less than until the control connection times out.
    assert!(begun.elapsed() < Duration::from_secs(30), "noticed after {:?}", begun.elapsed());
    assert!(core.log().contains("reads no more"));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_at_the_data_port_get_nothing_and_disturb_nobody() {
    let files = mixed();
    let core = core_with(&files);
    let client = client(&core).await;
    let dataset = client.dataset("lab/data").await.expect("opened");
    let forged = Hello { sealed: true, session: 1, proof: [7; 32] }.encode();
    let open = Hello { sealed: false, session: 1, proof: [7; 32] }.encode();
    for garbage in
        [&b"GET / HTTP/1.1\r\nHost: core\r\nAccept: everything that there is\r\n\r\n"[..], &forged, &open, &[0; 4096]]
    {
        let mut stream = TcpStream::connect(core.address()).expect("connected");
        stream.set_read_timeout(Some(Duration::from_mins(1))).expect("set");
        stream.write_all(garbage).expect("sent");
        let mut said = Vec::new();
        let ended = stream.read_to_end(&mut said);
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
        assert!(said.is_empty(), "a stranger was told {said:?}");
    }
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(core.address()).expect("connected")).collect();
    read_all(&dataset, &samples(&files)).await;
    drop(silent);
}
