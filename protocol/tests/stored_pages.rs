//! The layouts of pages and manifests, and the rules by which versions are cut, are what they were: each fixture under
//! `fixtures/` was written by the release that its name says, and still decodes to the same value.
//!
//! `cargo test -p headwater-protocol --test stored_pages -- --ignored` writes fixtures that are not there yet.

use std::path::Path;

use headwater_protocol::chunking::{ChunkerParams, GroupingParams};
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::manifest::Manifest;
use headwater_protocol::page::{ChildRef, ExtentChildRef, LeafPage, Page};
use headwater_protocol::path::RelPath;
use headwater_protocol::record::{ChunkRef, Content, Extent, FileKind, FileRecord};
use headwater_protocol::tree::{BuildContent, BuildEntry, MemoryPages, NoSharedSink, Tree, TreeBuilder, verify_shape};

const LEAF: &[u8] = include_bytes!("fixtures/page-leaf-v1.bin");
const INNER: &[u8] = include_bytes!("fixtures/page-inner-v1.bin");
const EXTENT_LEAF: &[u8] = include_bytes!("fixtures/page-extent-leaf-v1.bin");
const EXTENT_INNER: &[u8] = include_bytes!("fixtures/page-extent-inner-v1.bin");
const MANIFEST: &[u8] = include_bytes!("fixtures/manifest-v1.bin");

fn id(text: &str) -> ChunkId {
    ChunkId::of(text.as_bytes())
}

fn leaf() -> Page {
    let record = |path: &[u8], kind, size, content| FileRecord {
        path: path.to_vec(),
        kind,
        link_target: if kind == FileKind::Symlink { b"../to".to_vec() } else { Vec::new() },
        mode: 0o640,
        mtime_ns: -1_234_567_890_123,
        size,
        content,
    };
    let shared = |offset, length, hash| Content::Shared { extent: Extent { chunk: 0, offset, length }, hash };
    let whole = |chunk, length| Extent { chunk, offset: 0, length };
    Page::Leaf(LeafPage {
        chunks: vec![
            ChunkRef { id: id("shared"), length: 100 },
            ChunkRef { id: id("first"), length: 70_000 },
            ChunkRef { id: id("second"), length: 1 << 20 },
        ],
        records: vec![
            record(b"a/1.json", FileKind::File, 40, shared(0, 40, id("json"))),
            record(b"a/1.png", FileKind::File, 60, shared(40, 60, id("png"))),
            record(b"a/2", FileKind::Folder, 0, Content::Empty),
            record(
                b"a/3.bin",
                FileKind::File,
                1_188_576,
                Content::Whole(vec![whole(1, 70_000), whole(2, 1 << 20), whole(1, 70_000)]),
            ),
            record(b"a/\xff\xfe", FileKind::Symlink, 0, Content::Empty),
            record(b"long", FileKind::File, 1 << 40, Content::Paged { root: id("root"), chunks: 4 << 20, height: 4 }),
            record(b"none", FileKind::File, 0, Content::Empty),
        ],
    })
}

fn child(name: &str, number: u64) -> ChildRef {
    let (files, samples, bytes, chunks) = (number + 3, number + 1, number << 30, number + 2);
    ChildRef { id: id(name), first: name.into(), files, samples, bytes, chunks }
}

fn inner() -> Page {
    Page::Inner { level: 2, children: vec![child("a", 1), child("b/c", 2), child("b.c", 3)] }
}

fn extent_leaf() -> Page {
    Page::ExtentLeaf(vec![ChunkRef { id: id("x"), length: 65_536 }, ChunkRef { id: id("y"), length: 1 }])
}

fn extent_inner() -> Page {
    let child = |name, number| ExtentChildRef { id: id(name), bytes: number << 33, chunks: number };
    Page::ExtentInner { level: 3, children: vec![child("x", 5), child("y", 6)] }
}

fn manifest() -> Manifest {
    Manifest {
        chunker: ChunkerParams::default(),
        grouping: GroupingParams::default(),
        parent: Some(VersionId::of(b"parent")),
        origin: "robot-7".into(),
        metadata: vec![("camera".into(), "left".into()), ("site".into(), "Køge".into())],
        height: 2,
        root: Some(child("a", 9)),
    }
}

#[test]
fn pages_decode_to_what_was_written() {
    for (page, fixture) in
        [(leaf(), LEAF), (inner(), INNER), (extent_leaf(), EXTENT_LEAF), (extent_inner(), EXTENT_INNER)]
    {
        assert_eq!(Page::decode(fixture).expect("a valid page"), page);
        assert_eq!(page.encode(), fixture, "the layout changed: raise Page::VERSION and keep this fixture decodable");
    }
}

#[test]
fn manifests_decode_to_what_was_written() {
    assert_eq!(Manifest::decode(MANIFEST).expect("a valid manifest"), manifest());
    assert_eq!(manifest().encode(), MANIFEST, "the layout changed: raise Manifest::VERSION");
}

#[test]
fn damaged_fixtures_never_panic() {
    for fixture in [LEAF, INNER, EXTENT_LEAF, EXTENT_INNER, MANIFEST] {
        for length in 0..fixture.len() {
            assert!(Page::decode(&fixture[..length]).is_err() && Manifest::decode(&fixture[..length]).is_err());
        }
        for at in 0..fixture.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bytes = fixture.to_vec();
                bytes[at] ^= flip;
                let (page, manifest) = (Page::decode(&bytes), Manifest::decode(&bytes));
                assert!(at >= 8 || (page.is_err() && manifest.is_err()), "a damaged header at {at} was accepted");
            }
        }
    }
}

/// The rules that cut pages and shared chunks are part of the format too: other rules, other version ids.
#[test]
fn the_same_folder_is_the_same_version_as_ever() {
    let store = MemoryPages::new();
    let (mut pages, mut shared) = (&store, NoSharedSink);
    let (chunker, grouping) = (ChunkerParams::default(), GroupingParams::default());
    let mut builder = TreeBuilder::new(chunker, grouping, &mut pages, &mut shared).expect("good parameters");
    for number in 0..50_000u32 {
        let path = RelPath::new(format!("{:02}/{:05}.{}", number / 900, number / 3, number % 3)).expect("a path");
        let content = if number % 1000 == 7 {
            let chunks = (0..number / 100).map(|index| ChunkRef { id: id(&index.to_string()), length: 65_536 + index });
            BuildContent::Large(chunks.collect())
        } else {
            let bytes = vec![number as u8; 1 + number as usize % 1500];
            let (hash, size) = (ChunkId::of(&bytes), bytes.len() as u32);
            BuildContent::Small { hash, size, bytes: Some(bytes.into()), previous: None }
        };
        let (kind, link_target, mode, mtime_ns) = (FileKind::File, Vec::new(), 0o644, i64::from(number));
        builder.push(BuildEntry { path, kind, link_target, mode, mtime_ns, content }).expect("a good entry");
    }
    let built = builder.finish().expect("a tree");
    verify_shape(Tree::from_root(built.root.as_ref(), built.height, &store), None).expect("sound");
    let root = built.root.expect("not empty");
    assert_eq!((built.height, root.files, root.samples), (2, 50_000, 16_667));
    assert_eq!(root.id.to_string(), "c94448563cb2b4116f5079a8727d83a94432865a21f895228300c171d98f757d");
}

#[test]
#[ignore = "writes the fixtures that are not there yet"]
#[allow(clippy::disallowed_methods, reason = "a tool for who changes a layout, not a part of the library")]
fn write_fixtures() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for (name, bytes) in [
        ("page-leaf-v1.bin", leaf().encode()),
        ("page-inner-v1.bin", inner().encode()),
        ("page-extent-leaf-v1.bin", extent_leaf().encode()),
        ("page-extent-inner-v1.bin", extent_inner().encode()),
        ("manifest-v1.bin", manifest().encode()),
    ] {
        let path = folder.join(name);
        if std::fs::metadata(&path).map_or(0, |metadata| metadata.len()) == 0 {
            std::fs::write(&path, bytes).expect("a writable folder");
        }
    }
}
