//! Local datasets stay on the device, whatever a core asks.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use headwater_protocol::compress;
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::manifest::Manifest;
use headwater_protocol::wire::{DeltaSource, Encoding, Message};
use simulations::processes::folder::{self, Dice};
use simulations::processes::hostile::{Conduct, Forgery, HostileCore, Item};

use crate::Pair;

/// Names that the core is told by nobody, so that hearing one is proof.
const DIARY: &str = "diary-5e1f";
const FILE: &str = "entry-91c4.bin";

/// A synced pair whose publisher also keeps a local dataset; and the bytes in it.
fn with_diary() -> (Pair, Vec<u8>) {
    let pair = Pair::synced();
    let secret = Dice::new(41).bytes(80_000);
    let folder = diary_folder(&pair);
    folder::write(&folder.join(FILE), &secret);
    folder::write(&folder.join("note-77aa.txt"), b"dear diary");
    pair.publisher.run_command(&["local", folder.to_str().expect("plain"), "--dataset", DIARY]).success();
    let report = pair.publisher.sync();
    assert_eq!(report["local"][0]["dataset"], DIARY, "{report}");
    (pair, secret)
}

fn diary_folder(pair: &Pair) -> PathBuf {
    pair.publisher.scratch().join("diary")
}

/// The newest version of the diary and the ids of its pages, out of the device's own catalog.
fn diary_ids(pair: &Pair) -> (VersionId, Vec<ChunkId>) {
    let catalog = rusqlite::Connection::open(pair.publisher.data().join("catalog.db")).expect("a catalog");
    let id: i64 = catalog
        .query_row("SELECT id FROM datasets WHERE name = ?1", [DIARY], |row| row.get(0))
        .expect("the catalog has the diary");
    let manifest: Vec<u8> = catalog
        .query_row("SELECT manifest FROM versions WHERE dataset = ?1 ORDER BY number DESC", [id], |row| row.get(0))
        .expect("the diary has a version");
    let mut statement = catalog.prepare("SELECT id FROM pages WHERE dataset = ?1").expect("pages");
    let pages = statement
        .query_map([id], |row| row.get::<_, Vec<u8>>(0))
        .expect("pages")
        .map(|id| ChunkId::from_slice(&id.expect("a row")).expect("an id"))
        .collect();
    (Manifest::id_of(&manifest), pages)
}

#[test]
fn an_honest_core_hears_nothing_of_it() {
    let (pair, secret) = with_diary();
    for dataset in pair.core.list(&["dataset", "list"]) {
        assert_ne!(dataset["name"], DIARY);
    }
    let log = pair.core.log();
    assert!(!log.contains(DIARY));
    let whole = folder::listing(pair.core.data());
    let holds = |needle: &[u8]| {
        whole
            .iter()
            .find(|(_, (_, bytes, _))| bytes.windows(needle.len()).any(|window| window == needle))
            .map(|(path, _)| path.clone())
    };
    for needle in [&secret[..64], DIARY.as_bytes(), FILE.as_bytes(), ChunkId::of(&secret).as_bytes()] {
        assert_eq!(holds(needle), None, "the core has it");
    }
    // It is kept on the device all the same.
    folder::write(&diary_folder(&pair).join("later.txt"), b"another day");
    let report = pair.publisher.sync();
    assert_eq!(report["local"][0]["number"], 2, "{report}");
    pair.still_works();
}

#[test]
fn a_hostile_core_that_asks_for_everything() {
    let (mut pair, secret) = with_diary();
    let (version, pages) = diary_ids(&pair);
    assert!(!pages.is_empty());
    pair.core.stop();
    // Subscribers tell which chunks they lack: a bait of one's own making asks "do you have this?".
    let chunk_of_diary = Forgery { chunks: vec![None], ..Forgery::honest("bait", &secret) };
    // A delta asks the same: only who has the source can take it.
    let target = [&secret[..70_000], b"!"].concat();
    let sources = vec![DeltaSource { id: ChunkId::of(&secret), offset: 0, length: secret.len() as u32 }];
    let payload = compress::encode_delta(&secret, &target).expect("they share bytes");
    let delta = Item { plain_bytes: target.len() as u32, encoding: Encoding::Delta { sources }, payload };
    let delta_of_diary = Forgery { chunks: vec![Some(delta)], ..Forgery::honest("bait", &target) };
    let absent = VersionId::of(b"no such version");
    let conduct = Conduct {
        versions: HashMap::from([("bait/chunk".to_owned(), chunk_of_diary), ("bait/delta".to_owned(), delta_of_diary)]),
        // By its name and id, by its id under a name that is published, by its name alone, and what doesn't exist.
        fetches: vec![
            (DIARY.to_owned(), version),
            ("cam/north".to_owned(), version),
            (DIARY.to_owned(), absent),
            ("nonesuch".to_owned(), absent),
        ],
        pages: pages.clone(),
        opening: vec![
            Message::Heads { question: 1, datasets: Vec::new() },
            Message::Heads { question: 2, datasets: vec![DIARY.to_owned()] },
            Message::Follow { question: 1, names: vec!["**".to_owned(), DIARY.to_owned()] },
            Message::Control { request: 1, body: r#"{"command":"status"}"#.to_owned() },
            Message::Control { request: 2, body: r#"{"command":"log","after":0,"count":1000}"#.to_owned() },
        ],
        ..Conduct::default()
    };
    let hostile = HostileCore::in_place_of(&pair.core, |_| conduct);
    pair.publisher.subscribe_to_many("bait/*");
    folder::write(&pair.source.join("news.txt"), b"so that something is offered");
    let said = pair.publisher.sync_once();
    assert!(!said.stderr.contains("panicked"), "{said:#?}");
    pair.publisher.run();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    pair.publisher.stop();
    let heard = hostile.overheard();
    hostile.leave();

    assert!(heard.sessions >= 2, "{heard:?}");
    assert!(
        heard.asked_chunks.contains(&("bait/chunk".to_owned(), 0)),
        "the device said that it has the diary's chunk"
    );
    assert!(heard.asked_again > 0, "the device took a delta over the diary");
    for offer in &heard.offers {
        assert_ne!(offer, DIARY);
    }
    let refusals: Vec<String> = [1, 3, 5, 7]
        .map(|transfer| {
            let marker = format!("transfer: Some({transfer})");
            let found =
                heard.messages.iter().find(|message| message.starts_with("Refused") && message.contains(&marker));
            let Some(found) = found else { panic!("fetch {transfer} was not refused: {:#?}", heard.messages) };
            let plain = found.replace(&marker, "").replace("cam/north", "NAME").replace("nonesuch", "NAME");
            plain.replace(DIARY, "NAME")
        })
        .to_vec();
    assert_eq!(refusals[0], refusals[3], "a local dataset looks other than none");
    assert_eq!(refusals[2], refusals[3], "a local dataset looks other than none");
    // Its name is only where the core's own question is repeated.
    let unasked: Vec<_> =
        heard.messages.iter().filter(|said| said.contains(DIARY) && !said.starts_with("Refused")).collect();
    assert!(unasked.is_empty(), "{unasked:?}");
    for (what, needle) in [
        ("bytes", &secret[..64]),
        ("a hash", &ChunkId::of(&secret).as_bytes()[..]),
        ("a version id", version.as_bytes()),
        ("a file's name", FILE.as_bytes()),
        ("a small file", b"dear diary"),
    ] {
        assert!(!heard.holds(needle), "{what} of the diary left the device");
    }
    for page in &pages {
        assert!(!heard.holds(page.as_bytes()), "the id of a page of the diary left the device");
    }

    pair.core.run();
    pair.publisher.run_command(&["remove", "bait/*"]).success();
    pair.still_works();
    assert_eq!(fs::read(diary_folder(&pair).join(FILE)).expect("still there"), secret);
}

#[test]
fn a_local_folder_can_not_be_published_by_the_back_door() {
    let (pair, _) = with_diary();
    let folder = diary_folder(&pair);
    let text = |path: &Path| path.to_str().expect("plain").to_owned();
    let same = pair.publisher.run_command(&["publish", &text(&folder), "--dataset", "leak"]);
    same.failed("HW-5001", &[]).says(&["local", "would leave the device"]);
    let inner = folder.join("inner");
    fs::create_dir(&inner).expect("made");
    let said = pair.publisher.run_command(&["publish", &text(&inner), "--dataset", "leak"]);
    assert_eq!(said.status, Some(1), "{said:#?}");
    let outer = pair.publisher.run_command(&["publish", &text(pair.publisher.scratch()), "--dataset", "leak"]);
    assert_eq!(outer.status, Some(1), "{outer:#?}");
    pair.still_works();
}
