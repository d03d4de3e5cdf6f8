//! Sessions of peers that ask too much, or listen to nothing.

use headwater_protocol::wire::Message;
use simulations::processes::folder::{self, Dice};
use simulations::processes::hostile::{Heard, HostileDevice};
use simulations::processes::{CoreProcess, Relay, wait_for};

use crate::Pair;

/// Names that a peer follows at most, and so makes the core speak of.
const NAMES: usize = 4096;

#[test]
fn a_device_that_listens_to_nothing_is_revoked_all_the_same() {
    let pair = Pair::synced();
    let villain = pair.core.device("villain");
    let mut device = HostileDevice::greeted(&villain, &pair.core);
    // Each answer names all that it found nothing for, so that a few fill every window and queue on the way.
    let names = (0..NAMES).map(|n| format!("nothing/{n}/{}", "x".repeat(90))).collect();
    let follow = Message::Follow { question: 1, names };
    assert!(device.say_until_stuck(&follow), "the core takes all questions of one who reads no answer");
    pair.core.run_command(&["device", "revoke", "villain"]).success();
    assert!(matches!(device.until_closed(), Heard::Closed(..)), "it goes on, revoked");
    wait_for("its session to end", || (pair.core.ask(&["status"])["connected"] == 0).then_some(()));
    pair.still_works();
}

#[test]
fn a_device_has_no_commands() {
    let core = CoreProcess::start();
    let villain = core.device("villain");
    let mut device = HostileDevice::greeted(&villain, &core);
    for request in 0..40 {
        let body = serde_json::json!({ "command": "status", "padding": "x".repeat(400_000) }).to_string();
        device.say(&Message::Control { request, body });
        match device.hear() {
            Heard::Message(Message::ControlReply { request: answered, body, last: true }) => {
                assert_eq!(answered, request);
                assert!(body.contains("HW-2006"), "{body}");
            }
            other => panic!("no answer: {other:?}"),
        }
    }
}

#[test]
fn a_core_whose_catalog_fails_says_so() {
    let pair = Pair::synced();
    let catalog = rusqlite::Connection::open(pair.core.data().join("catalog.db")).expect("a database");
    catalog.execute_batch("ALTER TABLE dataset RENAME TO dataset_aside").expect("renamed");
    pair.publisher.sync_once().problem("HW-6005", &[]);
    pair.subscriber.sync_once().problem("HW-6005", &[]);
    catalog.execute_batch("ALTER TABLE dataset_aside RENAME TO dataset").expect("renamed");
    pair.still_works();
}

#[test]
fn a_session_that_was_not_told_of_its_revocation_sees_it_at_its_next_look() {
    let pair = Pair::synced();
    let villain = pair.core.device("villain");
    let mut device = HostileDevice::greeted(&villain, &pair.core);
    wait_for("the session", || (pair.core.ask(&["status"])["connected"] == 1).then_some(()));
    // As if the word had gone out between its admission and its place among the sessions.
    let catalog = rusqlite::Connection::open(pair.core.data().join("catalog.db")).expect("a database");
    assert_eq!(catalog.execute("UPDATE device SET revoked_at = 1 WHERE name = 'villain'", []).expect("written"), 1);
    pair.core.run_command(&["device", "label", "north", "site=x"]).success();
    assert!(matches!(device.until_closed(), Heard::Closed(..)), "it goes on, revoked");
    pair.still_works();
}

/// The network forgets the flow in the middle of a transfer, and neither side is told.
#[test]
fn a_session_that_falls_silent_is_replaced_by_another() {
    let mut pair = Pair::synced();
    let large = Dice::new(77).bytes(24 << 20);
    folder::write(&pair.source.join("large.bin"), &large);
    let relay = Relay::forgetting(pair.core.address(), 2 << 20);
    pair.publisher.dial(relay.address());
    pair.publisher.run();
    wait_for("the version", || (pair.core.list(&["dataset", "log", "cam/north"]).len() == 2).then_some(()));
    let log = pair.publisher.log();
    assert!(log.contains("a new one took its place"), "{log}");
    assert!(!log.contains("HW-1011"), "a race is taken for a clone: {log}");
    pair.publisher.stop();
    pair.publisher.dial_as_joined();
    pair.still_works();
    pair.core.verify();
}
