//! Versions that must not be believed: signed by who may sign, but with pages and chunks put together by hand.

use std::collections::HashMap;

use headwater_protocol::chunking::{ChunkerParams, GroupingParams};
use headwater_protocol::codec;
use headwater_protocol::commit::CommitRecord;
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::manifest::Manifest;
use headwater_protocol::name::DatasetName;
use headwater_protocol::page::{ChildRef, LeafPage, Page};
use headwater_protocol::record::{ChunkRef, Content, Extent, FileKind, FileRecord};
use headwater_protocol::wire::Encoding;
use headwater_quic::Identity;

/// A version that can be offered: a manifest, the pages and chunks that are sent when they are asked for, and what is signed.
#[derive(Clone, Debug)]
pub struct Forgery {
    /// The manifest's body.
    pub manifest: Vec<u8>,
    /// Encoded pages by the id under which they are asked for.
    pub pages: HashMap<ChunkId, Vec<u8>>,
    /// What is sent for each ordinal; none is said to be unavailable.
    pub chunks: Vec<Option<Item>>,
    /// The number in the dataset.
    pub number: u64,
}

/// A chunk as it is sent.
#[derive(Clone, Debug)]
pub struct Item {
    /// Bytes that the header promises.
    pub plain_bytes: u32,
    /// What the payload is said to be.
    pub encoding: Encoding,
    /// What is sent.
    pub payload: Vec<u8>,
}

impl Item {
    /// These bytes as they are.
    pub fn plain(bytes: &[u8]) -> Self {
        Self { plain_bytes: bytes.len() as u32, encoding: Encoding::Plain { from_offset: 0 }, payload: bytes.to_vec() }
    }
}

impl Forgery {
    /// A version with one leaf page, whatever its bytes are, and the reference that is made to it.
    pub fn new(leaf: Vec<u8>, root: ChildRef, chunks: Vec<Option<Item>>) -> Self {
        let id = root.id;
        let manifest = Manifest {
            chunker: ChunkerParams::default(),
            grouping: GroupingParams::default(),
            parent: None,
            origin: "nowhere".to_owned(),
            metadata: Vec::new(),
            height: 0,
            root: Some(root),
        };
        Self { manifest: manifest.encode(), pages: HashMap::from([(id, leaf)]), chunks, number: 1 }
    }

    /// A version of these records, with references and sums as they should be for them; `table` is the page's chunk table.
    pub fn of_records(records: Vec<FileRecord>, table: Vec<ChunkRef>, chunks: Vec<Option<Item>>) -> Self {
        let leaf = LeafPage { chunks: table, records };
        let encoded = encoded_leaf(&leaf);
        let root = leaf_reference(&leaf, &encoded);
        Self::new(encoded, root, chunks)
    }

    /// A harmless version: one file, one chunk.
    pub fn honest(path: &str, bytes: &[u8]) -> Self {
        let chunk = ChunkRef { id: ChunkId::of(bytes), length: bytes.len() as u32 };
        Self::of_records(vec![file(path.as_bytes(), Some(chunk))], vec![chunk], vec![Some(Item::plain(bytes))])
    }

    /// The same as the dataset's next version after `parent`.
    #[must_use]
    pub fn following(mut self, number: u64, parent: VersionId) -> Self {
        let mut manifest = Manifest::decode(&self.manifest).expect("only honest manifests get a parent");
        manifest.parent = Some(parent);
        self.manifest = manifest.encode();
        self.number = number;
        self
    }

    /// Its version id.
    pub fn version(&self) -> VersionId {
        Manifest::id_of(&self.manifest)
    }

    /// The commit record as an author signs it.
    pub fn commit(&self, dataset: &str, author: &Identity) -> CommitRecord {
        let dataset = DatasetName::new(dataset).expect("tests use good names");
        CommitRecord::sign_as_author(&dataset, self.number, self.version(), author, author.certificate().to_vec())
    }

    /// The commit record as a core signs what it imported itself.
    pub fn committed(&self, dataset: &str, core: &Identity) -> Vec<u8> {
        codec::encode_stored(&self.commit(dataset, core).countersign(core, core.certificate().to_vec()))
    }
}

/// A regular file that is one whole chunk, the first of its page's table; or an empty one.
pub fn file(path: &[u8], chunk: Option<ChunkRef>) -> FileRecord {
    let (size, content) = match chunk {
        Some(ChunkRef { length, .. }) => {
            (u64::from(length), Content::Whole(vec![Extent { chunk: 0, offset: 0, length }]))
        }
        None => (0, Content::Empty),
    };
    FileRecord {
        path: path.to_vec(),
        kind: FileKind::File,
        link_target: Vec::new(),
        mode: 0o644,
        mtime_ns: 0,
        size,
        content,
    }
}

/// A leaf page's bytes, whether it can be or not.
pub fn encoded_leaf(leaf: &LeafPage) -> Vec<u8> {
    Page::Leaf(leaf.clone()).encode()
}

/// The reference that belongs to a leaf page, but for its first path, which a manifest has no room for if it is long.
pub fn leaf_reference(leaf: &LeafPage, encoded: &[u8]) -> ChildRef {
    let files = leaf.records.iter().filter(|record| record.kind == FileKind::File).count() as u64;
    ChildRef {
        id: ChunkId::of(encoded),
        first: leaf.records.first().map(|record| record.path.clone()).unwrap_or_default(),
        files: leaf.records.len() as u64,
        samples: files,
        bytes: leaf.records.iter().map(|record| record.size).sum(),
        chunks: leaf.chunks.len() as u64,
    }
}

/// A leaf page that says of its only record that it is something else than a file, a folder or a link. No value of ours can
/// say that, so the byte is found by comparing two that differ in nothing else.
pub fn with_device_file(path: &[u8]) -> (Vec<u8>, ChildRef) {
    let of_kind = |kind| {
        let record = FileRecord { kind, ..file(path, None) };
        LeafPage { chunks: Vec::new(), records: vec![record] }
    };
    let leaf = of_kind(FileKind::File);
    let (mut encoded, other) = (encoded_leaf(&leaf), encoded_leaf(&of_kind(FileKind::Folder)));
    let differ: Vec<usize> = (0..encoded.len()).filter(|&at| encoded[at] != other[at]).collect();
    assert_eq!(differ.len(), 1, "the kind of a record is one byte");
    const DEVICE: u8 = 7;
    encoded[differ[0]] = DEVICE;
    let root = leaf_reference(&leaf, &encoded);
    (encoded, root)
}
