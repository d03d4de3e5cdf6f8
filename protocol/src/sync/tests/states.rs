//! Every transition of both machines, and what a peer that does not keep to the protocol meets.

use std::fmt::Write;

use super::world::*;
use crate::page::Page;
use crate::sync::receiver::Event as ReceiveEvent;
use crate::sync::sender::Event as SendEvent;
use crate::sync::*;
use crate::time::Timestamp;
use crate::wire::{Encoding, ItemHeader, ItemKey, Message, OrdinalRange, PAYLOAD_BYTES_MAX, Refusal};

fn table<S: std::fmt::Debug + Copy, E: std::fmt::Debug + Copy>(
    states: &[S],
    events: &[E],
    after: impl Fn(S, E) -> Option<S>,
) -> String {
    let mut text = String::new();
    for &state in states {
        for &event in events {
            if let Some(next) = after(state, event) {
                writeln!(text, "{state:?} + {event:?} -> {next:?}").expect("into a string");
            }
        }
    }
    text
}

#[test]
fn transitions_of_a_sender() {
    use SendEvent::*;
    use SendState as S;
    let states = [S::Offered, S::Serving, S::Committed, S::Incomplete, S::Refused, S::Withdrawn, S::Broken];
    let events = [Asked, Committed, Incomplete, Refused, Withdraw, Violated];
    let expected = "\
Offered + Asked -> Serving
Offered + Committed -> Committed
Offered + Refused -> Refused
Offered + Withdraw -> Withdrawn
Offered + Violated -> Broken
Serving + Asked -> Serving
Serving + Committed -> Committed
Serving + Incomplete -> Incomplete
Serving + Refused -> Refused
Serving + Withdraw -> Withdrawn
Serving + Violated -> Broken
";
    assert_eq!(table(&states, &events, S::after), expected);
    for state in states {
        assert_eq!(state.is_end(), events.iter().all(|&event| state.after(event).is_none()));
    }
}

#[test]
fn transitions_of_a_receiver() {
    use ReceiveEvent::*;
    use ReceiveState as S;
    let states = [S::Walking, S::Committing, S::Committed, S::Incomplete, S::Withdrawn, S::Refused, S::Broken];
    let events = [AllDurable, Committed, NothingMore, Withdraw, Refuse, Violated];
    let expected = "\
Walking + AllDurable -> Committing
Walking + NothingMore -> Incomplete
Walking + Withdraw -> Withdrawn
Walking + Refuse -> Refused
Walking + Violated -> Broken
Committing + Committed -> Committed
Committing + Refuse -> Refused
";
    assert_eq!(table(&states, &events, S::after), expected);
    for state in states {
        assert_eq!(state.is_end(), events.iter().all(|&event| state.after(event).is_none()));
    }
}

const NOW: Timestamp = Timestamp::ZERO;

fn version() -> Version {
    Version::of(&[("a".to_owned(), File::Chunks(vec![1, 2, 3])), ("b".to_owned(), File::Chunks(vec![3]))].into())
}

/// A receiver that has asked for the root page, and then for all chunks.
fn receiver(version: &Version, with_chunks: bool) -> Receiver {
    let mut receiver = Receiver::new(0, &version.manifest, ReceiveLimits::default()).expect("good");
    drain(&mut receiver);
    if with_chunks {
        let page = version.page(&version.root());
        receiver.handle_item(&page_header(version)).expect("asked for");
        receiver.handle_verified(ItemKey::Page(version.root()), Some(&page));
        drain(&mut receiver);
    }
    receiver
}

/// Answers every question with no.
fn drain(receiver: &mut Receiver) -> Vec<ReceiveAction> {
    let mut actions = Vec::new();
    while let Some(action) = receiver.poll_action() {
        match &action {
            ReceiveAction::LookUp(ids) => {
                receiver.handle_lookup(&ids.iter().map(|id| (*id, Held::Missing)).collect::<Vec<_>>());
            }
            ReceiveAction::CheckPresence(wanted) => {
                let answers: Vec<_> = wanted.iter().map(|wanted| (*wanted, Presence::Missing)).collect();
                receiver.handle_presence(&answers);
            }
            _ => {}
        }
        actions.push(action);
    }
    actions
}

fn page_header(version: &Version) -> ItemHeader {
    let bytes = version.page(&version.root()).encode().len() as u32;
    let encoding = Encoding::Plain { from_offset: 0 };
    ItemHeader { transfer: 0, key: ItemKey::Page(version.root()), plain_bytes: bytes, payload_bytes: bytes, encoding }
}

fn chunk_header(version: &Version, ordinal: u64) -> ItemHeader {
    let bytes = version.ordinals[ordinal as usize].length;
    let encoding = Encoding::Plain { from_offset: 0 };
    ItemHeader { transfer: 0, key: ItemKey::Chunk(ordinal), plain_bytes: bytes, payload_bytes: bytes, encoding }
}

fn broken(receiver: &mut Receiver) -> Violation {
    let actions = drain(receiver);
    assert!(
        matches!(&actions[..], [ReceiveAction::Send(Message::Refused { .. }), ReceiveAction::Finished(_)]),
        "{actions:?}"
    );
    let Some(ReceiveAction::Finished(ReceiveEnd::Broken(violation))) = actions.into_iter().nth(1) else {
        panic!("it is not broken")
    };
    assert_eq!(receiver.state(), ReceiveState::Broken);
    violation
}

#[test]
fn items_that_do_not_fit_break_a_transfer() {
    let version = version();
    let other = ItemKey::Page(crate::id::ChunkId::of(b"other"));
    let chunk = |change: fn(&mut ItemHeader)| {
        let mut header = chunk_header(&version, 1);
        change(&mut header);
        header
    };
    type Fits = fn(&Violation) -> bool;
    let cases: [(bool, ItemHeader, Fits); 7] = [
        (false, chunk(|_| {}), |v| *v == Violation::Unasked(ItemKey::Chunk(1))),
        (false, ItemHeader { key: other, ..page_header(&version) }, |v| matches!(v, Violation::Unasked(_))),
        (true, page_header(&version), |v| matches!(v, Violation::Unasked(ItemKey::Page(_)))),
        // The fourth position is the third's chunk, which is asked for once.
        (true, chunk(|header| header.key = ItemKey::Chunk(99)), |v| matches!(v, Violation::Unasked(_))),
        (true, chunk(|header| header.plain_bytes += 1), |v| matches!(v, Violation::Item { .. })),
        (true, chunk(|header| header.encoding = Encoding::Zstd { from_offset: 5 }), |v| {
            matches!(v, Violation::Item { .. })
        }),
        (
            true,
            chunk(|header| header.payload_bytes = 9 << 20),
            |v| matches!(v, Violation::OverGrant { granted, .. } if *granted == (8 << 20) - u64::from(PAYLOAD_BYTES_MAX)),
        ),
    ];
    for (with_chunks, header, fits) in cases {
        let mut receiver = receiver(&version, with_chunks);
        let violation = receiver.handle_item(&header).expect_err("it can't be");
        assert!(fits(&violation), "{violation}");
        assert_eq!(broken(&mut receiver), violation);
        assert!(receiver.handle_item(&header).is_err());
        assert!(receiver.poll_action().is_none(), "nothing follows the end");
    }
}

#[test]
fn an_item_that_comes_twice_breaks_a_transfer_before_and_after_it_is_stored() {
    let version = version();
    for stored in [false, true] {
        let mut receiver = receiver(&version, true);
        let header = chunk_header(&version, 0);
        receiver.handle_item(&header).expect("asked for");
        receiver.handle_verified(header.key, None);
        if stored {
            receiver.handle_stored(NOW, &[header.key]);
        }
        assert_eq!(receiver.handle_item(&header), Err(Violation::Unasked(header.key)));
    }
}

#[test]
fn wrong_bytes_break_a_transfer_only_if_they_came_plain_and_whole() {
    let version = version();
    let mut receiver = receiver(&version, true);
    let zstd = ItemHeader { encoding: Encoding::Zstd { from_offset: 0 }, ..chunk_header(&version, 0) };
    receiver.handle_item(&zstd).expect("asked for");
    receiver.handle_unusable(zstd.key);
    let actions = drain(&mut receiver);
    let again = Message::Again { transfer: 0, keys: vec![zstd.key] };
    assert_eq!(actions, [ReceiveAction::Send(again)]);
    receiver.handle_item(&chunk_header(&version, 0)).expect("asked for again");
    receiver.handle_unusable(zstd.key);
    assert_eq!(broken(&mut receiver), Violation::WrongBytes(zstd.key));
}

#[test]
fn nobody_gets_a_third_try() {
    let version = version();
    let mut receiver = receiver(&version, true);
    let zstd = ItemHeader { encoding: Encoding::Zstd { from_offset: 0 }, ..chunk_header(&version, 0) };
    receiver.handle_item(&zstd).expect("asked for");
    receiver.handle_unusable(zstd.key);
    drain(&mut receiver);
    receiver.handle_item(&zstd).expect("asked for again, and compressed all the same");
    receiver.handle_unusable(zstd.key);
    assert_eq!(broken(&mut receiver), Violation::WrongBytes(zstd.key));
}

#[test]
fn pages_that_do_not_fit_break_a_transfer() {
    let files: Files = (0..200).map(|n| (format!("{n:03}"), File::Chunks(vec![n, n + 1]))).collect();
    let version = Version::of(&files);
    let Page::Inner { level, children } = (*version.page(&version.root())).clone() else { panic!("an inner page") };
    let mut fewer = children.clone();
    fewer.pop();
    let mut claims = children.clone();
    (claims[0].files, claims[1].files) = (0, claims[0].files + claims[1].files);
    (claims[0].chunks, claims[1].chunks) = (0, claims[0].chunks + claims[1].chunks);
    let mut below = version.page(&children[0].id);
    while let Page::Inner { children, .. } = &*below {
        below = version.page(&children[0].id);
    }
    for page in [
        Page::Inner { level, children: fewer },
        Page::Inner { level: level + 1, children: children.clone() },
        Page::Inner { level, children: claims },
        (*below).clone(),
        Page::ExtentLeaf(vec![chunk(1)]),
    ] {
        let mut receiver = receiver(&version, false);
        receiver.handle_item(&page_header(&version)).expect("asked for");
        receiver.handle_verified(ItemKey::Page(version.root()), Some(&page));
        let violation = broken(&mut receiver);
        assert!(matches!(violation, Violation::Page { .. }), "{violation}");
        assert_eq!(violation.refusal().code, "HW-3004");
    }
}

#[test]
fn one_chunk_has_one_length() {
    let mut version = version();
    let Page::Leaf(leaf) = (*version.page(&version.root())).clone() else { panic!("a leaf") };
    // Two leaves that give the same chunk two lengths; each is a good page by itself.
    let with = |path: &str, length: u32| {
        let mut leaf = leaf.clone();
        leaf.records.truncate(1);
        leaf.chunks.truncate(1);
        leaf.chunks[0].length = length;
        leaf.records[0].path = path.into();
        leaf.records[0].size = u64::from(length);
        leaf.records[0].content =
            crate::record::Content::Whole(vec![crate::record::Extent { chunk: 0, offset: 0, length }]);
        leaf
    };
    let (first, second) = (Page::Leaf(with("a", 10)), Page::Leaf(with("b", 20)));
    let child = |page: &Page, path: &str, bytes| crate::page::ChildRef {
        id: version.pages.insert(page.clone()),
        first: path.into(),
        files: 1,
        samples: 1,
        bytes,
        chunks: 1,
    };
    let children = vec![child(&first, "a", 10), child(&second, "b", 20)];
    let root = Page::Inner { level: 1, children };
    let id = version.pages.insert(root.clone());
    version.manifest.height = 1;
    version.manifest.root =
        Some(crate::page::ChildRef { id, first: b"a".to_vec(), files: 2, samples: 2, bytes: 30, chunks: 2 });
    let mut receiver = receiver(&version, false);
    for page in [&root, &first, &second] {
        let key = ItemKey::Page(crate::id::ChunkId::of(&page.encode()));
        let bytes = page.encode().len() as u32;
        let header = ItemHeader { key, plain_bytes: bytes, payload_bytes: bytes, ..page_header(&version) };
        receiver.handle_item(&header).expect("asked for");
        receiver.handle_verified(key, Some(page));
        if page != &second {
            drain(&mut receiver);
        }
    }
    let violation = broken(&mut receiver);
    assert!(violation.to_string().contains("its chunk 10 and 20 bytes"), "{violation}");
}

#[test]
fn a_receiver_ends_when_the_sender_withdraws_and_not_once_it_commits() {
    let version = version();
    let mut receiver = receiver(&version, true);
    receiver.handle_message(NOW, &Message::Withdraw { transfer: 0 });
    assert_eq!(drain(&mut receiver), [ReceiveAction::Finished(ReceiveEnd::Withdrawn)]);

    let empty = Version::of(&Files::new());
    let mut receiver = Receiver::new(0, &empty.manifest, ReceiveLimits::default()).expect("good");
    assert_eq!(drain(&mut receiver), [ReceiveAction::Commit]);
    receiver.handle_message(NOW, &Message::Withdraw { transfer: 0 });
    receiver.handle_committed(vec![1], vec![]);
    let committed = Message::Committed { transfer: 0, commit: vec![1], receipt: vec![] };
    let end = ReceiveAction::Finished(ReceiveEnd::Committed);
    assert_eq!(drain(&mut receiver), [ReceiveAction::Send(committed), end]);

    let mut receiver = Receiver::new(0, &empty.manifest, ReceiveLimits::default()).expect("good");
    drain(&mut receiver);
    let refusal = Refusal { code: "HW-2001".into(), message: "no".into(), hint: "none".into() };
    receiver.refuse(refusal.clone());
    receiver.handle_committed(vec![1], vec![]);
    let refused = Message::Refused { transfer: Some(0), refusal: refusal.clone() };
    let end = ReceiveAction::Finished(ReceiveEnd::Refused(refusal));
    assert_eq!(drain(&mut receiver), [ReceiveAction::Send(refused), end]);
}

#[test]
fn messages_out_of_place_break_a_transfer() {
    let version = version();
    let range = |first, count| vec![OrdinalRange { first, count }];
    let to_receiver = [
        Message::Unavailable { transfer: 0, ranges: range(77, 1) },
        Message::Unavailable { transfer: 0, ranges: range(0, 1 << 40) },
        Message::Grant { transfer: 0, bytes: 1 },
    ];
    for message in to_receiver {
        let mut receiver = receiver(&version, true);
        receiver.handle_message(NOW, &message);
        broken(&mut receiver);
    }
    let offer = Message::Offer { transfer: 0, dataset: "d".into(), manifest: vec![], commit: vec![] };
    let to_sender = [
        Message::NeedChunks { transfer: 0, ranges: range(3, 2), partial: vec![] },
        Message::Stored { transfer: 0, ranges: range(4, 1) },
        Message::Again { transfer: 0, keys: vec![ItemKey::Chunk(4)] },
        Message::Incomplete { transfer: 0 },
        Message::Withdraw { transfer: 0 },
        Message::NeedPages { transfer: 0, ids: vec![version.root(); 5000] },
    ];
    for message in to_sender {
        let mut sender = Sender::new(0, 4, offer.clone());
        sender.handle_message(&message);
        assert_eq!(sender.state(), SendState::Broken, "{message:?}");
        let actions: Vec<_> = std::iter::from_fn(|| sender.poll_action()).collect();
        assert!(matches!(&actions[2], SendAction::Finished(SendEnd::Broken(_))), "{actions:?}");
        assert_eq!(actions[1], SendAction::Send(Message::Withdraw { transfer: 0 }));
    }
}

#[test]
fn a_smaller_window_withholds_grants_until_what_is_out_fits() {
    let version = version();
    let mut receiver = receiver(&version, true);
    let room = |window: u64| window - u64::from(PAYLOAD_BYTES_MAX);
    let grants = |receiver: &mut Receiver| {
        let actions = std::iter::from_fn(|| receiver.poll_action());
        let bytes = actions.map(|action| match action {
            ReceiveAction::Send(Message::Grant { bytes, .. }) => bytes,
            _ => 0,
        });
        bytes.sum::<u64>()
    };
    assert_eq!(grants(&mut receiver), 0, "all of the first window is granted");
    assert_eq!(receiver.exposure_bytes(), 8 << 20);
    receiver.handle_window(WINDOW_BYTES_MIN);
    let header = chunk_header(&version, 0);
    receiver.handle_item(&header).expect("asked for");
    receiver.handle_verified(header.key, None);
    receiver.handle_stored(NOW, &[header.key]);
    assert_eq!(grants(&mut receiver), 0, "more than the window is still out");
    receiver.handle_window(10 << 20);
    let settled = u64::from(header.payload_bytes);
    assert_eq!(grants(&mut receiver), room(10 << 20) + settled - room(8 << 20));
    receiver.handle_window(0);
    assert_eq!(grants(&mut receiver), 0);
}

#[test]
fn a_sender_begins_nothing_without_a_grant_and_leaves_none_of_one() {
    let offer = Message::Offer { transfer: 0, dataset: "d".into(), manifest: vec![], commit: vec![] };
    let mut sender = Sender::new(0, 100, offer);
    let ranges = vec![OrdinalRange { first: 0, count: 100 }];
    sender.handle_message(&Message::NeedChunks { transfer: 0, ranges, partial: vec![] });
    let mut loaded = 0;
    while let Some(action) = sender.poll_action() {
        if let SendAction::Load(load) = action {
            sender.handle_loaded(load.key, 1 << 20);
            loaded += 1;
        }
    }
    assert_eq!(loaded, 8, "no more is read than may wait");
    assert_eq!(sender.poll_transmit(), None);
    sender.handle_message(&Message::Grant { transfer: 0, bytes: (1 << 20) + 1 });
    assert_eq!(sender.poll_transmit(), Some(ItemKey::Chunk(0)));
    assert_eq!(sender.credit_bytes(), 1);
    assert_eq!(sender.poll_transmit(), Some(ItemKey::Chunk(1)), "the last one may be longer than the rest");
    assert_eq!(sender.poll_transmit(), None);
    // What was too much is taken off the next grant.
    sender.handle_message(&Message::Grant { transfer: 0, bytes: (1 << 20) - 1 });
    assert_eq!(sender.poll_transmit(), None);
    sender.handle_message(&Message::Grant { transfer: 0, bytes: 1 });
    assert_eq!(sender.poll_transmit(), Some(ItemKey::Chunk(2)));
}
