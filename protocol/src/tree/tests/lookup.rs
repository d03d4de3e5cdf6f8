//! Every lookup agrees with a linear scan.

use super::*;
use crate::record::Content;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn lookups_agree_with_a_scan(folder in folders(), missing in paths()) {
        let pages = MemoryPages::new();
        let built = build(&folder, &pages);
        let tree = tree(&built, &pages);
        let totals = tree.totals();
        check_records(&tree, &folder, &missing)?;

        let scanned: Vec<_> = tree.records().collect::<Result<_, _>>().expect("readable");
        let mut samples = Vec::new();
        for at in tree.leaves() {
            let leaf = tree.leaf(&at.expect("readable")).expect("readable");
            for group in stem_groups(&leaf.records) {
                if leaf.records[group.clone()].iter().any(|record| record.kind == FileKind::File) {
                    samples.push(leaf.before.files + group.start as u64..leaf.before.files + group.end as u64);
                }
            }
        }
        prop_assert_eq!(totals.samples, samples.len() as u64);
        for (number, files) in samples.iter().enumerate() {
            let found = tree.sample_at(number as u64).expect("readable").expect("there");
            prop_assert_eq!(&found.files(), files);
        }
        prop_assert!(tree.sample_at(totals.samples).expect("readable").is_none());
        prop_assert_eq!(totals.bytes, scanned.iter().map(|record| record.size).sum::<u64>());

        let places: Vec<_> = tree.chunks().collect::<Result<_, _>>().expect("readable");
        prop_assert_eq!(totals.chunks, places.len() as u64);
        for (ordinal, place) in places.iter().enumerate() {
            prop_assert_eq!(place.ordinal, ordinal as u64);
            let found = tree.chunk_at(place.ordinal).expect("readable").expect("there");
            prop_assert_eq!((found.chunk, found.within, found.leaf.id), (place.chunk, place.within, place.leaf.id));
        }
        prop_assert!(tree.chunk_at(totals.chunks).expect("readable").is_none());

        for record in &scanned {
            let mut end = 0;
            for stretch in tree.stretches(record) {
                let stretch = stretch.expect("readable");
                prop_assert_eq!(stretch.file_offset, end);
                prop_assert_eq!(stretch.chunk, places[stretch.ordinal as usize].chunk);
                if let Within::Extent { file_offset, record: index } = places[stretch.ordinal as usize].within {
                    prop_assert_eq!((file_offset, index), (end, record.index));
                }
                end += u64::from(stretch.length);
                let last = tree.stretches_from(record, end - 1).next().expect("there").expect("readable");
                prop_assert_eq!(last, stretch);
            }
            prop_assert_eq!(end, record.size);
            prop_assert!(tree.stretches_from(record, end).next().is_none());
        }
    }
}

fn check_records(tree: &Tree<'_>, folder: &Folder, missing: &RelPath) -> Result<(), TestCaseError> {
    prop_assert_eq!(tree.totals().files, folder.len() as u64);
    for (number, (path, (thing, mtime_ns))) in folder.iter().enumerate() {
        let found = tree.find(path).expect("readable").expect("there");
        prop_assert_eq!(found.file(), number as u64);
        prop_assert_eq!(found.mtime_ns, *mtime_ns);
        match (&found.content, thing) {
            (Content::Shared { hash, .. }, Thing::Small(bytes)) => prop_assert_eq!(*hash, ChunkId::of(bytes)),
            (Content::Whole(extents), Thing::Large(chunks)) => prop_assert_eq!(extents.len(), chunks.len()),
            (Content::Paged { chunks: count, .. }, Thing::Large(chunks)) => {
                prop_assert_eq!(*count, chunks.len() as u64);
            }
            (content, _) => prop_assert_eq!(content, &Content::Empty),
        }
        let same = tree.file_at(number as u64).expect("readable").expect("there");
        prop_assert_eq!(&same.path, &found.path);
    }
    prop_assert!(tree.file_at(folder.len() as u64).expect("readable").is_none());
    prop_assert_eq!(tree.find(missing).expect("readable").is_some(), folder.contains_key(missing));
    let from: Vec<_> = tree.records_from(missing).map(|record| record.expect("readable").path.clone()).collect();
    let expected: Vec<_> = folder.range(missing..).map(|(path, _)| path.as_bytes().to_vec()).collect();
    prop_assert_eq!(from, expected);
    Ok(())
}

#[test]
fn an_empty_version_has_nothing() {
    let pages = MemoryPages::new();
    let built = build(&Folder::new(), &pages);
    assert_eq!(built, Built::default());
    let tree = tree(&built, &pages);
    assert!(tree.records().next().is_none() && tree.chunks().next().is_none() && tree.leaves().next().is_none());
    assert!(tree.find(&path("a")).expect("nothing is read").is_none());
    verify_shape(tree, None).expect("an empty version is sound");
}

#[test]
fn a_walk_meets_every_page_and_chunk() {
    let folder: Folder = (0..500u64)
        .map(|i| (path(&format!("f{i:03}")), (Thing::Large((i..i + 1 + i % 30).map(chunk).collect()), 0)))
        .collect();
    let pages = MemoryPages::new();
    let built = build(&folder, &pages);
    let (mut entered, mut met) = (BTreeSet::new(), BTreeSet::new());
    let tree = tree(&built, &pages);
    tree.walk(&mut |id| entered.insert(*id), &mut |chunk| met.extend([chunk.id])).expect("readable");
    assert_eq!(entered.into_iter().collect::<Vec<_>>(), pages.ids());
    let expected: BTreeSet<_> = tree.chunks().map(|place| place.expect("readable").chunk.id).collect();
    assert_eq!(met, expected);
}
