//! Trees that are built, changed, compared and attacked, each against a plain map of paths.

mod build;
mod change;
mod hostile;
mod lookup;
mod scale;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::chunking::{ChunkerParams, GroupingParams};
use crate::id::ChunkId;
use crate::page::Page;
use crate::path::RelPath;
use crate::record::{ChunkRef, FileKind};

/// Small pages and small chunks, so that few files make a high tree.
pub(super) const GROUPING: GroupingParams = GroupingParams {
    shared_average_bytes: 4096,
    page_records_average: 16,
    page_children_average: 16,
    extents_inline_max: 4,
};

/// What stands at a path in a made-up folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    Small(Vec<u8>),
    Large(Vec<ChunkRef>),
    Folder,
    Symlink,
}

/// A made-up folder: what stands at each path, and its mtime.
pub(super) type Folder = BTreeMap<RelPath, (Thing, i64)>;

/// A sink that reads small files from a folder, and counts what it is asked for.
#[derive(Default)]
pub(super) struct Files {
    pub(super) folder: Folder,
    pub(super) freed: BTreeSet<RelPath>,
    pub(super) reads: usize,
    pub(super) chunks: BTreeMap<ChunkId, Vec<u8>>,
}

impl SharedSink for Files {
    fn read_small(&mut self, path: &RelPath, _hash: &ChunkId) -> Result<Option<Bytes>, SinkError> {
        self.reads += 1;
        match self.folder.get(path) {
            Some((Thing::Small(bytes), _)) if !self.freed.contains(path) => Ok(Some(Bytes::from(bytes.clone()))),
            _ => Ok(None),
        }
    }

    fn put_shared(&mut self, chunk: ChunkRef, bytes: &[u8]) -> Result<(), SinkError> {
        assert_eq!(chunk, ChunkRef { id: ChunkId::of(bytes), length: bytes.len() as u32 });
        self.chunks.insert(chunk.id, bytes.to_vec());
        Ok(())
    }
}

/// A source that knows which pages were read.
#[derive(Default)]
pub(super) struct Counting<'a> {
    pages: Option<&'a MemoryPages>,
    pub(super) read: RefCell<BTreeSet<ChunkId>>,
    pub(super) reads: Cell<usize>,
}

impl<'a> Counting<'a> {
    pub(super) fn new(pages: &'a MemoryPages) -> Self {
        Self { pages: Some(pages), ..Self::default() }
    }
}

impl PageSource for Counting<'_> {
    fn page(&self, id: &ChunkId) -> Result<Arc<Page>, PageSourceError> {
        self.read.borrow_mut().insert(*id);
        self.reads.set(self.reads.get() + 1);
        self.pages.expect("made with pages").page(id)
    }
}

pub(super) fn path(text: &str) -> RelPath {
    RelPath::new(text).expect("a valid path")
}

pub(super) fn entry(path: &RelPath, thing: &Thing, mtime_ns: i64) -> BuildEntry {
    let (kind, link_target, content) = match thing {
        Thing::Small(bytes) if bytes.is_empty() => (FileKind::File, Vec::new(), BuildContent::Empty),
        Thing::Small(bytes) => {
            let (hash, size) = (ChunkId::of(bytes), bytes.len() as u32);
            (FileKind::File, Vec::new(), BuildContent::Small { hash, size, bytes: None, previous: None })
        }
        Thing::Large(chunks) => (FileKind::File, Vec::new(), BuildContent::Large(chunks.clone())),
        Thing::Folder => (FileKind::Folder, Vec::new(), BuildContent::Empty),
        Thing::Symlink => (FileKind::Symlink, b"../elsewhere".to_vec(), BuildContent::Empty),
    };
    BuildEntry { path: path.clone(), kind, link_target, mode: 0o644, mtime_ns, content }
}

pub(super) fn builder<'s>(pages: &'s mut &MemoryPages, files: &'s mut Files) -> TreeBuilder<'s> {
    TreeBuilder::new(ChunkerParams::default(), GROUPING, pages, files).expect("good parameters")
}

pub(super) fn build(folder: &Folder, mut pages: &MemoryPages) -> Built {
    let mut files = Files { folder: folder.clone(), ..Files::default() };
    let mut builder = builder(&mut pages, &mut files);
    for (path, (thing, mtime_ns)) in folder {
        builder.push(entry(path, thing, *mtime_ns)).expect("a good entry");
    }
    builder.finish().expect("a tree")
}

pub(super) fn tree<'a>(built: &'a Built, pages: &'a dyn PageSource) -> Tree<'a> {
    Tree::from_root(built.root.as_ref(), built.height, pages)
}

/// The chunk that a number names.
pub(super) fn chunk(number: u64) -> ChunkRef {
    let id = ChunkId::of(&number.to_le_bytes());
    ChunkRef { id, length: 65_536 + u32::from(id.as_bytes()[0]) }
}

/// Folders of up to a few hundred things, with many shared stems.
pub(super) fn folders() -> impl Strategy<Value = Folder> {
    proptest::collection::btree_map(paths(), (things(), 0i64..3), 0..400)
}

pub(super) fn paths() -> impl Strategy<Value = RelPath> {
    let name = prop_oneof![
        8 => (0u32..60, prop_oneof![Just(""), Just(".a"), Just(".b"), Just(".c.d")])
            .prop_map(|(stem, extension)| format!("{stem:03}{extension}")),
        1 => (0u32..200).prop_map(|number| format!("many.{number}")),
    ];
    (0u32..6, name).prop_map(|(folder, name)| path(&format!("d{folder}/{name}")))
}

pub(super) fn things() -> impl Strategy<Value = Thing> {
    prop_oneof![
        12 => (0usize..1500, any::<u8>()).prop_map(|(size, byte)| Thing::Small(vec![byte; size])),
        3 => (0u64..50, 1u64..40).prop_map(|(first, count)| Thing::Large((first..first + count).map(chunk).collect())),
        1 => Just(Thing::Folder),
        1 => Just(Thing::Symlink),
    ]
}
