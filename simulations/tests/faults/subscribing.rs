//! A core that was taken over and gives subscribers what must not be written: nothing of it may reach their folders.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use headwater_protocol::compress;
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::record::{ChunkRef, FileKind, FileRecord};
use headwater_protocol::wire::{DeltaSource, Encoding, Following, Message, News};
use simulations::processes::folder::{self, Dice};
use simulations::processes::hostile::{Conduct, Forgery, HostileCore, Item, file};
use simulations::processes::{CoreProcess, Said};

use crate::manifests::unsafe_forgeries;
use crate::{DATASET, Pair};

/// A link at `path`.
fn link(path: &str, target: &str) -> FileRecord {
    FileRecord { kind: FileKind::Symlink, link_target: target.as_bytes().to_vec(), ..file(path.as_bytes(), None) }
}

/// A pair whose core was taken over; the subscriber wants all of these versions, and nothing else.
struct TakenOver {
    pair: Pair,
    hostile: HostileCore,
    names: Vec<(String, &'static str)>,
}

impl TakenOver {
    #[track_caller]
    fn new(forgeries: Vec<(&'static str, Forgery)>) -> Self {
        Self::with(forgeries, |_| {})
    }

    #[track_caller]
    fn with(forgeries: Vec<(&'static str, Forgery)>, change: impl FnOnce(&mut Conduct)) -> Self {
        let mut pair = Pair::synced();
        pair.core.stop();
        let mut names = Vec::new();
        let mut versions = HashMap::new();
        for (index, (name, forgery)) in forgeries.into_iter().enumerate() {
            let dataset = format!("bait/{index}");
            versions.insert(dataset.clone(), forgery);
            names.push((dataset, name));
        }
        let hostile = HostileCore::in_place_of(&pair.core, |_| {
            let mut conduct = Conduct { versions, ..Conduct::default() };
            change(&mut conduct);
            conduct
        });
        pair.subscriber.subscribe_to_many("bait/*");
        Self { pair, hostile, names }
    }

    /// Each version must have been refused for itself, with one of these codes.
    #[track_caller]
    fn assert_each(&self, said: &Said, codes: &[&str]) {
        let report = said.document();
        let problems = report["problems"].as_array().cloned().unwrap_or_default();
        for (dataset, name) in &self.names {
            let found = problems.iter().find(|problem| problem["dataset"] == *dataset);
            let Some(problem) = found else { panic!("{name}: no problem: {said:#?}") };
            let code = problem["code"].as_str().unwrap_or_default();
            assert!(codes.contains(&code), "{name}: {problem}");
            assert!(problem["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{name}: {problem}");
        }
        assert!(!said.stderr.contains("panicked"), "{said:#?}");
    }

    /// No file may have come, neither into the subscription nor elsewhere.
    #[track_caller]
    fn assert_nothing_written(&self) {
        let bait = self.pair.subscriber.scratch().join("subscribed");
        let found = if bait.exists() { folder::listing(&bait) } else { std::collections::BTreeMap::default() };
        let visible: Vec<_> = found.iter().filter(|(_, entry)| entry.0 != 'd').map(|(path, _)| path).collect();
        let current = visible.iter().any(|path| path.ends_with("current"));
        assert!(!current, "a version became visible: {visible:?}");
        for stray in ["passwd", "etc"] {
            let beside = self.pair.subscriber.scratch().join(stray);
            assert!(!beside.exists(), "`{}` was written", beside.display());
            assert!(!found.keys().any(|path| path.ends_with(stray)), "`{stray}` was written: {visible:?}");
        }
    }

    /// The true core comes back, and all is well.
    #[track_caller]
    fn recovers(mut self) {
        self.hostile.leave();
        self.pair.core.run();
        self.pair.subscriber.run_command(&["remove", "bait/*"]).success();
        let _ = self.pair.subscriber.run_command(&["remove", "all"]);
        self.pair.still_works();
    }
}

#[test]
fn versions_that_name_what_must_not_be() {
    let taken = TakenOver::new(unsafe_forgeries());
    let said = taken.pair.subscriber.sync_once();
    taken.assert_each(&said, &["HW-3004"]);
    taken.assert_nothing_written();
    taken.recovers();
}

#[test]
fn files_below_links_and_below_files() {
    let outside = tempfile::tempdir().expect("a folder");
    let target = outside.path().to_str().expect("plain");
    let bytes = b"malicious".to_vec();
    let chunk = ChunkRef { id: ChunkId::of(&bytes), length: bytes.len() as u32 };
    let with = |first: FileRecord| {
        let below = file(b"door/planted", Some(chunk));
        Forgery::of_records(vec![first, below], vec![chunk], vec![Some(Item::plain(&bytes))])
    };
    let taken = TakenOver::new(vec![
        ("below an absolute link", with(link("door", target))),
        ("below a relative link", with(link("door", "../../../../.."))),
        ("below a link to its own folder", with(link("door", "."))),
        ("below a file", with(file(b"door", None))),
    ]);
    let said = taken.pair.subscriber.sync_once();
    taken.assert_each(&said, &["HW-3004"]);
    taken.assert_nothing_written();
    assert_eq!(fs::read_dir(outside.path()).expect("listed").count(), 0, "something was planted outside");
    taken.recovers();
}

#[test]
fn links_that_lead_out_and_modes_that_give_power() {
    let bytes = b"#!/bin/sh\n".to_vec();
    let chunk = ChunkRef { id: ChunkId::of(&bytes), length: bytes.len() as u32 };
    let records = vec![
        FileRecord { mode: 0o6755, ..file(b"program", Some(chunk)) },
        link("to-etc", "/etc"),
        link("upwards", "../../../.."),
        link("within", "program"),
    ];
    let taken = TakenOver::new(vec![(
        "links and modes",
        Forgery::of_records(records, vec![chunk], vec![Some(Item::plain(&bytes))]),
    )]);
    taken.pair.subscriber.sync_once().success();
    let current = taken.pair.subscriber.scratch().join("subscribed/bait/bait/0/current");
    let mode = fs::metadata(current.join("program")).expect("there").permissions().mode();
    assert_eq!(mode & 0o7022, 0, "mode {mode:o}");
    for name in ["to-etc", "upwards"] {
        assert!(fs::symlink_metadata(current.join(name)).is_err(), "`{name}` leads out and was made");
    }
    assert_eq!(fs::read(current.join("within")).expect("it leads within"), bytes);
    taken.recovers();
}

#[test]
fn chunks_with_other_bytes_than_their_hash() {
    let bytes = Dice::new(21).bytes(90_000);
    let mut wrong = bytes.clone();
    wrong[1] ^= 1;
    let honest = Forgery::honest("a", &bytes);
    let with = |item| Forgery { chunks: vec![Some(item)], ..honest.clone() };
    // A page of its own: the device would take the others' from one another.
    let mut page = Forgery::honest("b", &Dice::new(22).bytes(90_000));
    for encoded in page.pages.values_mut() {
        encoded[20] ^= 1;
    }
    let taken = TakenOver::new(vec![
        ("other bytes", with(Item::plain(&wrong))),
        ("no frame", with(Item { encoding: Encoding::Zstd { from_offset: 0 }, ..Item::plain(&wrong) })),
        ("another page", page),
    ]);
    let said = taken.pair.subscriber.sync_once();
    taken.assert_each(&said, &["HW-3005"]);
    taken.assert_nothing_written();
    assert!(taken.hostile.overheard().asked_again <= 6, "it asks for ever");
    taken.recovers();
}

#[test]
fn commit_records_that_do_not_hold() {
    let mut pair = Pair::synced();
    pair.core.stop();
    let stranger = CoreProcess::init();
    let forgery = Forgery::honest("a", b"bytes");
    let foreign = {
        let identity = headwater_quic::Identity::load(stranger.data()).expect("keys");
        forgery.committed("bait/0", &identity)
    };
    let device = headwater_quic::Identity::load(&pair.publisher.identity()).expect("keys");
    let only_author = headwater_protocol::codec::encode_stored(&forgery.commit("bait/0", &device));
    for (name, commit) in
        [("none", Vec::new()), ("garbage", vec![7; 500]), ("another core's", foreign), ("no core's", only_author)]
    {
        let conduct = Conduct {
            versions: HashMap::from([("bait/0".to_owned(), forgery.clone())]),
            commit: Some(commit),
            ..Conduct::default()
        };
        let hostile = HostileCore::in_place_of(&pair.core, |_| conduct);
        pair.subscriber.subscribe_to_many("bait/*");
        let said = pair.subscriber.sync_once();
        let report = said.document();
        let code = report["problems"][0]["code"].as_str().unwrap_or_default();
        assert!(["HW-3004", "HW-1015"].contains(&code), "{name}: {said:#?}");
        assert!(!pair.subscriber.scratch().join("subscribed/bait/bait/0/current").exists(), "{name}: it was believed");
        pair.subscriber.run_command(&["remove", "bait/*"]).success();
        hostile.leave();
    }
    pair.core.run();
    pair.still_works();
}

#[test]
fn names_that_lead_out_of_the_subscription() {
    let names =
        ["../../../planted", "/tmp/planted", "bait/../../planted", "", ".hidden", "all/current/x", "versions", "a/b"];
    let news = |name: &str| {
        names.map(|dataset| {
            let newest = Following { dataset: dataset.to_owned(), number: 1, version: VersionId::of(b"whatever") };
            News { name: name.to_owned(), newest }
        })
    };
    let taken = TakenOver::with(Vec::new(), |conduct| {
        // The names come before anything was asked for, and again behind each name that is followed, and one that isn't.
        conduct.opening = vec![Message::News { question: 1, list: news("all").to_vec() }];
        let foreign = ["all", "bait/*", DATASET, "stranger"].map(news).concat();
        conduct.foreign = foreign.into_iter().map(|news| (news.name, news.newest.dataset)).collect();
    });
    taken.pair.subscriber.subscribe_to_many("all");
    let said = taken.pair.subscriber.sync_once();
    assert!(!said.stderr.contains("panicked"), "{said:#?}");
    let problems = said.document()["problems"].as_array().cloned().unwrap_or_default();
    let refused: Vec<_> = problems.iter().filter(|problem| problem["code"] == "HW-2003").collect();
    assert_eq!(refused.len(), names.len() - 1, "{problems:?}");
    taken.assert_nothing_written();
    let planted = taken.pair.subscriber.scratch().join("planted");
    assert!(!planted.exists());
    taken.recovers();
}

#[test]
fn a_core_of_another_authority() {
    let mut pair = Pair::synced();
    pair.core.stop();
    let stranger = CoreProcess::init();
    let hostile = HostileCore::with_keys_of(stranger.data(), &pair.core, |_| Conduct::default());
    pair.publisher.sync_once().problem("HW-1015", &[]);
    assert_eq!(hostile.overheard().sessions, 0, "it was spoken to");
    hostile.leave();
    pair.core.run();
    pair.still_works();
}

#[test]
fn a_delta_over_what_the_subscriber_does_not_have() {
    let absent = Dice::new(31).bytes(70_000);
    let target = [&absent[..60_000], b"and more"].concat();
    let sources = vec![DeltaSource { id: ChunkId::of(&absent), offset: 0, length: absent.len() as u32 }];
    let payload = compress::encode_delta(&absent, &target).expect("they share bytes");
    let item = Item { plain_bytes: target.len() as u32, encoding: Encoding::Delta { sources }, payload };
    let forgery = Forgery { chunks: vec![Some(item)], ..Forgery::honest("a", &target) };
    let taken = TakenOver::new(vec![("a delta", forgery)]);
    let said = taken.pair.subscriber.sync_once();
    taken.assert_each(&said, &["HW-3003", "HW-3005"]);
    taken.assert_nothing_written();
    taken.recovers();
}
