//! Caps of what comes to a device: the core keeps them, whatever the link could carry.

use std::time::Duration;

use simulations::processes::folder::{self, Dice};
use simulations::processes::{CoreProcess, Relay};

use crate::Pair;

/// The cap, as it is written and in bytes per second.
const CAP: (&str, u64) = ("2 Mbit/s", 250_000);
/// What is subscribed to: some seconds of the cap.
const BYTES: usize = 1_500_000;
/// The cap is kept within a twentieth, and what a connection costs before the core knows of it, or a busy machine is late.
const LATE: Duration = Duration::from_millis(500);

/// Nothing came faster than the cap allows, over all connections together.
#[track_caller]
fn assert_kept(relay: &Relay, connections: usize) {
    let came = relay.came().expect("datagrams");
    let span = came.last - came.first + LATE;
    let allowed = span.as_millis() as u64 * CAP.1 / 1000 * 21 / 20;
    assert!(came.bytes <= allowed, "{came:?}: {allowed} bytes may have come");
    assert!(came.bytes >= BYTES as u64, "{came:?}: it did not come this way");
    assert!(came.flows >= connections, "{came:?}: {connections} connections were expected");
}

#[test]
fn a_device_gets_what_it_subscribes_to_no_faster_than_its_cap() {
    let pair = Pair::synced();
    folder::write(&pair.source.join("large.bin"), &Dice::new(83).bytes(BYTES));
    pair.publisher.sync();
    let relay = Relay::start(pair.core.address(), u64::MAX);
    pair.subscriber.dial(relay.address());
    pair.subscriber.set(&format!("[link]\ndown = \"{}\"", CAP.0));
    pair.subscriber.sync();
    folder::assert_same(&pair.source, &pair.copy);
    assert_kept(&relay, 1);
    // A device that has lifted it gets all that goes.
    pair.subscriber.dial_as_joined();
    pair.still_works();
}

#[test]
fn a_cap_counts_all_connections_of_a_device_together() {
    /// A part of the transfer.
    const AFTER: u64 = BYTES as u64 / 3;
    let mut pair = Pair::synced();
    folder::write(&pair.source.join("large.bin"), &Dice::new(84).bytes(BYTES));
    pair.publisher.sync();
    // The first connection falls silent in the middle; the core goes on sending over it while the device dials another.
    let relay = Relay::forgetting_after_down(pair.core.address(), AFTER);
    pair.subscriber.dial(relay.address());
    pair.subscriber.set(&format!("[link]\ndown = \"{}\"", CAP.0));
    pair.subscriber.run();
    let status = pair.subscriber.wait_status("the version", |status| status["datasets"][0]["number"] == 2);
    assert_eq!(status["down_cap_bytes_per_s"], CAP.1, "{status}");
    pair.subscriber.stop();
    folder::assert_same(&pair.source, &pair.copy);
    assert_kept(&relay, 2);
    pair.subscriber.dial_as_joined();
    pair.still_works();
}

#[test]
fn what_a_month_keeps_for_updates_goes_to_nothing_else() {
    const MIB: u64 = 1 << 20;
    let (month, reserve) = (24 * MIB, 12 * MIB);
    let core = CoreProcess::start();
    let mut device = core.device("edge");
    let [bulk, weights] = ["bulk", "weights"].map(|name| device.scratch().join(name));
    folder::write(&bulk.join("large.bin"), &Dice::new(85).bytes(month as usize));
    folder::write(&weights.join("first.bin"), b"weights");
    device.set(&format!(
        "[[publish]]\nfolder = {bulk:?}\ndataset = \"bulk\"\n[[publish]]\nfolder = {weights:?}\ndataset = \"weights\"\nurgent = true\nevery = \"1s\"\n[link.budget]\nmonth = \"{month}\"\nreserve = \"{reserve}\"\n"
    ));
    device.run();
    device.wait_status("the month's end", |status| status["waiting_for"].to_string().contains("next month"));
    let newest = |dataset: &str| {
        let found = core.list(&["dataset", "list"]);
        found.iter().find(|found| found["name"] == dataset).and_then(|found| found["number"].as_u64())
    };
    assert_eq!(newest("bulk"), None);
    let before = newest("weights");
    folder::write(&weights.join("second.bin"), &Dice::new(86).bytes(2 << 20));
    simulations::processes::wait_for("the update", || newest("weights").filter(|_| newest("weights") > before));
    device.wait_status("the link to close", |status| status["waiting_for"].to_string().contains("next month"));
    assert_eq!(newest("bulk"), None, "what is no update waits");
    let spent = device.ask(&["status"])["month"]["spent_bytes"].as_u64().expect("a budget");
    assert!((month - reserve..month).contains(&spent), "{spent} of {month} bytes are spent");
    // Where nothing is limited any more, the rest follows.
    device.stop();
    device.dial_as_joined();
    device.set(&format!("[[publish]]\nfolder = {bulk:?}\ndataset = \"bulk\"\n"));
    device.sync();
    assert_eq!(newest("bulk"), Some(1));
}
