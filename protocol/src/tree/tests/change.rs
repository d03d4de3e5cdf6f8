//! A changed version is the one that would have been built from nothing, and a diff finds just what changed.

use super::*;

/// Changes of a folder: what is put, what is removed.
fn changes() -> impl Strategy<Value = BTreeMap<RelPath, Option<(Thing, i64)>>> {
    let change = prop_oneof![3 => (things(), 0i64..3).prop_map(Some), 2 => Just(None)];
    proptest::collection::btree_map(paths(), change, 0..12)
}

fn edits(changes: &BTreeMap<RelPath, Option<(Thing, i64)>>) -> Vec<Edit> {
    changes
        .iter()
        .map(|(path, change)| match change {
            Some((thing, mtime_ns)) => Edit::Put(entry(path, thing, *mtime_ns)),
            None => Edit::Remove(path.clone()),
        })
        .collect()
}

fn applied(mut folder: Folder, changes: &BTreeMap<RelPath, Option<(Thing, i64)>>) -> Folder {
    for (path, change) in changes {
        match change {
            Some(thing) => folder.insert(path.clone(), thing.clone()),
            None => folder.remove(path),
        };
    }
    folder
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_changed_version_is_the_one_built_from_nothing(folder in folders(), rounds in proptest::collection::vec(changes(), 1..4)) {
        let pages = MemoryPages::new();
        let (mut folder, mut built) = (folder.clone(), build(&folder, &pages));
        for changes in rounds {
            let after = applied(folder.clone(), &changes);
            let mut files = Files { folder: after.clone(), ..Files::default() };
            let edited = {
                let mut sink = &pages;
                edit(Some(tree(&built, &pages)), edits(&changes), builder(&mut sink, &mut files)).expect("an edit")
            };
            prop_assert_eq!(&edited, &build(&after, &pages));
            let (old, new) = (tree(&built, &pages), tree(&edited, &pages));
            verify_shape(new, None).expect("a sound tree");
            verify_shape(new, Some(old)).expect("a sound change");
            check_diff(&folder, &after, diff(Some(old), new))?;
            (folder, built) = (after, edited);
        }
    }

    #[test]
    fn a_diff_of_unrelated_folders_is_what_differs(left in folders(), right in folders()) {
        let pages = MemoryPages::new();
        let (old, new) = (build(&left, &pages), build(&right, &pages));
        check_diff(&left, &right, diff(Some(tree(&old, &pages)), tree(&new, &pages)))?;
        check_diff(&Folder::new(), &right, diff(None, tree(&new, &pages)))?;
        verify_shape(tree(&new, &pages), Some(tree(&old, &pages))).expect("sound, whatever it is compared with");
    }
}

fn check_diff(old: &Folder, new: &Folder, diff: Diff<'_>) -> Result<(), TestCaseError> {
    let mut expected: BTreeMap<&RelPath, &str> = BTreeMap::new();
    for path in old.keys().chain(new.keys()) {
        let kind = match (old.get(path), new.get(path)) {
            (Some(_), None) => "removed",
            (None, Some(_)) => "added",
            (old, new) if old != new => "changed",
            _ => continue,
        };
        expected.insert(path, kind);
    }
    let mut found = Vec::new();
    for change in diff {
        found.push(match change.expect("readable pages") {
            Change::Added(record) => (record.path.clone(), "added"),
            Change::Removed(record) => (record.path.clone(), "removed"),
            Change::Changed { old, new } => {
                prop_assert_eq!(&old.path, &new.path);
                (new.path.clone(), "changed")
            }
        });
    }
    let expected: Vec<_> = expected.into_iter().map(|(path, kind)| (path.as_bytes().to_vec(), kind)).collect();
    prop_assert_eq!(found, expected);
    Ok(())
}

#[test]
fn freed_files_keep_their_chunks_and_cost_nothing() {
    let folder: Folder =
        (0..40).map(|i| (path(&format!("f{i:02}")), (Thing::Small(vec![i; 100 + usize::from(i)]), 0))).collect();
    let pages = MemoryPages::new();
    let old = build(&folder, &pages);
    let freed = path("f07");
    // Freed, and nothing else changed: the same version, without a read.
    let mut files = Files { folder: folder.clone(), freed: BTreeSet::from([freed.clone()]), ..Files::default() };
    let record = tree(&old, &pages).find(&freed).expect("readable").expect("there");
    let pinned = Edit::Put(BuildEntry::pinned(&record).expect("a small file"));
    let mut sink = &pages;
    let same = edit(Some(tree(&old, &pages)), [pinned.clone()], builder(&mut sink, &mut files)).expect("an edit");
    assert_eq!(same, old);
    assert_eq!(files.reads, 0);
    // A neighbour changes: the freed file stays where it was, the others move into a new chunk.
    let changed = Thing::Small(vec![99; 50]);
    let neighbour = Edit::Put(entry(&path("f08"), &changed, 1));
    files.folder.insert(path("f08"), (changed, 1));
    let new = edit(Some(tree(&old, &pages)), [pinned, neighbour.clone()], builder(&mut sink, &mut files));
    let new = new.expect("an edit");
    let stretch = |built: &Built| {
        let tree = tree(built, &pages);
        let record = tree.find(&freed).expect("readable").expect("there");
        let stretch = tree.stretches(&record).next().expect("not empty").expect("readable");
        (stretch.chunk, stretch.offset, stretch.length)
    };
    assert_eq!(stretch(&new), stretch(&old));
    verify_shape(tree(&new, &pages), Some(tree(&old, &pages))).expect("a sound change");
    // The same if nobody said so and the bytes turn out to be gone.
    let unsaid = edit(Some(tree(&old, &pages)), [neighbour], builder(&mut sink, &mut files)).expect("an edit");
    assert_eq!(unsaid, new);
    // A file whose bytes nobody has is refused by name.
    let gone = Edit::Put(entry(&path("g"), &Thing::Small(vec![1; 10]), 0));
    let refused = edit(Some(tree(&new, &pages)), [gone], builder(&mut sink, &mut files));
    assert!(matches!(refused, Err(EditError::Build(BuildError::Unavailable(path))) if path.as_bytes() == b"g"));
}

/// `017.c` and `017.e` share a stem, and what is in the folder `017.d` parts them.
#[test]
fn a_stem_group_that_was_parted_by_a_folder_closes_when_the_folder_goes() {
    let small = |path: RelPath| (path, (Thing::Small(vec![1; 9]), 0));
    let folder: Folder = (0..600)
        .flat_map(|stem| [format!("{stem:03}.c"), format!("{stem:03}.d/x"), format!("{stem:03}.e")])
        .map(|text| small(path(&text)))
        .collect();
    let pages = MemoryPages::new();
    let built = build(&folder, &pages);
    let mut parted = 0;
    let leaves: Vec<_> = tree(&built, &pages).leaves().map(|leaf| leaf.expect("a leaf")).collect();
    for leaf in leaves {
        let first = RelPath::new(leaf.child.first.clone()).expect("a valid path");
        if !first.as_bytes().ends_with(b".d/x") {
            continue;
        }
        parted += 1;
        let changes = BTreeMap::from([(first, None)]);
        let after = applied(folder.clone(), &changes);
        let mut files = Files { folder: after.clone(), ..Files::default() };
        let mut sink = &pages;
        let edited = edit(Some(tree(&built, &pages)), edits(&changes), builder(&mut sink, &mut files));
        let edited = edited.expect("an edit");
        verify_shape(tree(&edited, &pages), Some(tree(&built, &pages))).expect("no stem group is split");
        assert_eq!(edited, build(&after, &pages));
    }
    assert!(parted > 3, "only {parted} leaves begin with a folder's file");
}
