//! What a builder makes of entries: groups, shared chunks, page sizes, and what it refuses.

use super::*;
use crate::chunking::EXTENTS_INLINE_MAX;
use crate::page::PAGE_BYTES_MAX;
use crate::path::stem;
use crate::record::Content;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn stem_groups_are_never_split(folder in folders()) {
        let pages = MemoryPages::new();
        let built = build(&folder, &pages);
        let tree = tree(&built, &pages);
        let mut run = (Vec::new(), 0usize);
        for at in tree.leaves() {
            let leaf = tree.leaf(&at.expect("readable")).expect("readable");
            let first = stem(&leaf.records[0].path).to_vec();
            prop_assert!(first != run.0 || run.1 % STEM_GROUP_RECORDS_MAX == 0, "{:?} is split", run);
            for record in &leaf.records {
                let stem = stem(&record.path).to_vec();
                run = if stem == run.0 { (stem, run.1 + 1) } else { (stem, 1) };
            }
        }
    }

    #[test]
    fn shared_chunks_hold_their_files(folder in folders()) {
        let store = MemoryPages::new();
        let mut pages = &store;
        let mut files = Files { folder: folder.clone(), ..Files::default() };
        let mut builder = builder(&mut pages, &mut files);
        for (path, (thing, mtime_ns)) in &folder {
            builder.push(entry(path, thing, *mtime_ns)).expect("a good entry");
        }
        let built = builder.finish().expect("a tree");
        for record in tree(&built, &store).records() {
            let record = record.expect("readable");
            let Content::Shared { extent, hash } = &record.content else { continue };
            let chunk = &files.chunks[&record.leaf.chunks[extent.chunk as usize].id];
            let stretch = &chunk[extent.offset as usize..][..extent.length as usize];
            prop_assert_eq!(ChunkId::of(stretch), *hash);
        }
    }
}

#[test]
fn the_fattest_stem_group_fits_into_a_page() {
    let store = MemoryPages::new();
    let mut pages = &store;
    let mut files = Files::default();
    let grouping = GroupingParams { extents_inline_max: EXTENTS_INLINE_MAX, ..GroupingParams::default() };
    let mut builder = TreeBuilder::new(ChunkerParams::default(), grouping, &mut pages, &mut files).expect("good");
    let folder = format!("{}/", "d".repeat(250)).repeat(15);
    let mut number = 0;
    for group in 0..4 {
        for file in 0..64 {
            let name = format!("{folder}{group}.{file:02}{}", "x".repeat(240));
            let chunks = (number..number + u64::from(EXTENTS_INLINE_MAX)).map(chunk).collect();
            number += u64::from(EXTENTS_INLINE_MAX);
            builder.push(entry(&path(&name), &Thing::Large(chunks), 0)).expect("a good entry");
        }
    }
    let built = builder.finish().expect("a tree");
    let leaves: Vec<_> = tree(&built, &store).leaves().collect::<Result<_, _>>().expect("readable");
    assert_eq!(leaves.iter().map(|leaf| leaf.child.files).collect::<Vec<_>>(), [64; 4]);
    let longest = store.ids().iter().map(|id| store.page(id).expect("there").encode().len()).max();
    assert!(longest.is_some_and(|longest| (PAGE_BYTES_MAX / 2..=PAGE_BYTES_MAX).contains(&longest)), "{longest:?}");
}

#[test]
fn long_links_and_paths_fit_into_pages() {
    let store = MemoryPages::new();
    let (mut pages, mut files) = (&store, Files::default());
    let mut builder =
        TreeBuilder::new(ChunkerParams::default(), GroupingParams::default(), &mut pages, &mut files).expect("good");
    for number in 0..3000 {
        let name = format!("{}{number:05}.{:0200}", format!("{}/", "d".repeat(250)).repeat(15), number % 64);
        let mut link = entry(&path(&name), &Thing::Symlink, 0);
        link.link_target = vec![b'x'; 4096];
        builder.push(link).expect("a good entry");
    }
    let built = builder.finish().expect("a tree");
    assert!(built.height >= 2, "inner pages are bounded by bytes too");
    verify_shape(tree(&built, &store), None).expect("sound");
    for id in store.ids() {
        assert!(store.page(&id).expect("there").encode().len() <= PAGE_BYTES_MAX / 2);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let store = MemoryPages::new();
    let (mut pages, mut files) = (&store, Files::default());
    let mut builder = builder(&mut pages, &mut files);
    builder.push(entry(&path("b"), &Thing::Folder, 0)).expect("a good entry");
    for early in ["a", "b"] {
        let refused = builder.push(entry(&path(early), &Thing::Folder, 0));
        assert!(matches!(refused, Err(BuildError::OutOfOrder(_))), "{early} after b");
    }
    let file = entry(&path("c"), &Thing::Small(vec![1]), 0);
    let small = |size| BuildContent::Small { hash: ChunkId::of(b"x"), size, bytes: None, previous: None };
    let bad = [
        BuildEntry { kind: FileKind::Folder, ..file.clone() },
        BuildEntry { kind: FileKind::Symlink, content: BuildContent::Empty, ..file.clone() },
        BuildEntry { link_target: b"x".to_vec(), ..file.clone() },
        BuildEntry { mode: 0o10_0644, ..file.clone() },
        BuildEntry { content: small(0), ..file.clone() },
        BuildEntry { content: small(1 << 21), ..file.clone() },
        BuildEntry { content: BuildContent::Large(vec![ChunkRef { length: 0, ..chunk(1) }]), ..file.clone() },
    ];
    for entry in bad {
        let shown = format!("{entry:?}");
        assert!(matches!(builder.push(entry), Err(BuildError::Entry { .. })), "{shown}");
    }
    let none = GroupingParams { extents_inline_max: EXTENTS_INLINE_MAX + 1, ..GROUPING };
    let (mut pages, mut files) = (&store, Files::default());
    assert!(TreeBuilder::new(ChunkerParams::default(), none, &mut pages, &mut files).is_err());
}

#[test]
fn a_file_that_changed_since_it_was_hashed_is_named() {
    let store = MemoryPages::new();
    let (mut pages, mut files) = (&store, Files::default());
    files.folder.insert(path("a"), (Thing::Small(vec![2; 3]), 0));
    let mut builder = builder(&mut pages, &mut files);
    builder.push(entry(&path("a"), &Thing::Small(vec![1; 3]), 0)).expect("a good entry");
    assert!(matches!(builder.finish(), Err(BuildError::Changed(path)) if path.as_bytes() == b"a"));
}
