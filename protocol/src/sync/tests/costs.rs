//! What a transfer costs, and what it gives: whole versions, changes, cuts, duplicates, unavailable chunks.

use super::world::*;
use crate::sync::*;
use crate::wire::ItemKey;

fn many(files: u64) -> Files {
    let mut all = Files::new();
    for number in 0..files {
        let bytes = (0..200 + number % 300).map(|at| (at * number) as u8).collect();
        all.insert(format!("f/{:04}/{number:07}.jpg", number / 50), File::Small(bytes));
    }
    all.insert("long/one.mp4".into(), File::Chunks((0..3000).collect()));
    all.insert("long/two.mp4".into(), File::Chunks((2000..2030).collect()));
    all.insert("short.bin".into(), File::Chunks(vec![7, 7, 7_000_000, 7]));
    all
}

fn whole(version: &Version, store: &mut Store) -> Cost {
    let (sent, received, cost) = run(version, store, &Twist::default());
    assert_eq!(sent, SendEnd::Committed { commit: vec![1], receipt: vec![2] });
    assert_eq!(received, ReceiveEnd::Committed);
    cost
}

#[test]
fn every_chunk_travels_once_and_what_is_here_not_at_all() {
    let version = Version::of(&many(20_000));
    let mut store = Store::default();
    let cost = whole(&version, &mut store);
    let mut ids: Vec<_> = cost.chunks.iter().map(|&ordinal| version.ordinals[ordinal as usize].id).collect();
    ids.sort();
    let distinct = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), distinct, "a chunk travelled twice");
    assert_eq!(ids.len(), store.chunks.len());
    assert_eq!(cost.pages.len(), version.pages.len());
    assert!(version.manifest.height >= 2);
    let jumps = cost.chunks.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(jumps * 20 < cost.chunks.len(), "{jumps} jumps back among {} chunks", cost.chunks.len());

    let again = whole(&version, &mut store);
    assert_eq!((again.pages.len(), again.chunks.len(), again.lookups, again.presence), (0, 0, 1, 0));
}

#[test]
fn a_change_costs_what_changed() {
    let mut files = many(20_000);
    let mut store = Store::default();
    whole(&Version::of(&files), &mut store);
    files.insert("f/0100/0005000.jpg".into(), File::Small(vec![1; 400]));
    let Some(File::Chunks(chunks)) = files.get_mut("long/one.mp4") else { unreachable!() };
    chunks[1500] = 9_999_999;
    let changed = Version::of(&files);
    let cost = whole(&changed, &mut store);
    assert!(cost.pages.len() <= 12 && cost.chunks.len() <= 4, "{cost:?}");
    assert!(cost.lookups < 400 && cost.messages < 60, "{} look-ups, {} messages", cost.lookups, cost.messages);
}

#[test]
fn what_is_remembered_does_not_grow_with_the_version() {
    let remembered = |small: u64, chunks: u64| {
        let mut files = many(small);
        files.insert("long/three.mp4".into(), File::Chunks((10_000..10_000 + chunks).collect()));
        whole(&Version::of(&files), &mut Store::default()).remembered_max
    };
    let (small, large) = (remembered(20_000, 50_000), remembered(40_000, 200_000));
    assert!(large < small * 5 / 4 && large < 40_000, "{small} things for 50,000 chunks, {large} for 200,000");
}

#[test]
fn a_store_without_the_shortcut_still_asks_for_nothing_twice() {
    let version = Version::of(&many(3000));
    let mut store = Store::default();
    whole(&version, &mut store);
    store.complete.clear();
    let cost = whole(&version, &mut store);
    assert_eq!((cost.pages.len(), cost.chunks.len()), (0, 0));
    // A page that stands at two places may be looked up for each.
    assert!((version.pages.len()..version.pages.len() + 5).contains(&cost.lookups));
}

#[test]
fn what_a_cut_left_is_found_again() {
    let version = Version::of(&many(3000));
    let mut full = Store::default();
    whole(&version, &mut full);
    // Every third page and chunk got here, and one chunk in part.
    let mut store = Store::default();
    store.pages.extend(full.pages.iter().step_by(3).map(|(id, page)| (*id, page.clone())));
    store.chunks.extend(full.chunks.iter().step_by(3));
    let lacking = *full.chunks.iter().find(|id| !store.chunks.contains(id)).expect("one lacks");
    store.prefixes.insert(lacking, 900);
    let cost = whole(&version, &mut store);
    assert_eq!(cost.pages.len(), version.pages.len() - full.pages.len().div_ceil(3));
    assert_eq!(cost.chunks.len(), full.chunks.len() - full.chunks.len().div_ceil(3));
}

#[test]
fn unavailable_chunks_end_it_once_all_else_is_here() {
    let version = Version::of(&many(500));
    let ordinal_of = |seed| version.ordinals.iter().position(|found| *found == chunk(seed)).expect("there") as u64;
    // Chunk 2010 is in two files, in one of which it has gone; 7,000,000 is nowhere else.
    let (elsewhere, gone) = (ordinal_of(2010), ordinal_of(7_000_000));
    let mut store = Store::default();
    let twist = Twist { unavailable: [elsewhere, gone].into(), ..Twist::default() };
    let (sent, received, cost) = run(&version, &mut store, &twist);
    let lacking = vec![crate::wire::OrdinalRange { first: gone, count: 1 }];
    assert_eq!(received, ReceiveEnd::Incomplete(lacking));
    let SendEnd::Incomplete(reported) = sent else { panic!("{sent:?}") };
    assert!(reported.iter().any(|range| range.first == gone), "{reported:?}");
    assert!(store.chunks.contains(&chunk(2010).id), "it came from the other file");
    assert!(!store.complete.contains(&version.root()));
    assert_eq!(cost.stored.count(), version.ordinals.len() as u64 - 1);
    let rest = whole(&version, &mut store);
    assert_eq!(rest.chunks, [gone]);
}

#[test]
fn what_was_not_usable_comes_again_plain() {
    let version = Version::of(&many(500));
    let keys = [ItemKey::Page(version.root()), ItemKey::Chunk(0), ItemKey::Chunk(3)];
    let twist = Twist { unusable: keys.into(), ..Twist::default() };
    let (_, received, cost) = run(&version, &mut Store::default(), &twist);
    assert_eq!((received, cost.plain_again), (ReceiveEnd::Committed, 3));
}

#[test]
fn an_empty_version_commits_at_once() {
    let version = Version::of(&Files::new());
    let cost = whole(&version, &mut Store::default());
    assert_eq!((cost.lookups, cost.messages), (0, 1));
}
