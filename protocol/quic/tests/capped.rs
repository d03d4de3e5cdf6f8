//! The cap of an agent's socket, measured behind it: a relay between agent and core notes what passes and when.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use headwater_quic::{ClientOptions, TransportOptions, WireMeter, connect};
use support::{core, device, quick, session};
use tokio::net::UdpSocket;

/// Headers of IPv4 and UDP.
const HEADER_BYTES: u64 = 28;
const SECOND: Duration = Duration::from_secs(1);

type Passed = Arc<Mutex<Vec<(Instant, u64)>>>;

/// Passes datagrams on between whoever writes to it and the core; gives its address and what it took from the agent.
async fn relay(core: SocketAddr) -> (SocketAddr, Passed) {
    let (front, back) =
        (UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await);
    let (front, back) = (front.expect("a socket"), back.expect("a socket"));
    let (address, passed) = (front.local_addr().expect("bound"), Passed::default());
    let notes = Arc::clone(&passed);
    tokio::spawn(async move {
        let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
        let mut agent = None;
        loop {
            tokio::select! {
                Ok((length, from)) = front.recv_from(&mut up) => {
                    notes.lock().expect("held").push((Instant::now(), length as u64 + HEADER_BYTES));
                    agent = Some(from);
                    let _ = back.send_to(&up[..length], core).await;
                }
                Ok((length, _)) = back.recv_from(&mut down) => {
                    if let Some(agent) = agent {
                        let _ = front.send_to(&down[..length], agent).await;
                    }
                }
            }
        }
    });
    (address, passed)
}

fn most_in_a_second(passed: &[(Instant, u64)]) -> u64 {
    let from = |index: usize| {
        let within = passed[index..].iter().take_while(|(at, _)| at.duration_since(passed[index].0) < SECOND);
        within.map(|(_, bytes)| bytes).sum()
    };
    (0..passed.len()).map(from).max().unwrap_or(0)
}

/// Sends so many bytes to a core under a cap from before the handshake on. Gives the most that passed in any second, the
/// average, and what the meter counted.
async fn send_under(cap: u64, bytes: usize) -> (u64, f64, u64) {
    let core = core("core");
    let (address, passed) = relay(core.address).await;
    let meter = WireMeter::new();
    meter.set_cap(Some(cap));
    let transport = TransportOptions { idle_timeout: Duration::from_secs(30), ..quick().transport };
    let options =
        ClientOptions { meter: Some(meter.clone()), transport, connect_timeout: Duration::from_secs(20), ..quick() };
    let identity = device(&core, "cam-01");
    let (dialled, (accepted, _)) = tokio::join!(connect(address, &identity, &options), session(&core));
    let dialled = dialled.expect("connected");
    let (mut send, reader) = (dialled.open_uni().await.expect("a stream"), accepted.clone());
    let reading = tokio::spawn(async move {
        let mut receive = reader.accept_uni().await.expect("a stream");
        receive.read_to_end(1 << 22).await.expect("all of it").len()
    });
    send.write_all(&vec![7u8; bytes]).await.expect("sent");
    send.finish().expect("ended");
    assert_eq!(reading.await.expect("ran"), bytes);
    let passed = passed.lock().expect("held").clone();
    let took = passed[passed.len() - 1].0.duration_since(passed[0].0);
    let sum: u64 = passed.iter().map(|(_, bytes)| bytes).sum();
    (most_in_a_second(&passed), sum as f64 / took.as_secs_f64(), meter.counts().sent_bytes.abs_diff(sum))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_second_on_the_wire_exceeds_the_cap() {
    const CAP: u64 = 100_000;
    // A machine that is busy lets the relay see late, and then together, what left apart: such a run proves nothing.
    for attempt in 1..=5 {
        let (most, average, miscounted) = send_under(CAP, 300_000).await;
        // What leaves after the last byte was read may be on its way.
        assert!(miscounted < 5000, "the meter is {miscounted} bytes off");
        assert!(average > CAP as f64 * 0.3, "only {average:.0} bytes a second left under a cap of {CAP}");
        if most <= CAP {
            return;
        }
        assert!(attempt < 5, "{most} bytes passed in a second, under a cap of {CAP}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_cap_has_room_for_the_handshake() {
    let (most, ..) = send_under(1500, 100).await;
    assert!(most <= 2 * 1500, "{most} bytes passed in a second");
}

#[tokio::test]
async fn a_cap_of_nothing_lets_nothing_out() {
    let core = core("core");
    let (address, passed) = relay(core.address).await;
    let meter = WireMeter::new();
    meter.set_cap(Some(0));
    let options = ClientOptions { meter: Some(meter.clone()), ..quick() };
    connect(address, &device(&core, "cam-01"), &options).await.expect_err("nothing got through");
    assert!(passed.lock().expect("held").is_empty());
    assert_eq!(meter.counts().sent_bytes, 0);
}

#[tokio::test]
async fn nothing_is_sent_beyond_a_limit() {
    let core = core("core");
    let (address, _) = relay(core.address).await;
    let meter = WireMeter::new();
    meter.set_limit(Some(2000));
    let options = ClientOptions { meter: Some(meter.clone()), ..quick() };
    connect(address, &device(&core, "cam-01"), &options).await.expect_err("a handshake costs more");
    let sent = meter.counts().sent_bytes;
    assert!((1200..=2000).contains(&sent), "{sent}");
}
