//! Versions that a hostile device offers to the core: paths that lead elsewhere, things that are no files, bytes that are not
//! what their hash says, and bytes that belong to others.

use headwater_protocol::compress;
use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::page::{ChildRef, LeafPage};
use headwater_protocol::record::{ChunkRef, FileKind, FileRecord};
use headwater_protocol::wire::{DeltaSource, Encoding, Refusal};
use simulations::processes::folder::Dice;
use simulations::processes::hostile::{
    Answer, Forgery, HostileDevice, Item, encoded_leaf, file, leaf_reference, with_device_file,
};
use simulations::processes::{AgentProcess, Rights, folder};

use crate::{DATASET, Pair};

/// The dataset under which the villain publishes.
const VILLAINOUS: &str = "villain/data";

/// A working pair, and a device that may read nothing and publishes forgeries.
fn with_villain() -> (Pair, AgentProcess) {
    let pair = Pair::synced();
    let villain = pair.core.device_with("villain", Rights { write: "**", read: "nothing" });
    (pair, villain)
}

#[track_caller]
fn assert_refused(name: &str, answer: &Answer, codes: &[&str]) -> Refusal {
    match answer {
        Answer::Refused(refusal) => {
            assert!(codes.contains(&refusal.code.as_str()), "{name}: {refusal:?}");
            assert!(!refusal.hint.is_empty() && !refusal.message.is_empty(), "{name}: {refusal:?}");
            refusal.clone()
        }
        other => panic!("{name}: {other:?}"),
    }
}

/// The core must refuse each, keep nothing of it, and go on.
#[track_caller]
fn check_refused(forgeries: Vec<(&str, Forgery)>, codes: &[&str]) {
    let (mut pair, villain) = with_villain();
    for (name, forgery) in forgeries {
        let mut device = HostileDevice::greeted(&villain, &pair.core);
        let answer = device.offer(VILLAINOUS, &forgery);
        assert_refused(name, &answer, codes);
        assert!(pair.core.is_running(), "{name}");
    }
    let datasets = pair.core.list(&["dataset", "list"]);
    assert_eq!(datasets.len(), 1, "something was committed: {datasets:?}");
    assert_eq!(pair.core.ask(&["device", "show", "villain"])["state"], "away");
    let errors = pair.core.ask(&["status"])["errors"].to_string();
    assert!(errors.contains("villain"), "the operator is not told: {errors}");
    pair.still_works();
}

/// Versions whose records can't be; they are as dangerous to a subscriber as to the core.
pub(crate) fn unsafe_forgeries() -> Vec<(&'static str, Forgery)> {
    let bytes = b"root::0:0:root:/root:/bin/sh\n".repeat(10);
    let chunk = ChunkRef { id: ChunkId::of(&bytes), length: bytes.len() as u32 };
    let with = |name: &'static str, records: Vec<FileRecord>| {
        let uses = records.iter().any(|record| record.size > 0);
        let table = if uses { vec![chunk] } else { Vec::new() };
        let leaf = LeafPage { chunks: table, records };
        let encoded = encoded_leaf(&leaf);
        // The reference from the manifest is harmless, so that it is the page that has to be looked at.
        let root = ChildRef { first: b"a".to_vec(), ..leaf_reference(&leaf, &encoded) };
        (name, Forgery::new(encoded, root, vec![Some(Item::plain(&bytes))]))
    };
    let evil = |path: &[u8]| vec![file(b"a", None), file(path, Some(chunk))];
    let link = |path: &[u8], target: &[u8]| FileRecord {
        kind: FileKind::Symlink,
        link_target: target.to_vec(),
        ..file(path, None)
    };
    let (device_page, device_root) = with_device_file(b"a");
    let million_parts = [&b"b"[..], &b"/x".repeat(500_000)].concat();
    vec![
        with("a path upwards", evil(b"../../etc/passwd")),
        with("a path upwards in its middle", evil(b"b/../../../etc/passwd")),
        with("a path upwards at its end", evil(b"b/..")),
        with("an absolute path", evil(b"/etc/passwd")),
        with("a path with a NUL", evil(b"b\0c")),
        with("an empty part", evil(b"b//c")),
        with("a dot", evil(b"b/./c")),
        with("half a million parts", evil(&million_parts)),
        with("a million slashes", evil(&vec![b'/'; 1_000_000])),
        with("a part of a million letters", evil(&vec![b'x'; 1_000_000])),
        with("records out of order", vec![file(b"a", None), file(b"c", Some(chunk)), file(b"b", None)]),
        with("a path twice", vec![file(b"a", None), file(b"b", Some(chunk)), file(b"b", Some(chunk))]),
        with("a link without a target", vec![file(b"a", None), link(b"b", b"")]),
        with("a mode out of bounds", vec![file(b"a", None), FileRecord { mode: 0o170_777, ..file(b"b", Some(chunk)) }]),
        with(
            "a size that is not its content's",
            vec![file(b"a", None), FileRecord { size: 1 << 50, ..file(b"b", Some(chunk)) }],
        ),
        ("a device file", Forgery::new(device_page, device_root, Vec::new())),
        ("garbage for a page", {
            let garbage = Dice::new(3).bytes(2000);
            let root =
                ChildRef { id: ChunkId::of(&garbage), first: b"a".to_vec(), files: 1, samples: 1, bytes: 0, chunks: 0 };
            Forgery::new(garbage, root, Vec::new())
        }),
    ]
}

#[test]
fn pages_that_name_what_must_not_be() {
    check_refused(unsafe_forgeries(), &["HW-3004"]);
}

#[test]
fn manifests_that_name_what_must_not_be() {
    let leaf = LeafPage { chunks: Vec::new(), records: vec![file(b"a", None)] };
    let encoded = encoded_leaf(&leaf);
    let root = leaf_reference(&leaf, &encoded);
    let with = |name, root| (name, Forgery::new(encoded.clone(), root, Vec::new()));
    let garbage = |name, manifest: Vec<u8>| (name, Forgery { manifest, ..Forgery::honest("a", b"a") });
    let mut tall = Forgery::new(encoded.clone(), root.clone(), Vec::new());
    let mut manifest = Manifest::decode(&tall.manifest).expect("a manifest");
    manifest.height = 3;
    tall.manifest = manifest.encode();
    let whole = Forgery::honest("a", b"a").manifest;
    check_refused(
        vec![
            with("a path upwards", ChildRef { first: b"../../etc/passwd".to_vec(), ..root.clone() }),
            with("an absolute path", ChildRef { first: b"/etc/passwd".to_vec(), ..root.clone() }),
            with("a path of many parts", ChildRef { first: b"a/".repeat(20_000), ..root.clone() }),
            with("more files than there are", ChildRef { files: u64::MAX, ..root.clone() }),
            with("more bytes than there are", ChildRef { bytes: 1 << 60, ..root.clone() }),
            with("more chunks than there are", ChildRef { chunks: 1 << 60, ..root.clone() }),
            with("a first path that is another's", ChildRef { first: b"b".to_vec(), ..root.clone() }),
            ("a tree that is not as tall as said", tall),
            garbage("nothing", Vec::new()),
            garbage("garbage", Dice::new(4).bytes(500)),
            garbage("half a manifest", whole[..whole.len() / 2].to_vec()),
            garbage("a manifest from the future", {
                let mut bytes = whole.clone();
                bytes[4] = 9;
                bytes
            }),
        ],
        &["HW-3004", "HW-3003"],
    );
}

#[test]
fn a_chunk_with_other_bytes_than_its_hash() {
    let (pair, villain) = with_villain();
    let bytes = Dice::new(5).bytes(100_000);
    let mut wrong = bytes.clone();
    wrong[50_000] ^= 1;
    let honest = Forgery::honest("a", &bytes);
    let bomb = {
        let zeros = vec![0; 1 << 20];
        compress::compress(&zeros, 1).expect("zeros compress")
    };
    let variants = [
        ("other bytes", Item::plain(&wrong)),
        (
            "other bytes, compressed",
            Item { payload: bomb.clone(), encoding: Encoding::Zstd { from_offset: 0 }, ..Item::plain(&wrong) },
        ),
        ("no frame", Item { encoding: Encoding::Zstd { from_offset: 0 }, ..Item::plain(&wrong) }),
    ];
    for (name, item) in variants {
        let mut device = HostileDevice::greeted(&villain, &pair.core);
        let answer = device.offer(VILLAINOUS, &Forgery { chunks: vec![Some(item)], ..honest.clone() });
        assert_refused(name, &answer, &["HW-3005"]);
        assert!(device.asked_again <= 3, "{name}: asked {} times more", device.asked_again);
    }
    // A page with other bytes than its hash.
    let mut device = HostileDevice::greeted(&villain, &pair.core);
    let mut forged = Forgery::honest("b", &bytes);
    for page in forged.pages.values_mut() {
        let last = page.len() - 1;
        page[last] ^= 1;
    }
    assert_refused("a page", &device.offer(VILLAINOUS, &forged), &["HW-3005"]);
    // Headers that promise other lengths than the version does.
    for item in [Item::plain(&bytes[..99_999]), Item::plain(&[&bytes[..], b"x"].concat())] {
        let mut device = HostileDevice::greeted(&villain, &pair.core);
        match device.offer(VILLAINOUS, &Forgery { chunks: vec![Some(item)], ..honest.clone() }) {
            answer @ Answer::Refused(_) => drop(assert_refused("a length", &answer, &["HW-3003", "HW-3005"])),
            Answer::Closed(_, words) => assert!(!words.is_empty()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pair.core.list(&["dataset", "list"]).len(), 1, "something was committed");
    // The truth is taken.
    let mut device = HostileDevice::greeted(&villain, &pair.core);
    assert!(matches!(device.offer(VILLAINOUS, &honest), Answer::Committed));
    pair.still_works();
}

/// The only chunk of a file at the core that is one chunk, and its bytes.
fn foreign_chunk(pair: &Pair) -> Vec<u8> {
    let secret = Dice::new(99).bytes(70_000);
    folder::write(&pair.source.join("secret.bin"), &secret);
    pair.publisher.sync();
    secret
}

#[test]
fn a_chunk_outside_its_scope() {
    let (pair, villain) = with_villain();
    let secret = foreign_chunk(&pair);
    let absent = Dice::new(100).bytes(70_000);
    // The villain knows the hash of the secret and of something that nobody has. It must look the same to it.
    for bytes in [&secret, &absent] {
        let forgery = Forgery { chunks: vec![None], ..Forgery::honest("loot", bytes) };
        let mut device = HostileDevice::greeted(&villain, &pair.core);
        let answer = device.offer(VILLAINOUS, &forgery);
        assert!(matches!(answer, Answer::Incomplete), "{answer:?}");
        assert_eq!(device.asked_chunks, [0], "it must be asked for what it has no right to");
    }
    assert_eq!(pair.core.list(&["dataset", "list"]).len(), 1, "something was committed");
    // One who has the bytes themselves may publish them, and they are stored once.
    let before = pair.core.ask(&["status"])["stored_bytes"].as_u64();
    let mut device = HostileDevice::greeted(&villain, &pair.core);
    assert!(matches!(device.offer(VILLAINOUS, &Forgery::honest("mine", &secret)), Answer::Committed));
    assert_eq!(device.asked_chunks, [0]);
    let after = pair.core.ask(&["status"])["stored_bytes"].as_u64();
    assert!(after < before.map(|before| before + 60_000), "stored twice: {before:?} and {after:?}");
    pair.still_works();
}

#[test]
fn a_delta_over_a_source_outside_its_scope() {
    let (pair, villain) = with_villain();
    let secret = foreign_chunk(&pair);
    let absent = Dice::new(100).bytes(70_000);
    let target = [&secret[..60_000], b"and my own words"].concat();
    let delta_over = |source: &[u8]| {
        let source_id = ChunkId::of(source);
        let encoding =
            Encoding::Delta { sources: vec![DeltaSource { id: source_id, offset: 0, length: source.len() as u32 }] };
        let payload = compress::encode_delta(source, &target).unwrap_or_else(|| vec![1, 2, 3]);
        Item { plain_bytes: target.len() as u32, encoding, payload }
    };
    let mut asked = Vec::new();
    for source in [&secret, &absent] {
        let forgery = Forgery { chunks: vec![Some(delta_over(source))], ..Forgery::honest("loot", &target) };
        let mut device = HostileDevice::greeted(&villain, &pair.core);
        let answer = device.offer(VILLAINOUS, &forgery);
        // The villain answers the request for plain bytes with the same delta, which ends it.
        let refusal = match answer {
            Answer::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        };
        asked.push((refusal.code, device.asked_again));
    }
    assert_eq!(asked[0], asked[1], "knowing a hash reveals something");
    assert_eq!(pair.core.list(&["dataset", "list"]).len(), 1, "something was committed");
    pair.still_works();
}

#[test]
fn a_version_in_the_name_of_another() {
    let (pair, villain) = with_villain();
    let forgery = Forgery::honest("a", b"mine now");
    let mut device = HostileDevice::greeted(&villain, &pair.core);
    assert_refused("another's dataset", &device.offer(DATASET, &forgery), &["HW-2001"]);
    // Signed by another key than the device's own.
    let north = HostileDevice::connect(&pair.publisher, &pair.core);
    let stolen = forgery.commit(VILLAINOUS, north.identity());
    assert_refused("another's signature", &device.offer_with(VILLAINOUS, &forgery, &stolen), &["HW-3004", "HW-1015"]);
    let mut tampered = forgery.commit(VILLAINOUS, device.identity());
    tampered.number = 2;
    assert_refused("a changed number", &device.offer_with(VILLAINOUS, &forgery, &tampered), &["HW-1015"]);
    let other = forgery.commit("villain/other", device.identity());
    assert_refused("another dataset", &device.offer_with(VILLAINOUS, &forgery, &other), &["HW-3004"]);
    // A number that does not follow.
    let late = Forgery { number: 5, ..forgery.clone() };
    assert_refused("a number that does not follow", &device.offer(VILLAINOUS, &late), &["HW-2009"]);
    for name in ["../x", "/x", "", "a b", ".hidden", &"x/".repeat(1000)] {
        let answer = device.offer_as(name, VILLAINOUS, &forgery);
        assert_refused(name, &answer, &["HW-2003", "HW-3004", "HW-3003"]);
    }
    assert!(matches!(device.offer(VILLAINOUS, &forgery), Answer::Committed));
    // A name that no message may hold ends the session.
    assert!(matches!(device.offer_as(&"x".repeat(100_000), VILLAINOUS, &forgery), Answer::Closed(..)));
    let orphan = Forgery { number: 2, ..Forgery::honest("a", b"another") };
    let mut device = HostileDevice::greeted(&villain, &pair.core);
    assert_refused("a parent that is not the newest", &device.offer(VILLAINOUS, &orphan), &["HW-2009"]);
    pair.still_works();
}
