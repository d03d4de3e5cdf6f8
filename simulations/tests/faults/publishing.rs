//! A core that was taken over and deceives those who publish: about their own datasets, and about what they freed.

use std::collections::HashMap;

use headwater_protocol::id::VersionId;
use headwater_protocol::page::{ChildRef, LeafPage};
use headwater_protocol::wire::Following;
use simulations::processes::folder;
use simulations::processes::hostile::{Conduct, Forgery, HostileCore, encoded_leaf, file, leaf_reference};

use crate::{DATASET, Pair};

/// The newest version, as the true core has it.
#[track_caller]
fn head(pair: &Pair) -> Following {
    let raw = rusqlite::Connection::open(pair.publisher.data().join("catalog.db")).expect("opened");
    let (number, version) = raw
        .query_row("SELECT number, version FROM versions WHERE state = 2", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
        })
        .expect("a committed version");
    let version = VersionId::from_slice(&version).expect("an id");
    Following { dataset: DATASET.to_owned(), number: number as u64, version }
}

#[test]
fn a_version_of_its_own_that_can_not_be_is_not_taken_over() {
    let leaf = LeafPage { chunks: Vec::new(), records: vec![file(b"a", None), file(b"b", None)] };
    let encoded = encoded_leaf(&leaf);
    let root = leaf_reference(&leaf, &encoded);
    let lies = [
        ("more files than there are", ChildRef { files: 1_000_000, ..root.clone() }, 2),
        ("more bytes than there are", ChildRef { bytes: 1 << 40, ..root.clone() }, 2),
        ("a number that was not said", root, 7),
    ];
    for (name, root, number) in lies {
        let mut pair = Pair::synced();
        let truth = head(&pair);
        pair.core.stop();
        let forgery = Forgery { number, ..Forgery::new(encoded.clone(), root, Vec::new()) };
        let said = Following { dataset: DATASET.to_owned(), number: 2, version: forgery.version() };
        let hostile = HostileCore::in_place_of(&pair.core, |_| Conduct {
            heads: vec![said],
            versions: HashMap::from([(DATASET.to_owned(), forgery)]),
            ..Conduct::default()
        });
        let refused = pair.publisher.sync_once();
        refused.problem("HW-3004", &[]);
        assert_eq!(head(&pair), truth, "{name}: the catalog believes it");
        hostile.leave();
        pair.core.run();
        pair.still_works();
    }
}

#[test]
fn nothing_is_freed_while_the_core_does_not_say_that_it_has_noted_it() {
    let mut pair = Pair::new();
    let freed = pair.source.join("freed.bin");
    folder::write(&freed, &vec![7; 300_000]);
    pair.publisher.sync();
    let newest = head(&pair);
    pair.core.stop();
    // It hears what will be freed, and says nothing.
    let silent = HostileCore::in_place_of(&pair.core, |_| Conduct {
        heads: vec![newest],
        is_patient: true,
        ..Conduct::default()
    });
    pair.publisher.run();
    pair.publisher.wait_status("a session", |status| status["link"] == "connected");
    pair.publisher.run_command(&["free", DATASET, "freed.bin"]).failed("HW-2005", &[]);
    assert!(freed.exists(), "bytes went that the core may drop without a word");
    assert!(silent.overheard().messages.iter().any(|message| message.starts_with("Freed")), "it was not even asked");
    assert_eq!(pair.publisher.ask(&["status"])["datasets"][0]["remote_files"], 0);

    pair.publisher.stop();
    silent.leave();
    pair.core.run();
    pair.publisher.run();
    pair.publisher.wait_status("a session", |status| status["link"] == "connected");
    pair.publisher.run_command(&["free", DATASET, "freed.bin"]).success();
    assert!(!freed.exists());
    pair.publisher.stop();
}
