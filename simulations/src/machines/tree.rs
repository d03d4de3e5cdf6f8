//! Random versions: folders of small files, large files and long ones, and random changes to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use headwater_protocol::chunking::{ChunkerParams, GroupingParams};
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::manifest::Manifest;
use headwater_protocol::page::Page;
use headwater_protocol::path::RelPath;
use headwater_protocol::record::{ChunkRef, FileKind};
use headwater_protocol::tree::{BuildContent, BuildEntry, MemoryPages, NoSharedSink, PageSource, Tree, TreeBuilder};

use crate::random::Random;

/// Small pages, so that a few hundred files make several levels.
const GROUPING: GroupingParams = GroupingParams {
    shared_average_bytes: 4 << 10,
    page_records_average: 16,
    page_children_average: 16,
    extents_inline_max: 4,
};
/// Contents that large files draw their chunks from: few enough that files share some.
const CHUNK_SEEDS: u64 = 3000;

/// What stands at a path.
#[derive(Clone, Debug)]
enum File {
    Small(Vec<u8>),
    Large(Vec<u64>),
}

/// A folder that changes.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    files: BTreeMap<String, File>,
}

fn path(random: &mut Random) -> String {
    format!("{:02}/{:04}.{}", random.below(12), random.below(600), random.pick(&["jpg", "json", "bin"]))
}

fn file(random: &mut Random) -> File {
    match random.below(20) {
        0 => {
            let first = random.below(CHUNK_SEEDS);
            File::Large((first..first + random.between(5, 60)).map(|seed| seed % CHUNK_SEEDS).collect())
        }
        1..4 => File::Large((0..random.between(1, 4)).map(|_| random.below(CHUNK_SEEDS)).collect()),
        _ => File::Small((0..random.between(1, 250)).map(|_| random.next() as u8).collect()),
    }
}

/// A chunk of a large file: its length follows from its content, as it does for real ones.
fn chunk(seed: u64) -> ChunkRef {
    ChunkRef { id: ChunkId::of(&seed.to_le_bytes()), length: 500 + (seed * 7919 % 60_000) as u32 }
}

impl Folder {
    pub(super) fn new(random: &mut Random) -> Self {
        let mut files = BTreeMap::new();
        for _ in 0..*random.pick(&[0, 1, 5, 40, 300]) {
            files.insert(path(random), file(random));
        }
        Self { files }
    }

    /// Changes some files.
    pub(super) fn change(&mut self, random: &mut Random) {
        for _ in 0..random.between(1, 12) {
            let known: Vec<_> = self.files.keys().cloned().collect();
            if known.is_empty() || random.once_in(3) {
                self.files.insert(path(random), file(random));
                continue;
            }
            let path = random.pick(&known).clone();
            if random.once_in(4) {
                self.files.remove(&path);
            } else if let Some(File::Large(chunks)) = self.files.get_mut(&path) {
                let at = random.below(chunks.len() as u64) as usize;
                chunks[at] = random.below(CHUNK_SEEDS);
            } else {
                self.files.insert(path, file(random));
            }
        }
    }
}

/// A version and everything about it.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) id: VersionId,
    pub(super) manifest: Manifest,
    pub(super) ordinals: Vec<ChunkRef>,
    pages: MemoryPages,
}

impl Version {
    pub(super) fn of(folder: &Folder, parent: Option<VersionId>) -> Self {
        let pages = MemoryPages::new();
        let (mut sink, mut shared) = (&pages, NoSharedSink);
        let params = ChunkerParams::default();
        let mut builder = TreeBuilder::new(params, GROUPING, &mut sink, &mut shared).expect("good parameters");
        let path = |path: &str| RelPath::new(path.as_bytes().to_vec()).expect("a good path");
        let mut files: Vec<_> = folder.files.iter().map(|(name, file)| (path(name), file)).collect();
        files.sort_by(|a, b| a.0.cmp(&b.0));
        for (path, file) in files {
            let content = content(file);
            let entry =
                BuildEntry { path, kind: FileKind::File, link_target: vec![], mode: 0o644, mtime_ns: 0, content };
            builder.push(entry).expect("a good entry");
        }
        let built = builder.finish().expect("a tree");
        let manifest = Manifest {
            chunker: params,
            grouping: GROUPING,
            parent,
            origin: "simulation".into(),
            metadata: vec![],
            height: built.height,
            root: built.root,
        };
        let ordinals = Tree::new(&manifest, &pages).chunks().map(|place| place.expect("whole").chunk).collect();
        Self { id: Manifest::id_of(&manifest.encode()), manifest, ordinals, pages }
    }

    pub(super) fn page(&self, id: &ChunkId) -> Option<Arc<Page>> {
        self.pages.page(id).ok()
    }

    /// Ids of all its pages.
    pub(super) fn pages(&self) -> Vec<ChunkId> {
        self.pages.ids()
    }
}

fn content(file: &File) -> BuildContent {
    match file {
        File::Small(bytes) => BuildContent::Small {
            hash: ChunkId::of(bytes),
            size: bytes.len() as u32,
            bytes: Some(Bytes::from(bytes.clone())),
            previous: None,
        },
        File::Large(seeds) => BuildContent::Large(seeds.iter().map(|&seed| chunk(seed)).collect()),
    }
}
