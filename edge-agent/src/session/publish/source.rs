//! Where the bytes of a published version come from: pages from the catalog, chunks from the folder's files, each verified
//! as it is read, so a file that changed underneath is noticed and never sent wrong.
//!
//! What an item can travel as a delta over is found in the committed version's tree; see
//! [`DeltaPrefix`](headwater_protocol::tree::DeltaPrefix).

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use headwater_host::version::{LocalChunks, LocalError};
use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::page::Page;
use headwater_protocol::tree::{ChunkPlace, DeltaPrefix, Tree};
use headwater_protocol::wire::DeltaSource;
use headwater_quic::transfer::{DeltaBase, ItemBody, LoadedItem, Source, SourceError};

use crate::catalog::DatasetPages;

/// The bytes of one version.
pub struct PublishSource {
    local: LocalChunks,
    pages: Arc<DatasetPages>,
    parent: Option<Manifest>,
}

impl PublishSource {
    /// The bytes of the version of `manifest` in `folder`. `parent` is what the core has committed before, if anything.
    pub fn new(pages: DatasetPages, folder: &Path, manifest: Manifest, parent: Option<Manifest>) -> io::Result<Self> {
        let pages = Arc::new(pages);
        let local = LocalChunks::new(folder, manifest, Arc::clone(&pages) as _)?;
        Ok(Self { local, pages, parent })
    }

    /// What a page can travel as a delta over. A committed page that can't be read only makes the delta impossible.
    fn page_base(&self, bytes: &[u8]) -> Option<DeltaBase> {
        let candidates = self.parent()?.bases_of_page(&Page::decode(bytes).ok()?).ok()?;
        let mut prefix = DeltaPrefix::default();
        for id in candidates {
            let Ok(Some(bytes)) = self.pages.encoded(&id) else { continue };
            prefix.add(DeltaSource { id, offset: 0, length: bytes.len() as u32 }, &bytes);
        }
        DeltaBase::found(prefix)
    }

    /// What a chunk that small files share can travel as a delta over.
    fn chunk_base(&self, place: &ChunkPlace, bytes: &[u8]) -> Option<DeltaBase> {
        DeltaBase::found(self.parent()?.base_of_chunk(place, bytes).ok()??)
    }

    fn parent(&self) -> Option<Tree<'_>> {
        self.parent.as_ref().map(|parent| Tree::new(parent, &*self.pages))
    }
}

impl Source for PublishSource {
    fn page(&self, id: &ChunkId) -> Result<LoadedItem, SourceError> {
        // Pages are kept by dataset, so this finds none of another one's.
        let bytes = self.pages.encoded(id).map_err(|error| SourceError::Io(Box::new(error)))?;
        let bytes = Bytes::from(bytes.ok_or(SourceError::OutOfScope)?);
        let delta = self.page_base(&bytes);
        Ok(LoadedItem { id: *id, body: ItemBody::Plain(bytes), delta })
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
        Ok(LoadedItem { id: place.chunk.id, body: ItemBody::Plain(bytes), delta })
    }
}
