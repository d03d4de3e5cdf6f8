//! What travels is what it was: one fixture under `fixtures/wire/` for each message and each kind of item, written by the
//! revision that its name says, still decodes to the same value. And what can't be is refused.
//!
//! `cargo test -p headwater-protocol --test wire_messages -- --ignored` writes fixtures that are not there yet.

#![allow(clippy::disallowed_methods, reason = "a test reads its fixtures from files")]

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use headwater_protocol::codec::{self, DecodeError};
use headwater_protocol::federated::{
    DeviceReport, Participation, Settled, Task, TaskKind, TrainingMessage, UPDATES_PREFIX,
};
use headwater_protocol::id::{ChunkId, PublicKey, VersionId};
use headwater_protocol::order::{Fraction, Reading, Remainder, Shuffle};
use headwater_protocol::trust::Signature;
use headwater_protocol::wire::{
    CONTROL_FRAME_BYTES_MAX, DATA_SECRET_BYTES, DataWay, DeltaSource, Encoding, EndedDataset, Following, Hello,
    ITEM_HEADER_BYTES_MAX, ItemHeader, ItemKey, JoinMessage, JoinReply, MESSAGE_LIST_MAX, Message, News, OrdinalRange,
    PAYLOAD_BYTES_MAX, PartialChunk, PeerStatus, ReaderMessage, Refusal, SourceMember, Welcome,
};
use proptest::prelude::*;

fn id(text: &str) -> ChunkId {
    ChunkId::of(text.as_bytes())
}

fn status() -> PeerStatus {
    PeerStatus {
        release: "0.1.0".into(),
        backlog_bytes: 1 << 33,
        oldest_unsent_s: 86_400,
        disk_free_bytes: 1 << 30,
        last_error: "HW-4006: the disk is full".into(),
    }
}

/// What a training job says and hears.
fn reader_messages() -> Vec<(&'static str, Message)> {
    let question = 7;
    let way = DataWay {
        port: 4733,
        session: 1 << 40,
        secret: [5; DATA_SECRET_BYTES],
        sealed: true,
        requests_max: 16,
        slot_bytes_max: 1 << 30,
    };
    let version = Following { dataset: "cam/one".into(), number: 9, version: VersionId::of(b"a manifest") };
    let reading = Reading {
        seed: 42,
        epoch: 3,
        shuffle: Shuffle::Blocks(NonZeroU64::new(1000).expect("not zero")),
        kept: vec![0..17, 20..60_000],
        fraction: Fraction::new(0.25).expect("a fraction"),
        world_size: NonZeroU64::new(8).expect("not zero"),
        rank: 5,
        replication: NonZeroU64::new(2).expect("not zero"),
        remainder: Remainder::Uneven,
        start: 4096,
        batch: 256,
        workers: 4,
        worker: 3,
    };
    let members = vec![SourceMember { version, samples: 60_000, files: 60_001, bytes: 1 << 33 }];
    let refusal = Refusal { code: "HW-2002".into(), message: "no".into(), hint: "another".into() };
    [
        ("reader-open-data", ReaderMessage::OpenData { question, job: "train-17".into() }),
        ("reader-data-opened", ReaderMessage::DataOpened { question, way }),
        ("reader-open-source", ReaderMessage::OpenSource { question, name: "cam/*@latest".into() }),
        ("reader-source-is", ReaderMessage::SourceIs { question, source: 3, id: [6; 32], number: 9, members }),
        ("reader-declare", ReaderMessage::Declare { question, source: 3, reading }),
        ("reader-declared", ReaderMessage::Declared { question }),
        ("reader-close-source", ReaderMessage::CloseSource { source: 3 }),
        ("reader-refused", ReaderMessage::Refused { question, refusal }),
    ]
    .into_iter()
    .map(|(name, message)| (name, Message::Reader(Box::new(message))))
    .collect()
}

fn task() -> Task {
    Task {
        run: "digits-2".into(),
        round: 3,
        kind: TaskKind::Train,
        model: Following { dataset: "models/digits".into(), number: 9, version: VersionId::of(b"a manifest") },
        config: r#"{"epochs":2,"learning-rate":0.1}"#.into(),
        encodings: vec!["int8".into(), "full".into()],
        wait_ms: Some(600_000),
        program: Some(Following { dataset: "programs/cnn".into(), number: 2, version: VersionId::of(b"a program") }),
    }
}

/// What is said of federated training.
fn training_messages() -> Vec<(&'static str, Message)> {
    let stands = |state| TrainingMessage::Stands { task: task().key(), state };
    let report = DeviceReport {
        on_power: Some(true),
        unmetered: None,
        memory_free_bytes: 1 << 30,
        samples: 2_000,
        tasks_max: 1,
        encodings: vec!["int8".into(), "bf16".into(), "full".into()],
        has_program: true,
        takes_programs: false,
    };
    let settled = Settled { task: task().key(), accepted: false, reason: "the round has ended".into() };
    [
        ("training-report", TrainingMessage::Report(report)),
        ("training-do", TrainingMessage::Do(task())),
        ("training-waiting", stands(Participation::Waiting { reason: "the model comes".into() })),
        ("training-runs", stands(Participation::Training { step: 17, steps: 100 })),
        ("training-sending", stands(Participation::Sending { bytes: 100_000_000, acknowledged: 99_000_000 })),
        ("training-declined", stands(Participation::Declined { reason: "on battery".into() })),
        ("training-failed", stands(Participation::Failed { reason: "exit status 1: no such file".into() })),
        ("training-settled", TrainingMessage::Settled(settled)),
    ]
    .into_iter()
    .map(|(name, message)| (name, Message::Training(Box::new(message))))
    .collect()
}

fn messages() -> Vec<(&'static str, Message)> {
    let transfer = 6;
    let ranges = || vec![OrdinalRange { first: 0, count: 7 }, OrdinalRange { first: 1 << 40, count: 1 }];
    let refusal = Refusal { code: "HW-2001".into(), message: "no".into(), hint: "another".into() };
    let following = || vec![Following { dataset: "cam/one".into(), number: 9, version: VersionId::of(b"a manifest") }];
    vec![
        ("hello", Message::Hello(Hello { revision_min: 1, revision_max: 2, nonce: vec![7; 16], status: status() })),
        (
            "welcome",
            Message::Welcome(Welcome {
                revision: 1,
                nonce: vec![8; 16],
                name: "cam-01".into(),
                labels: vec![("site".into(), "north".into()), ("line".into(), "4".into())],
                certificate: vec![9; 300],
            }),
        ),
        ("refused", Message::Refused { transfer: Some(transfer), refusal: refusal.clone() }),
        ("refused-session", Message::Refused { transfer: None, refusal: refusal.clone() }),
        ("status", Message::Status(status())),
        ("heads", Message::Heads { question: 3, datasets: vec!["cam/one".into()] }),
        (
            "heads-are",
            Message::HeadsAre {
                question: 3,
                heads: following(),
                ended: vec![EndedDataset { dataset: "cam/gone".into(), number: 7 }],
            },
        ),
        ("follow", Message::Follow { question: 3, names: vec!["models/*".into(), "north".into()] }),
        (
            "news",
            Message::News {
                question: 3,
                list: following().into_iter().map(|newest| News { name: "cam/*".into(), newest }).collect(),
            },
        ),
        ("follow-done", Message::FollowDone { question: 3, unmatched: vec!["south".into()], refused: None }),
        ("follow-refused", Message::FollowDone { question: 4, unmatched: Vec::new(), refused: Some(refusal.clone()) }),
        (
            "freed",
            Message::Freed {
                question: 5,
                dataset: "cam/one".into(),
                version: VersionId::of(b"a manifest"),
                since: 300,
            },
        ),
        ("down-cap", Message::DownCap { bytes_per_s: Some(250_000) }),
        ("down-cap-lifted", Message::DownCap { bytes_per_s: None }),
        ("freed-noted", Message::FreedNoted { question: 5, noted: true }),
        ("fetch", Message::Fetch { transfer, dataset: "cam/one".into(), version: VersionId::of(b"a manifest") }),
        ("offer", Message::Offer { transfer, dataset: "cam/one".into(), manifest: vec![1; 200], commit: vec![2; 100] }),
        ("need-pages", Message::NeedPages { transfer, ids: vec![id("one"), id("two")] }),
        (
            "need-chunks",
            Message::NeedChunks {
                transfer,
                ranges: ranges(),
                partial: vec![PartialChunk { ordinal: 3, offset: 40_000 }],
            },
        ),
        ("grant", Message::Grant { transfer, bytes: 8 << 20 }),
        ("stored", Message::Stored { transfer, ranges: ranges() }),
        ("unavailable", Message::Unavailable { transfer, ranges: ranges() }),
        ("again", Message::Again { transfer, keys: vec![ItemKey::Page(id("one")), ItemKey::Chunk(5)] }),
        ("incomplete", Message::Incomplete { transfer }),
        ("withdraw", Message::Withdraw { transfer }),
        ("committed", Message::Committed { transfer, commit: vec![3; 100], receipt: vec![4; 80] }),
        ("control", Message::Control { request: 3, body: "{\"status\":{}}".into() }),
        ("control-reply", Message::ControlReply { request: 3, body: "{}".into(), last: true }),
        ("ping", Message::Ping(0x0102_0304_0506_0708)),
        ("pong", Message::Pong(1)),
        ("goodbye", Message::Goodbye),
    ]
    .into_iter()
    .chain(reader_messages())
    .chain(training_messages())
    .collect()
}

fn header(encoding: Encoding) -> ItemHeader {
    ItemHeader { transfer: 6, key: ItemKey::Chunk(77), plain_bytes: 300_000, payload_bytes: 1000, encoding }
}

fn items() -> Vec<(&'static str, ItemHeader)> {
    let source = DeltaSource { id: id("base"), offset: 100, length: 200_000 };
    vec![
        (
            "item-plain",
            ItemHeader { payload_bytes: 300_000 - 77_000, ..header(Encoding::Plain { from_offset: 77_000 }) },
        ),
        ("item-zstd", header(Encoding::Zstd { from_offset: 0 })),
        (
            "item-delta",
            ItemHeader {
                key: ItemKey::Page(id("page")),
                ..header(Encoding::Delta { sources: vec![source, DeltaSource { offset: 0, length: 5, ..source }] })
            },
        ),
    ]
}

fn joining() -> Vec<(&'static str, JoinMessage)> {
    let reply = JoinReply {
        certificate: vec![5; 300],
        name: "cam-01".into(),
        labels: vec![("site".into(), "north".into())],
        addresses: vec!["core.site:4733".into()],
    };
    let refusal = Refusal { code: "HW-1001".into(), message: "used up".into(), hint: "another".into() };
    let (key, proof) = (PublicKey([6; 32]), Signature([7; 64]));
    vec![
        ("join-request", JoinMessage::Request { secret: vec![4; 16], name: "cam-01".into(), key, proof }),
        ("join-admitted", JoinMessage::Admitted(reply)),
        ("join-refused", JoinMessage::Refused(refusal)),
    ]
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/wire/{name}-r1.bin"))
}

fn encodings() -> Vec<(&'static str, Vec<u8>)> {
    let messages = messages().into_iter().map(|(name, message)| (name, message.encode()));
    let items = items().into_iter().map(|(name, header)| (name, header.encode()));
    let joining = joining().into_iter().map(|(name, message)| (name, codec::encode(&message)));
    messages.chain(items).chain(joining).collect()
}

#[test]
#[ignore = "it writes fixtures"]
fn write_fixtures() {
    for (name, bytes) in encodings() {
        let path = fixture(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        if !path.exists() {
            std::fs::write(path, bytes).expect("written");
        }
    }
}

#[test]
fn every_fixture_still_means_the_same() {
    let read = |name| std::fs::read(fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    for (name, message) in messages() {
        assert_eq!(Message::decode(&read(name)).expect(name), message);
        assert_eq!(message.encode(), read(name), "{name}");
    }
    for (name, header) in items() {
        assert_eq!(ItemHeader::decode(&read(name)).expect(name), header);
        assert_eq!(header.encode(), read(name), "{name}");
    }
    for (name, message) in joining() {
        assert_eq!(JoinMessage::decode(&read(name)).expect(name), message);
        assert_eq!(codec::encode(&message), read(name), "{name}");
    }
    let files = std::fs::read_dir(fixture("x").parent().expect("a folder")).expect("readable").count();
    assert_eq!(files, encodings().len(), "each fixture belongs to something that still travels");
}

#[test]
fn the_transfer_of_a_message_is_found() {
    for (name, message) in messages() {
        let belongs =
            format!("{message:?}").contains("transfer: 6") || format!("{message:?}").contains("transfer: Some(6)");
        assert_eq!(message.transfer(), belongs.then_some(6), "{name}");
    }
}

#[test]
fn what_is_cut_or_changed_never_panics() {
    for (name, bytes) in encodings() {
        for end in 0..bytes.len() {
            let _ = Message::decode(&bytes[..end]);
            let _ = ItemHeader::decode(&bytes[..end]);
            let _ = JoinMessage::decode(&bytes[..end]);
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            let _ = Message::decode(&changed);
            let _ = ItemHeader::decode(&changed);
            let _ = JoinMessage::decode(&changed);
        }
        assert!(bytes.len() < 600, "{name} takes {} bytes", bytes.len());
    }
}

fn reason(result: Result<impl std::fmt::Debug, DecodeError>) -> String {
    result.expect_err("it can't be").to_string()
}

#[test]
fn lists_over_their_limits_are_refused() {
    let ranges = |count| vec![OrdinalRange { first: 1, count }; 1];
    let long = |length| vec![OrdinalRange { first: 1, count: 1 }; length];
    let asked = |task| Message::Training(Box::new(TrainingMessage::Do(task)));
    let said =
        TrainingMessage::Stands { task: task().key(), state: Participation::Failed { reason: "x".repeat(5000) } };
    let cases = [
        (Message::NeedPages { transfer: 1, ids: vec![ChunkId::default(); MESSAGE_LIST_MAX + 1] }, "4097 pages"),
        (Message::Stored { transfer: 1, ranges: long(MESSAGE_LIST_MAX + 1) }, "4097 runs"),
        (Message::Unavailable { transfer: 1, ranges: ranges(0) }, "a run of 0 chunks from 1"),
        (
            Message::NeedChunks { transfer: 1, ranges: ranges(u64::MAX), partial: vec![] },
            "a run of 18446744073709551615 chunks from 1",
        ),
        (
            Message::Offer { transfer: 1, dataset: String::new(), manifest: vec![0; 70_000], commit: vec![] },
            "70000 manifest bytes",
        ),
        (Message::Follow { question: 1, names: vec!["x".repeat(5000)] }, "a name of 5000 bytes"),
        (Message::Again { transfer: 1, keys: vec![ItemKey::Chunk(1); 5000] }, "5000 items"),
        (asked(Task { run: "a/b".into(), ..task() }), "`a/b` can't name a run"),
        (asked(Task { config: "x".repeat(70_000), ..task() }), "a configuration of 70000 bytes"),
        (asked(Task { encodings: vec![String::new(); 17], ..task() }), "17 encodings"),
        (
            asked(Task { model: Following { dataset: format!("{UPDATES_PREFIX}a/b"), ..task().model }, ..task() }),
            "is no model",
        ),
        (Message::Training(Box::new(said)), "a reason of 5000 bytes"),
    ];
    for (message, expected) in cases {
        let reason = reason(Message::decode(&message.encode()));
        assert!(reason.contains(expected), "{reason}");
    }
    assert!(reason(Message::decode(&vec![0; CONTROL_FRAME_BYTES_MAX + 1])).contains("over its limit"));
}

#[test]
fn messages_of_joining_that_cannot_be_are_refused() {
    let request = |secret: usize, name: usize| JoinMessage::Request {
        secret: vec![4; secret],
        name: "n".repeat(name),
        key: PublicKey([6; 32]),
        proof: Signature([7; 64]),
    };
    let admitted = |certificate: usize, labels: usize, addresses: usize| {
        JoinMessage::Admitted(JoinReply {
            certificate: vec![0; certificate],
            name: String::new(),
            labels: vec![(String::new(), String::new()); labels],
            addresses: vec![String::new(); addresses],
        })
    };
    let cases = [
        (request(15, 1), "a secret of 15 bytes"),
        (request(16, 5000), "a name of 5000 bytes"),
        (admitted(5000, 0, 0), "5000 certificate bytes"),
        (admitted(0, 33, 0), "33 labels"),
        (admitted(0, 0, 65), "65 addresses"),
    ];
    for (message, expected) in cases {
        let reason = reason(JoinMessage::decode(&codec::encode(&message)));
        assert!(reason.contains(expected), "{reason}");
    }
    let shown = format!("{:?}", request(16, 1));
    assert!(!shown.contains("secret") && !shown.contains("4, 4"), "{shown}");
}

#[test]
fn items_that_cannot_be_are_refused() {
    let zstd = || Encoding::Zstd { from_offset: 0 };
    let source = |length| DeltaSource { id: ChunkId::default(), offset: 0, length };
    let delta = |sources| header(Encoding::Delta { sources });
    let cases = [
        (ItemHeader { plain_bytes: 0, ..header(zstd()) }, "0 plain bytes"),
        (ItemHeader { plain_bytes: (1 << 20) + 1, ..header(zstd()) }, "1048577 plain bytes"),
        (ItemHeader { payload_bytes: 0, ..header(zstd()) }, "a payload of 0 bytes"),
        (ItemHeader { payload_bytes: PAYLOAD_BYTES_MAX + 1, ..header(zstd()) }, "a payload of"),
        (header(Encoding::Zstd { from_offset: 300_000 }), "it goes on at byte 300000 of 300000"),
        (header(Encoding::Plain { from_offset: 0 }), "1000 plain bytes stand for those from 0 to 300000"),
        (delta(vec![]), "a delta over 0 sources"),
        (delta(vec![source(1); 513]), "a delta over 513 sources"),
        (delta(vec![source(0)]), "a delta source of 0 bytes"),
        (delta(vec![DeltaSource { offset: u32::MAX, ..source(u32::MAX) }]), "a delta source of"),
        (delta(vec![source(1 << 20); 3]), "delta sources of 3145728 bytes"),
    ];
    for (header, expected) in cases {
        let reason = reason(ItemHeader::decode(&header.encode()));
        assert!(reason.contains(expected), "{reason}");
    }
    let fullest = ItemHeader { payload_bytes: 9, ..delta(vec![source(4096); 512]) };
    assert!(fullest.encode().len() <= ITEM_HEADER_BYTES_MAX);
    assert_eq!(ItemHeader::decode(&fullest.encode()).expect("it can be"), fullest);
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Message::decode(&bytes);
        let _ = ItemHeader::decode(&bytes);
    }
}
