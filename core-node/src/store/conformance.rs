//! What every store of packs must do, as one suite that each implementation runs.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::{LocalPacks, MemoryPacks, PackError, PackInfo, PackStore};
use crate::catalog::PackNumber;

const FIRST: PackNumber = PackNumber(1);
const SECOND: PackNumber = PackNumber(2);
/// More packs than any implementation keeps open, and more parts than a system takes in one call.
const MANY: u64 = 1500;

/// A store, and how another process would find it later.
struct Place {
    packs: Arc<dyn PackStore>,
    /// What is there after everything that is not durable has gone.
    reopen: Box<dyn Fn() -> Arc<dyn PackStore>>,
}

impl Place {
    fn in_memory() -> Self {
        let packs = Arc::new(MemoryPacks::new());
        let kept = Arc::clone(&packs);
        Self { packs, reopen: Box::new(move || Arc::new(kept.after_power_cut(|_, _| 0, |_| false))) }
    }

    fn in_folder(folder: &std::path::Path) -> Self {
        let folder = folder.join("packs");
        let open = move || -> Arc<dyn PackStore> { Arc::new(LocalPacks::open(&folder).unwrap()) };
        Self { packs: open(), reopen: Box::new(open) }
    }
}

macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $name() { super::$name(&super::Place::in_memory()); })*
        }
        mod local {
            $(#[test] fn $name() {
                let folder = tempfile::tempdir().unwrap();
                super::$name(&super::Place::in_folder(folder.path()));
            })*
        }
    };
}

conformance!(
    what_is_appended_is_read_back,
    an_append_elsewhere_than_at_the_end_is_refused,
    a_pack_is_created_once,
    reads_beyond_the_end_are_short,
    truncation_cuts_and_never_extends,
    a_pack_that_is_not_there_is_said,
    deletion_leaves_nothing_to_read,
    packs_are_listed_by_number,
    what_was_synced_is_there_later,
    many_packs_and_many_parts_at_once,
    reads_go_on_beside_appends,
);

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn all(packs: &dyn PackStore, pack: PackNumber) -> Bytes {
    let info = packs.list().unwrap().into_iter().find(|info| info.number == pack).expect("it is listed");
    packs.read(pack, 0, info.bytes as usize).unwrap()
}

fn what_is_appended_is_read_back(place: &Place) {
    let packs = &*place.packs;
    packs.create(FIRST).unwrap();
    assert_eq!(packs.read(FIRST, 0, 0).unwrap(), "", "a new pack is empty");
    packs.append(FIRST, 0, &[bytes("head"), bytes(""), bytes("er")]).unwrap();
    packs.append(FIRST, 6, &[]).unwrap();
    packs.append(FIRST, 6, &[bytes(" and tail")]).unwrap();
    assert_eq!(all(packs, FIRST), "header and tail");
    assert_eq!(packs.read(FIRST, 7, 3).unwrap(), "and", "before it is synced too");
    packs.sync(FIRST).unwrap();
    packs.seal(FIRST).unwrap();
    assert_eq!(all(packs, FIRST), "header and tail");
}

fn an_append_elsewhere_than_at_the_end_is_refused(place: &Place) {
    let packs = &*place.packs;
    packs.create(FIRST).unwrap();
    packs.append(FIRST, 0, &[bytes("1234")]).unwrap();
    for at in [0, 3, 5, u64::MAX] {
        let refused = packs.append(FIRST, at, &[bytes("no")]);
        assert!(matches!(refused, Err(PackError::Io { action: "write", pack: FIRST, .. })), "{at}: {refused:?}");
    }
    assert_eq!(all(packs, FIRST), "1234", "a refused append leaves nothing");
    packs.append(FIRST, 4, &[bytes("5")]).unwrap();
    assert_eq!(all(packs, FIRST), "12345");
}

fn a_pack_is_created_once(place: &Place) {
    let packs = &*place.packs;
    packs.create(FIRST).unwrap();
    packs.append(FIRST, 0, &[bytes("kept")]).unwrap();
    let again = packs.create(FIRST);
    assert!(
        matches!(&again, Err(PackError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists),
        "{again:?}"
    );
    assert_eq!(all(packs, FIRST), "kept");
}

fn reads_beyond_the_end_are_short(place: &Place) {
    let packs = &*place.packs;
    packs.create(FIRST).unwrap();
    packs.append(FIRST, 0, &[bytes("1234")]).unwrap();
    for (offset, length) in [(0, 5), (3, 2), (4, 1), (5, 1), (99, 1), (i64::MAX as u64, 1), (u64::MAX, 2)] {
        let short = packs.read(FIRST, offset, length);
        let end = offset.saturating_add(length as u64);
        assert!(
            matches!(short, Err(PackError::Short { pack: FIRST, end: found }) if found == end),
            "{offset} {length}: {short:?}"
        );
    }
    assert_eq!(packs.read(FIRST, 3, 1).unwrap(), "4");
    assert_eq!(packs.read(FIRST, 4, 0).unwrap(), "");
}

fn truncation_cuts_and_never_extends(place: &Place) {
    let packs = &*place.packs;
    packs.create(FIRST).unwrap();
    packs.append(FIRST, 0, &[bytes("whole"), bytes("torn")]).unwrap();
    packs.sync_folder().unwrap();
    packs.truncate(FIRST, 5).unwrap();
    assert_eq!(all(packs, FIRST), "whole");
    packs.truncate(FIRST, 99).unwrap();
    assert_eq!(all(packs, FIRST), "whole", "there is nothing beyond to cut");
    packs.sync(FIRST).unwrap();
    assert_eq!(all(&*(place.reopen)(), FIRST), "whole", "a cut is durable once it is synced");
    assert!(packs.append(FIRST, 9, &[bytes("no")]).is_err());
    packs.append(FIRST, 5, &[bytes("some")]).unwrap();
    assert_eq!(all(packs, FIRST), "wholesome");
}

fn a_pack_that_is_not_there_is_said(place: &Place) {
    let packs = &*place.packs;
    packs.create(SECOND).unwrap();
    let outcomes = [
        packs.append(FIRST, 0, &[bytes("x")]),
        packs.sync(FIRST),
        packs.seal(FIRST),
        packs.truncate(FIRST, 0),
        packs.read(FIRST, 0, 1).map(|_| ()),
        packs.read(FIRST, 0, 0).map(|_| ()),
    ];
    for (position, outcome) in outcomes.into_iter().enumerate() {
        assert!(matches!(outcome, Err(PackError::NotFound { pack: FIRST })), "{position}: {outcome:?}");
    }
    packs.sync_folder().unwrap();
    assert_eq!(packs.list().unwrap(), [PackInfo { number: SECOND, bytes: 0 }], "nothing was made on the way");
}

fn deletion_leaves_nothing_to_read(place: &Place) {
    let packs = &*place.packs;
    for pack in [FIRST, SECOND] {
        packs.create(pack).unwrap();
        packs.append(pack, 0, &[bytes("bytes")]).unwrap();
        packs.sync(pack).unwrap();
    }
    packs.sync_folder().unwrap();
    packs.delete(FIRST).unwrap();
    assert!(matches!(packs.read(FIRST, 0, 5), Err(PackError::NotFound { pack: FIRST })));
    assert!(matches!(packs.append(FIRST, 5, &[bytes("x")]), Err(PackError::NotFound { pack: FIRST })));
    packs.delete(FIRST).unwrap();
    packs.delete(PackNumber(77)).unwrap();
    packs.sync_folder().unwrap();
    for found in [place.packs.list().unwrap(), (place.reopen)().list().unwrap()] {
        assert_eq!(found, [PackInfo { number: SECOND, bytes: 5 }]);
    }
    assert_eq!(all(packs, SECOND), "bytes");
}

fn packs_are_listed_by_number(place: &Place) {
    let packs = &*place.packs;
    assert_eq!(packs.list().unwrap(), []);
    let numbers = [1_000_000, 3, 999_999, 20];
    for number in numbers {
        packs.create(PackNumber(number)).unwrap();
        packs.append(PackNumber(number), 0, &[Bytes::from(vec![0; number as usize % 7])]).unwrap();
    }
    let listed: Vec<_> = packs.list().unwrap().iter().map(|info| (info.number.0, info.bytes)).collect();
    let mut sorted = numbers;
    sorted.sort_unstable();
    assert_eq!(listed, sorted.map(|number| (number, number % 7)));
}

fn what_was_synced_is_there_later(place: &Place) {
    let packs = &*place.packs;
    packs.create(FIRST).unwrap();
    packs.append(FIRST, 0, &[bytes("synced")]).unwrap();
    packs.sync(FIRST).unwrap();
    packs.sync_folder().unwrap();
    packs.create(SECOND).unwrap();
    packs.append(SECOND, 0, &[bytes("sealed")]).unwrap();
    packs.seal(SECOND).unwrap();
    packs.sync_folder().unwrap();
    let later = (place.reopen)();
    assert_eq!((all(&*later, FIRST), all(&*later, SECOND)), (bytes("synced"), bytes("sealed")));
    later.append(FIRST, 6, &[bytes(" more")]).unwrap();
    assert_eq!(all(&*later, FIRST), "synced more");
}

fn many_packs_and_many_parts_at_once(place: &Place) {
    let packs = &*place.packs;
    packs.create(FIRST).unwrap();
    let parts: Vec<_> = (0..MANY).map(|part| Bytes::from(part.to_le_bytes().to_vec())).collect();
    packs.append(FIRST, 0, &parts).unwrap();
    for number in 2..300 {
        packs.create(PackNumber(number)).unwrap();
        packs.append(PackNumber(number), 0, &[Bytes::from(number.to_le_bytes().to_vec())]).unwrap();
    }
    // Those that were opened first may have been closed meanwhile.
    packs.append(FIRST, MANY * 8, &[bytes("end")]).unwrap();
    packs.sync(FIRST).unwrap();
    for part in 0..MANY {
        assert_eq!(packs.read(FIRST, part * 8, 8).unwrap()[..], part.to_le_bytes());
    }
    for number in 2..300 {
        assert_eq!(packs.read(PackNumber(number), 0, 8).unwrap()[..], number.to_le_bytes());
    }
    assert_eq!(packs.list().unwrap().len(), 299);
}

fn reads_go_on_beside_appends(place: &Place) {
    let packs = &*place.packs;
    packs.create(FIRST).unwrap();
    packs.append(FIRST, 0, &[bytes("0123456789")]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..500 {
                    assert_eq!(packs.read(FIRST, 2, 5).unwrap(), "23456");
                }
            });
        }
        for step in 1..200 {
            packs.append(FIRST, step * 10, &[bytes("01234"), bytes("56789")]).unwrap();
        }
    });
    assert_eq!(all(packs, FIRST).len(), 2000);
    assert_eq!(packs.read(FIRST, 1990, 10).unwrap(), "0123456789");
}

#[test]
fn files_of_others_are_no_packs() {
    let folder = tempfile::tempdir().unwrap();
    let packs = LocalPacks::open(folder.path()).unwrap();
    packs.create(FIRST).unwrap();
    for name in ["1.pack", "+00001.pack", "0000001.pack", "000002.pack~", ".pack", "notes", "000003.PACK"] {
        std::fs::write(folder.path().join(name), "not ours").unwrap();
    }
    std::fs::create_dir(folder.path().join("000004.pack")).unwrap();
    assert_eq!(packs.list().unwrap(), [PackInfo { number: FIRST, bytes: 0 }]);
}

#[test]
fn packs_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let packs = LocalPacks::open(folder.path()).unwrap();
    packs.create(FIRST).unwrap();
    let mode = std::fs::metadata(packs.path_of(FIRST)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
