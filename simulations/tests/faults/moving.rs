//! Cores and devices that move: the core comes back at another address after a long time, a device gets another one in the
//! middle of a transfer, somebody else answers where the core was.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use simulations::processes::folder::{self, Dice};
use simulations::processes::{CoreProcess, Names, Relay, free_address, wait_for};

use crate::{DATASET, Pair};

/// The name of the core, where a test decides where that leads.
const NAME: &str = "core.headwater.test";
/// How long the core is gone: the waits between tries have grown to seconds by then.
const GONE_FOR: Duration = Duration::from_secs(7);
/// The longest that a list with an address where nobody is may take: less than a try at that address does.
const DEAD_ADDRESS_COSTS_MAX: Duration = Duration::from_secs(15);

/// An address like this one, on another host of loopback.
fn beside(address: SocketAddr) -> SocketAddr {
    let IpAddr::V4(host) = address.ip() else { panic!("tests use IPv4") };
    let [a, b, c, d] = host.octets();
    SocketAddr::from(([a, b ^ 64, c, d], address.port()))
}

/// The version with this number is there.
#[track_caller]
fn wait_for_version(pair: &Pair, number: u64) {
    wait_for("the version", || {
        let rows = pair.core.list(&["dataset", "list"]);
        rows.iter().any(|row| row["number"].as_u64() >= Some(number)).then_some(())
    });
}

#[test]
fn a_core_that_is_gone_for_long_and_comes_back_elsewhere_is_found_by_its_name() {
    if Names::elsewhere("moving::a_core_that_is_gone_for_long_and_comes_back_elsewhere_is_found_by_its_name") {
        return;
    }
    let names = Names::take_over();
    let mut pair = Pair::synced();
    let old = pair.core.address();
    names.lead(NAME, &[old.ip()]);
    pair.publisher.dial(format!("{NAME}:{}", old.port()));
    pair.publisher.run();
    pair.publisher.wait_status("a session", |status| status["link"] == "connected");
    pair.core.stop();
    folder::write(&pair.source.join("backlog.bin"), &Dice::new(31).bytes(3 << 20));
    let publish = ["publish", pair.source.to_str().expect("plain"), "--dataset", DATASET, "--every", "1s"];
    pair.publisher.run_command(&["remove", DATASET]).success();
    pair.publisher.run_command(&publish).success();
    let status = pair.publisher.wait_status("the backlog", |status| status["datasets"][0]["pending"][0] == 2);
    assert_ne!(status["link"], "connected", "{status}");
    std::thread::sleep(GONE_FOR);
    let status = pair.publisher.wait_status("what it waits for", |status| status["link"] == "waiting");
    assert!(status["waiting_for"].as_str().is_some_and(|text| text.contains("the core")), "{status}");
    assert!(status["last_error"]["code"].is_string(), "{status}");

    let new = beside(old);
    pair.core.move_to(new);
    pair.core.run();
    // Both lead there for a while, as when a record is changed; nobody answers at the old one.
    names.lead(NAME, &[old.ip(), new.ip()]);
    wait_for_version(&pair, 2);
    pair.publisher.stop();
    names.lead(NAME, &[new.ip()]);
    pair.subscriber.dial(format!("{NAME}:{}", new.port()));
    pair.still_works();
}

#[test]
fn a_core_that_has_moved_is_reached_where_the_settings_say_without_joining_again() {
    let mut pair = Pair::synced();
    pair.core.stop();
    pair.core.move_to(free_address());
    pair.core.run();
    for agent in [&pair.publisher, &pair.subscriber] {
        agent.dial(pair.core.address());
    }
    pair.still_works();
}

#[test]
fn an_address_where_nobody_is_holds_up_nobody() {
    let pair = Pair::synced();
    // Somebody takes what is sent there, and says nothing.
    let silent = UdpSocket::bind((pair.core.address().ip(), 0)).expect("a socket");
    for agent in [&pair.publisher, &pair.subscriber] {
        agent.dial_all(&[&silent.local_addr().expect("bound"), &pair.core.address()]);
        let began = Instant::now();
        agent.sync();
        assert!(began.elapsed() < DEAD_ADDRESS_COSTS_MAX, "{:?}", began.elapsed());
    }
    pair.still_works();
}

#[test]
fn somebody_else_where_the_core_was_is_told_nothing() {
    let mut pair = Pair::synced();
    pair.core.stop();
    let mut other = CoreProcess::init();
    other.move_to(pair.core.address());
    other.run();
    let secret = b"for the true core alone";
    folder::write(&pair.source.join("secret.txt"), secret);
    let problem = pair.publisher.sync_once().problem("HW-1015", &["not issued by this authority"]);
    assert_eq!(problem["message"].as_str().map(|text| text.matches("is not the core").count()), Some(1), "{problem}");
    pair.subscriber.sync_once().problem("HW-1015", &[]);
    // The daemon says the same, and goes on trying: it may be a mistake in the network.
    pair.publisher.run();
    let status = pair.publisher.wait_status("the refusal", |status| status["last_error"]["code"] == "HW-1015");
    assert_eq!(status["link"], "waiting", "{status}");
    assert!(status["last_error"]["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{status}");
    assert!(other.list(&["device", "list"]).is_empty() && other.list(&["dataset", "list"]).is_empty());
    other.stop();

    pair.core.run();
    wait_for_version(&pair, 2);
    pair.publisher.stop();
    let report = pair.publisher.sync();
    assert_eq!(report["unchanged"], 1, "the catalog was not kept: {report}");

    // Where both are on the list, the true one is found behind the other.
    other.move_to(free_address());
    other.run();
    for agent in [&pair.publisher, &pair.subscriber] {
        agent.dial_all(&[&other.address(), &pair.core.address()]);
    }
    pair.still_works();
}

#[test]
fn a_device_whose_address_changes_in_the_middle_of_sending_goes_on() {
    const LARGE: u64 = 48 << 20;
    const AFTER: u64 = 12 << 20;
    /// What may be under way at once, and what else the exchange costs.
    const UNDER_WAY: u64 = 10 << 20;
    let mut pair = Pair::synced();
    folder::write(&pair.source.join("large.bin"), &Dice::new(78).bytes(LARGE as usize));
    let relay = Relay::rebinding(pair.core.address(), AFTER);
    pair.publisher.dial(relay.address());
    pair.publisher.run();
    wait_for_version(&pair, 2);
    assert!(relay.is_rebound(), "its address stayed as it was");
    let (up, log) = (relay.bytes_up(), pair.publisher.log());
    // Each packet has a header and a signature: a twentieth is plenty.
    assert!(up < LARGE + LARGE / 20 + UNDER_WAY, "{up} bytes for {LARGE}:\n{log}");
    assert!(!log.contains("HW-1011"), "a moved device is taken for a clone: {log}");
    pair.publisher.stop();
    pair.publisher.dial_as_joined();
    pair.still_works();
}
