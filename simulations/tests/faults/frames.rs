//! Protocols from the future, and bytes that are no protocol at all. The core must shrug and serve the others.

use headwater_protocol::wire::{CONTROL_FRAME_BYTES_MAX, ITEM_HEADER_BYTES_MAX, Message};
use simulations::processes::folder::Dice;
use simulations::processes::hostile::{Answer, Conduct, Forgery, Heard, HostileCore, HostileDevice};
use simulations::processes::{AgentProcess, CoreProcess};

use crate::Pair;

/// QUIC application code for a broken protocol.
const PROTOCOL_BROKEN: u64 = 0x103;

/// A core with a device that behaves, and the identity of one that does not.
fn with_villain() -> (Pair, AgentProcess) {
    let pair = Pair::synced();
    let villain = pair.core.device("villain");
    (pair, villain)
}

/// It must have been refused with this code and a hint.
#[track_caller]
fn assert_refused(heard: &Heard, code: &str) {
    match heard {
        Heard::Message(Message::Refused { transfer: None, refusal }) => {
            assert_eq!(refusal.code, code, "{refusal:?}");
            assert!(!refusal.hint.is_empty(), "{refusal:?}");
        }
        other => panic!("no refusal: {other:?}"),
    }
}

#[test]
fn a_protocol_from_the_future_and_one_from_the_past() {
    let (pair, villain) = with_villain();
    for (revisions, code) in [((7, 9), "HW-3001"), ((0, 0), "HW-3002"), ((9, 7), "HW-3003")] {
        let mut device = HostileDevice::connect(&villain, &pair.core);
        assert_refused(&device.greet(revisions.0, revisions.1), code);
        assert!(matches!(device.until_closed(), Heard::Closed(..)), "the connection stayed open");
    }
    // One that still speaks what the core speaks is served.
    let mut device = HostileDevice::connect(&villain, &pair.core);
    assert!(matches!(device.greet(1, 1000), Heard::Message(Message::Welcome(_))));
    let errors = pair.core.ask(&["status"])["errors"].to_string();
    assert!(errors.contains("HW-3001") && errors.contains("villain"), "the operator is not told: {errors}");
    pair.still_works();
}

#[test]
fn a_core_from_the_future() {
    let mut pair = Pair::synced();
    pair.core.stop();
    let future = HostileCore::in_place_of(&pair.core, |_| Conduct { revision: Some(1000), ..Conduct::default() });
    pair.publisher.sync_once().problem("HW-3001", &["1000"]);
    pair.subscriber.sync_once().problem("HW-3001", &["1000"]);
    future.leave();
    pair.core.run();
    pair.still_works();
}

/// Frames that are none: a name, and the bytes.
fn bad_frames() -> Vec<(&'static str, Vec<u8>)> {
    let mut dice = Dice::new(11);
    let framed = |length: u32, body: &[u8]| [&length.to_le_bytes()[..], body].concat();
    let noise = dice.bytes(3000);
    vec![
        ("garbage that looks like a huge frame", dice.bytes(64).into_iter().map(|byte| byte | 0x80).collect()),
        ("a framed nothing", framed(0, &[])),
        ("framed garbage", framed(3000, &noise)),
        ("framed zeros", framed(3000, &[0; 3000])),
        ("one byte more than is allowed", framed(CONTROL_FRAME_BYTES_MAX as u32 + 1, &noise)),
        ("four gigabytes", framed(u32::MAX, &noise)),
        ("a message cut off in its middle", {
            let whole = Message::Ping(7).encode();
            framed(whole.len() as u32 / 2, &whole[..whole.len() / 2])
        }),
    ]
}

#[test]
fn garbage_and_oversized_frames_before_the_hello() {
    let (mut pair, villain) = with_villain();
    for (name, bytes) in bad_frames() {
        let mut device = HostileDevice::connect(&villain, &pair.core);
        device.raw(&bytes);
        match device.hear() {
            Heard::Closed(..) => {}
            heard => assert_refused(&heard, "HW-3003"),
        }
        assert!(matches!(device.until_closed(), Heard::Closed(..)), "{name}: the connection stayed open");
        assert!(pair.core.is_running(), "{name}");
    }
    // Something valid that has no place here.
    let mut device = HostileDevice::connect(&villain, &pair.core);
    device.say(&Message::Goodbye);
    assert_refused(&device.hear(), "HW-3003");
    pair.still_works();
}

#[test]
fn garbage_and_oversized_frames_in_a_session() {
    let (mut pair, villain) = with_villain();
    for (name, bytes) in bad_frames() {
        let mut device = HostileDevice::greeted(&villain, &pair.core);
        device.raw(&bytes);
        match device.until_closed() {
            Heard::Closed(code, words) => {
                assert_eq!(code.into_inner(), PROTOCOL_BROKEN, "{name}: {words}");
                assert!(!words.is_empty(), "{name}: closed without a word");
            }
            other => panic!("{name}: {other:?}"),
        }
        assert!(pair.core.is_running(), "{name}");
    }
    pair.still_works();
}

#[test]
fn truncated_frames() {
    let (mut pair, villain) = with_villain();
    let whole = {
        let body = Message::Ping(7).encode();
        [&(body.len() as u32).to_le_bytes()[..], &body].concat()
    };
    for length in [1, 3, 4, 5, whole.len() - 1] {
        let mut early = HostileDevice::connect(&villain, &pair.core);
        early.raw(&whole[..length]);
        early.finish();
        // Whether it says so or just hangs up: it must not wait for the rest for ever.
        assert!(matches!(early.until_closed(), Heard::Closed(..)), "{length} bytes before the hello");
        let mut late = HostileDevice::greeted(&villain, &pair.core);
        late.raw(&whole[..length]);
        late.finish();
        assert!(matches!(late.until_closed(), Heard::Closed(..)), "{length} bytes in a session");
    }
    assert!(pair.core.is_running());
    pair.still_works();
}

#[test]
fn garbage_on_streams_for_items() {
    let (mut pair, villain) = with_villain();
    let mut dice = Dice::new(12);
    let too_long = (ITEM_HEADER_BYTES_MAX as u32 + 1).to_le_bytes();
    for bytes in [
        dice.bytes(5000),
        [&too_long[..], &dice.bytes(100)].concat(),
        [&100u32.to_le_bytes()[..], &[0; 100]].concat(),
        vec![1, 0],
    ] {
        let mut device = HostileDevice::greeted(&villain, &pair.core);
        device.raw_items(&bytes);
        assert!(matches!(device.until_closed(), Heard::Closed(code, _) if code.into_inner() == PROTOCOL_BROKEN));
    }
    // Items for transfers that nobody knows are dropped, and the session goes on.
    let mut device = HostileDevice::greeted(&villain, &pair.core);
    // Not 0: that is the transfer of the offer below, which may begin before a stray item is read.
    for transfer in [1, 2, 77, u32::MAX] {
        device.stray_item(transfer);
    }
    assert!(matches!(device.offer("villain/data", &Forgery::honest("a", &[1; 1000])), Answer::Committed));
    assert!(pair.core.is_running());
    pair.still_works();
}

#[test]
fn messages_that_have_no_place_in_a_session() {
    let (mut pair, villain) = with_villain();
    let mut device = HostileDevice::greeted(&villain, &pair.core);
    for transfer in [0, 1, 2, 3, u32::MAX] {
        for message in [
            Message::Committed { transfer, commit: Vec::new(), receipt: Vec::new() },
            Message::Grant { transfer, bytes: u64::MAX },
            Message::Withdraw { transfer },
            Message::Incomplete { transfer },
            Message::NeedPages { transfer, ids: Vec::new() },
        ] {
            device.say(&message);
        }
    }
    device.say(&Message::HeadsAre { question: 1, heads: Vec::new(), ended: Vec::new() });
    device.say(&Message::News { question: 0, list: Vec::new() });
    device.say(&Message::Control { request: 1, body: "{}".to_owned() });
    device.say(&Message::Control { request: 2, body: "no json".to_owned() });
    device.say(&Message::Control { request: 3, body: r#"{"command":"device-list"}"#.to_owned() });
    drop(device);
    let mut device = HostileDevice::greeted(&villain, &pair.core);
    assert!(matches!(device.offer("villain/data", &Forgery::honest("a", &[1; 1000])), Answer::Committed));
    assert!(pair.core.is_running());
    pair.still_works();
}

#[test]
fn a_core_that_talks_garbage() {
    let mut pair = Pair::synced();
    pair.core.stop();
    for (name, bytes) in bad_frames() {
        let garbler = HostileCore::in_place_of(&pair.core, |_| Conduct {
            in_place_of_welcome: Some(bytes),
            ..Conduct::default()
        });
        let said = pair.publisher.sync_once();
        let codes = ["HW-3003", "HW-3007"];
        let report = said.document();
        let code = report["problems"][0]["code"].as_str().unwrap_or_default().to_owned();
        assert!(codes.contains(&code.as_str()), "{name}: {said:#?}");
        said.problem(&code, &[]);
        garbler.leave();
    }
    pair.core.run();
    pair.still_works();
}

#[test]
fn one_who_knocks_and_says_nothing_holds_up_nobody() {
    let mut core = CoreProcess::init();
    let file = core.data().join("core.toml");
    let text = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, format!("{text}\n[network]\nhello_timeout = \"1s\"\n")).expect("written");
    core.run();
    let villain = core.device("villain");
    let mut silent: Vec<_> = (0..20).map(|_| HostileDevice::connect(&villain, &core)).collect();
    let good = core.device("good");
    let source = good.scratch().join("source");
    simulations::processes::folder::fill(&source, 3, 3, 0);
    good.publish(&source, "good/data");
    good.sync();
    for device in &mut silent {
        assert!(matches!(device.until_closed(), Heard::Closed(..)));
    }
    simulations::processes::folder::assert_same(&source, &core.export("good/data"));
}
