//! Where the bytes of a published version come from: pages from the catalog, chunks from the folder's files, each verified
//! as it is read, so a file that changed underneath is noticed and never sent wrong.
//!
//! It also finds what an item can travel as a delta over. For a page: the committed version's pages of the same stretch
//! of paths. For a chunk that small files share: the stretches of the committed version's shared chunks that hold files
//! which are in this chunk again. Their bytes are parts of the chunk itself, so nothing more is read.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use headwater_host::version::{LocalChunks, LocalError};
use headwater_protocol::compress::{DELTA_PREFIX_BYTES_MAX, DELTA_SOURCES_MAX};
use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::page::Page;
use headwater_protocol::path;
use headwater_protocol::record::{Content, Extent};
use headwater_protocol::tree::{ChunkPlace, PageSource, Within};
use headwater_protocol::wire::DeltaSource;
use headwater_quic::transfer::{DeltaBase, ItemBody, LoadedItem, Source, SourceError};

use crate::catalog::{Catalog, DatasetId, DatasetPages};

/// Pages of the committed version that one page of the new one is compared with at most.
const BASE_PAGES_MAX: usize = 8;

/// The bytes of one version.
pub struct PublishSource {
    local: LocalChunks,
    pages: Arc<DatasetPages>,
    parent: Option<Manifest>,
}

impl PublishSource {
    /// The bytes of the version of `manifest` in `folder`. `parent` is what the core has committed before, if anything.
    pub fn new(
        catalog: Arc<Catalog>,
        dataset: DatasetId,
        folder: &Path,
        manifest: Manifest,
        parent: Option<Manifest>,
    ) -> io::Result<Self> {
        let pages = Arc::new(DatasetPages::new(catalog, dataset));
        let local = LocalChunks::new(folder, manifest, Arc::clone(&pages) as _)?;
        Ok(Self { local, pages, parent })
    }

    /// The committed version's pages of level `level` that hold paths from `first` to `last`.
    fn base_pages(&self, level: u8, first: &[u8], last: &[u8]) -> Vec<ChunkId> {
        let mut found = Vec::new();
        if let Some(parent) = &self.parent
            && let Some(root) = &parent.root
            && parent.height >= level
        {
            self.collect_base(&root.id, parent.height, level, (first, last), &mut found);
        }
        found
    }

    fn collect_base(&self, id: &ChunkId, at: u8, level: u8, range: (&[u8], &[u8]), found: &mut Vec<ChunkId>) {
        if at == level {
            found.push(*id);
            return;
        }
        let Ok(page) = self.pages.page(id) else { return };
        let Page::Inner { children, .. } = &*page else { return };
        for (index, child) in children.iter().enumerate() {
            let begins_late = path::compare(&child.first, range.1).is_gt();
            let ends_early = children.get(index + 1).is_some_and(|next| path::compare(&next.first, range.0).is_le());
            if begins_late || found.len() >= BASE_PAGES_MAX {
                break;
            }
            if !ends_early {
                self.collect_base(&child.id, at - 1, level, range, found);
            }
        }
    }

    /// What a page can travel as a delta over.
    fn page_base(&self, bytes: &[u8]) -> Option<DeltaBase> {
        self.parent.as_ref()?;
        let candidates = match Page::decode(bytes).ok()? {
            Page::Leaf(leaf) => self.base_pages(0, &leaf.records.first()?.path, &leaf.records.last()?.path),
            Page::Inner { level, children } => {
                self.base_pages(level, &children.first()?.first, &children.last()?.first)
            }
            Page::ExtentLeaf(_) | Page::ExtentInner { .. } => return None,
        };
        let mut base = Base::default();
        for id in candidates {
            let Ok(Some(bytes)) = self.pages.encoded(&id) else { continue };
            base.add(DeltaSource { id, offset: 0, length: bytes.len() as u32 }, &bytes);
        }
        base.finish()
    }

    /// What a chunk that small files share can travel as a delta over.
    fn chunk_base(&self, place: &ChunkPlace, bytes: &[u8]) -> Option<DeltaBase> {
        self.parent.as_ref()?;
        let Within::Table(index) = place.within else { return None };
        let mut members: HashMap<ChunkId, Extent> = HashMap::new();
        let mut range: Option<(&[u8], &[u8])> = None;
        for record in &place.leaf.records {
            if let Content::Shared { extent, hash } = &record.content
                && extent.chunk as usize == index
            {
                members.insert(*hash, *extent);
                range = Some((range.map_or(&record.path, |range| range.0), &record.path));
            }
        }
        let (first, last) = range?;
        let mut base = Base::default();
        for id in self.base_pages(0, first, last) {
            let Ok(page) = self.pages.page(&id) else { continue };
            let Page::Leaf(leaf) = &*page else { continue };
            for record in &leaf.records {
                let Content::Shared { extent, hash } = &record.content else { continue };
                let (Some(now), Some(chunk)) = (members.get(hash), leaf.chunks.get(extent.chunk as usize)) else {
                    continue;
                };
                if now.length != extent.length || chunk.id == place.chunk.id {
                    continue;
                }
                let source = DeltaSource { id: chunk.id, offset: extent.offset, length: extent.length };
                base.add(source, bytes.get(now.offset as usize..(now.offset + now.length) as usize)?);
            }
        }
        base.finish()
    }
}

impl Source for PublishSource {
    fn page(&self, id: &ChunkId) -> Result<LoadedItem, SourceError> {
        // Pages are kept by dataset, so this finds none of another one's.
        let bytes = self.pages.encoded(id).map_err(|error| SourceError::Io(Box::new(error)))?;
        let bytes = Bytes::from(bytes.ok_or(SourceError::OutOfScope)?);
        let delta = self.page_base(&bytes);
        Ok(LoadedItem { body: ItemBody::Plain(bytes), delta })
    }

    fn chunk(&self, ordinal: u64) -> Result<LoadedItem, SourceError> {
        let failed = |error: LocalError| match error {
            LocalError::Unavailable { .. } => SourceError::Unavailable { reason: error.to_string() },
            LocalError::NoSuchChunk(_) => SourceError::OutOfScope,
            LocalError::Tree(_) => SourceError::Io(Box::new(error)),
        };
        let place = self.local.tree().chunk_at(ordinal).map_err(|error| failed(error.into()))?;
        let place = place.ok_or(SourceError::OutOfScope)?;
        let bytes = self.local.at(&place).map_err(failed)?;
        let delta = self.chunk_base(&place, &bytes);
        Ok(LoadedItem { body: ItemBody::Plain(bytes), delta })
    }
}

/// A delta base that is being put together.
#[derive(Default)]
struct Base {
    sources: Vec<DeltaSource>,
    prefix: Vec<u8>,
}

impl Base {
    /// Adds a stretch, unless there is no room; one that goes on where the last ended makes that longer.
    fn add(&mut self, source: DeltaSource, bytes: &[u8]) {
        if self.prefix.len() + bytes.len() > DELTA_PREFIX_BYTES_MAX {
            return;
        }
        let goes_on = |last: &&mut DeltaSource| last.id == source.id && last.offset + last.length == source.offset;
        if let Some(last) = self.sources.last_mut().filter(goes_on) {
            last.length += source.length;
        } else if self.sources.len() < DELTA_SOURCES_MAX {
            self.sources.push(source);
        } else {
            return;
        }
        self.prefix.extend_from_slice(bytes);
    }

    fn finish(self) -> Option<DeltaBase> {
        (!self.sources.is_empty()).then(|| DeltaBase { sources: self.sources, prefix: self.prefix.into() })
    }
}
