//! What a change costs in a large version: pages built, pages read, chunks made.

use super::*;

const FILES: u32 = 100_000;

fn small(number: u32) -> Vec<u8> {
    let mut bytes = vec![0; 300 + number as usize % 800];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn name(number: u32) -> RelPath {
    path(&format!("{:02}/{:05}.{}", number / 5_000, number / 2, if number.is_multiple_of(2) { "json" } else { "png" }))
}

struct Generated {
    made: usize,
}

impl SharedSink for Generated {
    fn read_small(&mut self, path: &RelPath, _hash: &ChunkId) -> Result<Option<Bytes>, SinkError> {
        let text = path.to_string();
        let number: u32 = text[3..8].parse().expect("a number");
        Ok(Some(small(number * 2 + u32::from(text.ends_with("png"))).into()))
    }

    fn put_shared(&mut self, _chunk: ChunkRef, _bytes: &[u8]) -> Result<(), SinkError> {
        self.made += 1;
        Ok(())
    }
}

fn entry_for(path: RelPath, bytes: Vec<u8>) -> BuildEntry {
    let content = BuildContent::Small {
        hash: ChunkId::of(&bytes),
        size: bytes.len() as u32,
        bytes: Some(bytes.into()),
        previous: None,
    };
    BuildEntry { path, kind: FileKind::File, link_target: Vec::new(), mode: 0o644, mtime_ns: 0, content }
}

#[test]
fn one_file_among_a_hundred_thousand_changes_a_few_pages() {
    let pages = MemoryPages::new();
    let (mut sink, mut made) = (&pages, Generated { made: 0 });
    let params = (ChunkerParams::default(), GroupingParams::default());
    let mut builder = TreeBuilder::new(params.0, params.1, &mut sink, &mut made).expect("good");
    for number in 0..FILES {
        builder.push(entry_for(name(number), small(number))).expect("a good entry");
    }
    let old = builder.finish().expect("a tree");
    let all = pages.len();
    assert!((200..800).contains(&all), "{all} pages");
    assert!((200..800).contains(&made.made), "{} shared chunks", made.made);

    let added = entry_for(path("07/19000.a.txt"), vec![7; 700]);
    let changed = entry_for(name(40_001), vec![8; 700]);
    let removed = name(77_777);
    for (what, change) in [
        ("added", Edit::Put(added)),
        ("changed", Edit::Put(changed)),
        ("removed", Edit::Remove(removed)),
        ("at the start", Edit::Put(entry_for(path("00/0.txt"), vec![9; 700]))),
        ("at the end", Edit::Put(entry_for(path("zz"), vec![9; 700]))),
    ] {
        let counting = Counting::new(&pages);
        made_few(what, &pages, &old, &counting, change, params);
    }
}

fn made_few(
    what: &str,
    pages: &MemoryPages,
    old: &Built,
    counting: &Counting<'_>,
    change: Edit,
    params: (ChunkerParams, GroupingParams),
) {
    let before = pages.len();
    let (mut sink, mut made) = (pages, Generated { made: 0 });
    let builder = TreeBuilder::new(params.0, params.1, &mut sink, &mut made).expect("good");
    let new = edit(Some(tree(old, counting)), [change], builder).expect("an edit");
    let new_pages = pages.len() - before;
    assert!(new_pages <= 6, "{what}: {new_pages} new pages");
    assert!(made.made <= 4, "{what}: {} new chunks", made.made);
    assert!(counting.reads.get() <= 12, "{what}: {} pages read to edit", counting.reads.get());

    let counting = Counting::new(pages);
    let changes = diff(Some(tree(old, &counting)), tree(&new, &counting)).count();
    assert_eq!(changes, 1, "{what}");
    let of = |built: &Built| {
        let mut ids = BTreeSet::new();
        tree(built, pages).walk(&mut |id| ids.insert(*id), &mut |_| {}).expect("readable");
        ids
    };
    let (old_ids, new_ids) = (of(old), of(&new));
    let shared: Vec<_> = old_ids.intersection(&new_ids).collect();
    assert!(shared.len() > 200);
    assert!(shared.iter().all(|id| !counting.read.borrow().contains(id)), "{what}: a page that both have was read");

    let counting = Counting::new(pages);
    verify_shape(tree(&new, &counting), Some(tree(old, &counting))).expect("sound");
    assert!(counting.reads.get() <= 20, "{what}: {} pages read to verify", counting.reads.get());

    let counting = Counting::new(pages);
    let tree = tree(&new, &counting);
    tree.file_at(54_321).expect("readable").expect("there");
    tree.sample_at(12_345).expect("readable").expect("there");
    tree.chunk_at(100).expect("readable").expect("there");
    tree.find(&name(12_345)).expect("readable").expect("there");
    assert!(counting.reads.get() <= 4 * (1 + usize::from(new.height)), "{what}: {} reads", counting.reads.get());
}

#[test]
fn one_chunk_in_a_long_file_changes_a_few_pages() {
    let pages = MemoryPages::new();
    let params = (ChunkerParams::default(), GroupingParams::default());
    let long = |chunks: Vec<ChunkRef>| {
        let (mut sink, mut files) = (&pages, Files::default());
        let mut builder = TreeBuilder::new(params.0, params.1, &mut sink, &mut files).expect("good");
        builder.push(entry(&path("video"), &Thing::Large(chunks), 0)).expect("a good entry");
        builder.finish().expect("a tree")
    };
    let mut chunks: Vec<_> = (0..400_000).map(chunk).collect();
    let old = long(chunks.clone());
    let before = pages.len();
    chunks.splice(123_456..123_457, [chunk(1_000_000), chunk(1_000_001)]);
    let new = long(chunks.clone());
    assert!(pages.len() - before <= 6, "{} new pages", pages.len() - before);

    let counting = Counting::new(&pages);
    verify_shape(tree(&new, &counting), Some(tree(&old, &counting))).expect("sound");
    assert!(counting.reads.get() <= 60, "{} pages read to verify", counting.reads.get());
    let counting = Counting::new(&pages);
    let place = tree(&new, &counting).chunk_at(300_000).expect("readable").expect("there");
    assert_eq!(place.chunk, chunks[300_000]);
    assert!(counting.reads.get() <= 5, "{} pages read to find a chunk", counting.reads.get());
}
