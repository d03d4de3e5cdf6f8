//! Folders, stores and sources in memory, with the faults that a test wants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use headwater_protocol::chunking::{ChunkerParams, GroupingParams, StreamChunker};
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::manifest::Manifest;
use headwater_protocol::page::Page;
use headwater_protocol::path::RelPath;
use headwater_protocol::record::{ChunkRef, FileKind};
use headwater_protocol::tree::{
    BuildContent, BuildEntry, PageSink, PageSource, PageSourceError, SharedSink, SinkError, Tree, TreeBuilder,
};
use headwater_protocol::wire::{DeltaSource, Refusal};
use headwater_quic::transfer::{
    Committed, DeltaBase, Destination, DestinationError, HeldPage, IncomingItem, IncomingOffer, LoadedItem,
    OutgoingVersion, Presence, Source, SourceError,
};

/// A folder: paths and contents.
pub(crate) type Folder = BTreeMap<String, Vec<u8>>;

/// Pages and chunks by id.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) pages: BTreeMap<ChunkId, Bytes>,
    pub(crate) chunks: BTreeMap<ChunkId, Bytes>,
}

struct Building<'a>(&'a Mutex<Contents>);

impl PageSink for Building<'_> {
    fn put_page(&mut self, id: ChunkId, bytes: Vec<u8>, _: &Page) -> Result<(), SinkError> {
        self.0.lock().unwrap().pages.insert(id, bytes.into());
        Ok(())
    }
}

impl SharedSink for Building<'_> {
    fn read_small(&mut self, _: &RelPath, _: &ChunkId) -> Result<Option<Bytes>, SinkError> {
        Ok(None)
    }

    fn put_shared(&mut self, chunk: ChunkRef, bytes: &[u8]) -> Result<(), SinkError> {
        self.0.lock().unwrap().chunks.insert(chunk.id, Bytes::copy_from_slice(bytes));
        Ok(())
    }
}

/// A version with all its bytes.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) manifest: Manifest,
    pub(crate) body: Bytes,
    pub(crate) ordinals: Vec<ChunkId>,
    pub(crate) contents: Mutex<Contents>,
    /// Chunks that can't be read.
    pub(crate) vanished: Mutex<BTreeSet<u64>>,
    /// Chunks that are read as other bytes.
    pub(crate) forged: Mutex<BTreeSet<u64>>,
    /// What pages and chunks may travel as a delta over.
    pub(crate) bases: Mutex<BTreeMap<ChunkId, DeltaBase>>,
}

impl PageSource for Version {
    fn page(&self, id: &ChunkId) -> Result<Arc<Page>, PageSourceError> {
        let bytes = self.contents.lock().unwrap().pages.get(id).cloned().ok_or(PageSourceError::Missing(*id))?;
        Page::decode(&bytes).map(Arc::new).map_err(|source| PageSourceError::Invalid { id: *id, source })
    }
}

impl Version {
    pub(crate) fn of(folder: &Folder) -> Arc<Self> {
        Self::child_of(None, folder)
    }

    pub(crate) fn child_of(parent: Option<VersionId>, folder: &Folder) -> Arc<Self> {
        let (chunker, grouping) = (ChunkerParams::default(), GroupingParams::default());
        let contents = Mutex::new(Contents::default());
        let (mut pages, mut shared) = (Building(&contents), Building(&contents));
        let mut builder = TreeBuilder::new(chunker, grouping, &mut pages, &mut shared).unwrap();
        let mut entries: Vec<_> =
            folder.iter().map(|(path, bytes)| (RelPath::new(path.clone().into_bytes()).unwrap(), bytes)).collect();
        entries.sort();
        for (path, bytes) in entries {
            let content = content(&contents, bytes);
            let entry =
                BuildEntry { path, kind: FileKind::File, link_target: vec![], mode: 0o644, mtime_ns: 0, content };
            builder.push(entry).unwrap();
        }
        let built = builder.finish().unwrap();
        let manifest = Manifest {
            chunker,
            grouping,
            parent,
            origin: "test".into(),
            metadata: vec![],
            height: built.height,
            root: built.root,
        };
        let body = Bytes::from(manifest.encode());
        let mut version = Self {
            manifest,
            body,
            ordinals: vec![],
            contents,
            vanished: Mutex::default(),
            forged: Mutex::default(),
            bases: Mutex::default(),
        };
        version.ordinals =
            Tree::new(&version.manifest, &version).chunks().map(|place| place.unwrap().chunk.id).collect();
        Arc::new(version)
    }

    pub(crate) fn id(&self) -> VersionId {
        Manifest::id_of(&self.body)
    }

    pub(crate) fn outgoing(&self) -> OutgoingVersion {
        OutgoingVersion { dataset: "cams".into(), manifest: self.body.clone(), commit: Bytes::from_static(b"commit") }
    }

    fn item(&self, id: &ChunkId, bytes: Bytes) -> LoadedItem {
        LoadedItem { delta: self.bases.lock().unwrap().get(id).cloned(), ..LoadedItem::plain(bytes) }
    }
}

fn content(contents: &Mutex<Contents>, bytes: &[u8]) -> BuildContent {
    let params = ChunkerParams::default();
    if bytes.is_empty() {
        return BuildContent::Empty;
    }
    if bytes.len() < params.min_bytes as usize {
        let bytes = Some(Bytes::copy_from_slice(bytes));
        let hash = ChunkId::of(bytes.as_ref().unwrap());
        return BuildContent::Small { hash, size: bytes.as_ref().unwrap().len() as u32, bytes, previous: None };
    }
    let (mut chunks, mut reader) = (Vec::new(), bytes);
    let mut chunker = StreamChunker::new(params).unwrap();
    while let Some((chunk, bytes)) = chunker.next_chunk(&mut reader).unwrap() {
        contents.lock().unwrap().chunks.insert(chunk.id, Bytes::copy_from_slice(bytes));
        chunks.push(chunk);
    }
    BuildContent::Large(chunks)
}

impl Source for Version {
    fn page(&self, id: &ChunkId) -> Result<LoadedItem, SourceError> {
        let bytes = self.contents.lock().unwrap().pages.get(id).cloned().ok_or(SourceError::OutOfScope)?;
        Ok(self.item(id, bytes))
    }

    fn chunk(&self, ordinal: u64) -> Result<LoadedItem, SourceError> {
        if self.vanished.lock().unwrap().contains(&ordinal) {
            return Err(SourceError::Unavailable { reason: format!("the file of chunk {ordinal} is gone") });
        }
        let id = self.ordinals.get(ordinal as usize).ok_or(SourceError::OutOfScope)?;
        let bytes = self.contents.lock().unwrap().chunks[id].clone();
        if self.forged.lock().unwrap().contains(&ordinal) {
            let mut forged = bytes.to_vec();
            forged[0] ^= 1;
            return Ok(LoadedItem::plain(forged));
        }
        Ok(self.item(id, bytes))
    }
}

/// A store in memory. Clones are one store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store(pub(crate) Arc<Stored>);

#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) contents: Mutex<Contents>,
    pub(crate) complete: Mutex<BTreeSet<ChunkId>>,
    pub(crate) prefixes: Mutex<BTreeMap<ChunkId, Bytes>>,
    pub(crate) committed: Mutex<Vec<VersionId>>,
    pub(crate) bytes_in_store: AtomicU64,
    pub(crate) stores_max: AtomicU64,
    pub(crate) store_delay: Mutex<Duration>,
    pub(crate) page_lookups: AtomicU64,
    pub(crate) full: AtomicBool,
    /// Chunks of this scope can't be read as delta sources.
    pub(crate) out_of_scope: Mutex<BTreeSet<ChunkId>>,
    pub(crate) chunks_taken: AtomicU64,
    /// A chunk may come twice, from transfers that run side by side.
    pub(crate) lenient: AtomicBool,
}

impl Store {
    /// A store that takes a chunk twice.
    pub(crate) fn lenient() -> Self {
        let store = Self::default();
        store.0.lenient.store(true, Ordering::Relaxed);
        store
    }

    /// Whether the store holds all of a version.
    pub(crate) fn has(&self, version: &Version) -> bool {
        let (mine, theirs) = (self.0.contents.lock().unwrap(), version.contents.lock().unwrap());
        theirs.pages.keys().all(|id| mine.pages.contains_key(id))
            && version.ordinals.iter().all(|id| mine.chunks.get(id) == theirs.chunks.get(id))
            && self.0.committed.lock().unwrap().contains(&version.id())
    }
}

impl Destination for Store {
    fn pages(&self, ids: &[ChunkId]) -> Result<Vec<Option<HeldPage>>, DestinationError> {
        self.0.page_lookups.fetch_add(ids.len() as u64, Ordering::Relaxed);
        let (contents, complete) = (self.0.contents.lock().unwrap(), self.0.complete.lock().unwrap());
        let held = |id: &ChunkId| {
            let bytes = contents.pages.get(id)?.clone();
            Some(HeldPage { bytes, complete_below: complete.contains(id) })
        };
        Ok(ids.iter().map(held).collect())
    }

    fn presence(&self, chunks: &[ChunkRef]) -> Result<Vec<Presence>, DestinationError> {
        let (contents, prefixes) = (self.0.contents.lock().unwrap(), self.0.prefixes.lock().unwrap());
        let presence = |chunk: &ChunkRef| match (contents.chunks.get(&chunk.id), prefixes.get(&chunk.id)) {
            (Some(_), _) => Presence::Here,
            (None, Some(prefix)) => Presence::Prefix(prefix.len() as u32),
            (None, None) => Presence::Missing,
        };
        Ok(chunks.iter().map(presence).collect())
    }

    fn delta_source(&self, source: &DeltaSource) -> Result<Option<Bytes>, DestinationError> {
        if self.0.out_of_scope.lock().unwrap().contains(&source.id) {
            return Ok(None);
        }
        let contents = self.0.contents.lock().unwrap();
        let bytes = contents.chunks.get(&source.id).or_else(|| contents.pages.get(&source.id));
        let range = source.offset as usize..(source.offset + source.length) as usize;
        Ok(bytes.filter(|bytes| bytes.len() >= range.end).map(|bytes| bytes.slice(range)))
    }

    fn prefix(&self, id: &ChunkId) -> Result<Option<Bytes>, DestinationError> {
        Ok(self.0.prefixes.lock().unwrap().get(id).cloned())
    }

    fn keep_prefix(&self, id: &ChunkId, bytes: &[u8]) -> Result<(), DestinationError> {
        self.0.prefixes.lock().unwrap().insert(*id, Bytes::copy_from_slice(bytes));
        Ok(())
    }

    fn store(&self, batch: Vec<IncomingItem>) -> BoxFuture<'_, Result<(), DestinationError>> {
        async move {
            if self.0.full.load(Ordering::Relaxed) {
                let refusal =
                    Refusal { code: "HW-4006".into(), message: "the disk is full".into(), hint: "free some".into() };
                return Err(refusal.into());
            }
            let bytes: u64 = batch.iter().map(|item| item.plain.len() as u64).sum();
            let under_way = self.0.bytes_in_store.fetch_add(bytes, Ordering::Relaxed) + bytes;
            self.0.stores_max.fetch_max(under_way, Ordering::Relaxed);
            let delay = *self.0.store_delay.lock().unwrap();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let mut contents = self.0.contents.lock().unwrap();
            for item in batch {
                assert_eq!(ChunkId::of(&item.plain), item.id, "only verified items are stored");
                if let Some(frame) = item.frame {
                    let plain = headwater_protocol::compress::decompress(&frame, item.plain.len()).unwrap();
                    assert_eq!(plain, item.plain, "a frame is of its item");
                }
                if item.is_page {
                    contents.pages.insert(item.id, item.plain);
                } else {
                    self.0.chunks_taken.fetch_add(1, Ordering::Relaxed);
                    let again = contents.chunks.insert(item.id, item.plain).is_some();
                    assert!(!again || self.0.lenient.load(Ordering::Relaxed), "no chunk travels twice");
                }
            }
            self.0.bytes_in_store.fetch_sub(bytes, Ordering::Relaxed);
            Ok(())
        }
        .boxed()
    }

    fn completed(&self, pages: &[ChunkId]) -> Result<(), DestinationError> {
        self.0.complete.lock().unwrap().extend(pages);
        Ok(())
    }

    fn commit<'a>(
        &'a self,
        offer: &'a IncomingOffer,
        manifest: &'a Manifest,
    ) -> BoxFuture<'a, Result<Committed, Refusal>> {
        async move {
            assert_eq!(manifest.encode(), offer.manifest);
            if let Some(root) = &manifest.root {
                assert!(self.0.complete.lock().unwrap().contains(&root.id), "completed pages are told before a commit");
            }
            self.0.committed.lock().unwrap().push(offer.version());
            Ok(Committed { commit: b"signed".to_vec(), receipt: b"receipt".to_vec() })
        }
        .boxed()
    }
}

/// Bytes that no compressor makes shorter.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A folder of small files, some text and some large ones.
pub(crate) fn folder(small: u64, large: u64) -> Folder {
    let mut folder = Folder::new();
    for number in 0..small {
        folder.insert(format!("img/{:03}/{number:06}.jpg", number / 200), noise(number, 400 + (number % 700) as usize));
    }
    for number in 0..large {
        folder.insert(format!("video/{number:03}.mp4"), noise(1_000_000 + number, 3_000_000));
    }
    let text: String = (0..20_000)
        .flat_map(|line| [line.to_string(), ",label-".into(), (line % 17).to_string(), "\n".into()])
        .collect();
    folder.insert("labels.csv".into(), text.into_bytes());
    folder.insert("empty".into(), vec![]);
    folder
}
