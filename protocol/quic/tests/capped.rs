//! The caps of an agent's socket and of what a core sends one device, measured behind it: a relay between agent and core notes
//! what passes and when.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use headwater_quic::{Arrival, ClientOptions, Downstream, Identity, TransportOptions, WireMeter, connect};
use quinn::Connection;
use support::{Core, arrival, core, device, quick, session};
use tokio::net::UdpSocket;

/// Headers of IPv4 and UDP.
const HEADER_BYTES: u64 = 28;
const SECOND: Duration = Duration::from_secs(1);

type Passed = Arc<Mutex<Vec<(Instant, u64)>>>;

/// Passes datagrams on between whoever writes to it and the core; gives its address and what it took from the agent.
async fn relay(core: SocketAddr) -> (SocketAddr, Passed) {
    let (address, up, _) = relay_both(core).await;
    (address, up)
}

/// The same, and what it took from the core.
async fn relay_both(core: SocketAddr) -> (SocketAddr, Passed, Passed) {
    let (front, back) =
        (UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await);
    let (front, back) = (front.expect("a socket"), back.expect("a socket"));
    let (address, passed, came) = (front.local_addr().expect("bound"), Passed::default(), Passed::default());
    let (notes, notes_down) = (Arc::clone(&passed), Arc::clone(&came));
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
                    notes_down.lock().expect("held").push((Instant::now(), length as u64 + HEADER_BYTES));
                    if let Some(agent) = agent {
                        let _ = front.send_to(&down[..length], agent).await;
                    }
                }
            }
        }
    });
    (address, passed, came)
}

fn most_in_a_second(passed: &[(Instant, u64)]) -> u64 {
    most_within(SECOND, passed)
}

fn most_within(span: Duration, passed: &[(Instant, u64)]) -> u64 {
    let from = |index: usize| {
        let within = passed[index..].iter().take_while(|(at, _)| at.duration_since(passed[index].0) < span);
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

/// Connects a device through a relay; gives both ends, and what the relay took from the core.
async fn connect_through_relay(core: &Core, identity: &Identity) -> (Connection, Connection, Downstream, Passed) {
    let (address, _, came) = relay_both(core.address).await;
    let transport = TransportOptions { loopback_mtu: 1452, ..quick().transport };
    let options = ClientOptions { transport, ..quick() };
    let (dialled, arrived) = tokio::join!(connect(address, identity, &options), arrival(core));
    let Ok(Arrival::Session { connection, downstream, .. }) = arrived else { panic!("no session: {arrived:?}") };
    (dialled.expect("connected"), connection, downstream, came)
}

/// Sends for so long as much as goes; gives what arrived.
async fn send_for(span: Duration, from: &Connection, to: &Connection) -> usize {
    let (mut send, to) = (from.open_uni().await.expect("a stream"), to.clone());
    let sending = async move {
        let piece = vec![7u8; 1 << 16];
        while send.write_all(&piece).await.is_ok() {}
    };
    let reading = async move {
        let (mut receive, mut sum) = (to.accept_uni().await.expect("a stream"), 0);
        let until = tokio::time::Instant::now() + span;
        while let Ok(Ok(Some(chunk))) = tokio::time::timeout_at(until, receive.read_chunk(1 << 16, true)).await {
            sum += chunk.bytes.len();
        }
        sum
    };
    tokio::select! {
        sum = reading => sum,
        () = sending => panic!("the connection broke"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_sends_a_device_no_more_than_its_cap_and_others_what_goes() {
    const CAP: u64 = 100_000;
    const SPAN: Duration = Duration::from_secs(12);
    let core = core("core");
    let capped = device(&core, "capped");
    let (free_far, free_near, _, _) = connect_through_relay(&core, &device(&core, "free")).await;
    let (far, near, down, came) = connect_through_relay(&core, &capped).await;
    let (other_far, other_near, _, other_came) = connect_through_relay(&core, &capped).await;
    down.set_cap(Some(CAP));
    let before = [&came, &other_came].map(|came| came.lock().expect("held").len());
    let (one, other, free) = tokio::join!(
        send_for(SPAN, &near, &far),
        send_for(SPAN, &other_near, &other_far),
        send_for(SPAN, &free_near, &free_far)
    );
    let mut passed = came.lock().expect("held")[before[0]..].to_vec();
    passed.extend_from_slice(&other_came.lock().expect("held")[before[1]..]);
    passed.sort_unstable();
    let most = most_within(10 * SECOND, &passed);
    assert!(one.min(other) > 0, "one of two connections got nothing: {one} and {other}");
    // The relay may see together what left apart, but not much of ten seconds.
    assert!(most <= 10 * CAP * 105 / 100, "{most} bytes came in ten seconds, under a cap of {CAP} each");
    assert!(most >= 10 * CAP * 85 / 100, "only {most} bytes came in ten seconds, under a cap of {CAP} each");
    assert!(free as u64 > 10 * SPAN.as_secs() * CAP, "a device without a cap got only {free} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_urgent_overtakes_bulk_under_a_cap_of_what_comes() {
    const CAP: u64 = 20_000;
    let core = core("core");
    let (far, near, down, _) = connect_through_relay(&core, &device(&core, "capped")).await;
    down.set_cap(Some(CAP));
    let mut bulk = near.open_uni().await.expect("a stream");
    // Minutes of the cap, all given to the connection.
    let sending = tokio::spawn(async move { bulk.write_all(&vec![7u8; 4 << 20]).await });
    let _bulk = far.accept_uni().await.expect("a stream");
    tokio::time::sleep(2 * SECOND).await;
    let mut urgent = near.open_uni().await.expect("a stream");
    urgent.set_priority(1).expect("open");
    urgent.write_all(b"now").await.expect("sent");
    urgent.finish().expect("ended");
    let began = Instant::now();
    let mut receive = far.accept_uni().await.expect("a stream");
    assert_eq!(receive.read_to_end(10).await.expect("read"), b"now");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "it took {took:?}, as if it had waited for the bulk");
    sending.abort();
}
