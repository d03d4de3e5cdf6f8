//! A folder's version as what is sent of it: pages by id, chunks by place, read from the folder's files and verified, so that a
//! file that changed underneath is noticed. Each comes with what it can travel as a delta over, which is found in the tree of
//! the version before; see [`DeltaPrefix`].

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::page::Page;
use headwater_protocol::sync::{DeltaBase, ItemBody, LoadedItem, Source, SourceError};
use headwater_protocol::tree::{DeltaPrefix, PageSource, PageSourceError, Tree};
use headwater_protocol::wire::DeltaSource;

use super::{LocalChunks, LocalError};
use crate::error::{CodedError, codes};

/// Pages as they travel and rest, of this dataset alone: what is found here may be sent.
pub trait EncodedPages: PageSource + Send + Sync {
    /// The encoded bytes of a page; none if it is not here.
    fn encoded(&self, id: &ChunkId) -> Result<Option<Bytes>, PageSourceError>;
}

/// The version of a folder, whose files hold its chunks.
pub struct PublishedFolder<P> {
    local: LocalChunks,
    pages: Arc<P>,
    parent: Option<Manifest>,
}

impl<P: EncodedPages + 'static> PublishedFolder<P> {
    /// The version of `manifest` in `folder`. `parent` is what the receiver has committed before, if anything.
    ///
    /// # Errors
    ///
    /// HW-3001 where the folder is not there, and the operating system's own where it can't be opened.
    pub fn open(
        folder: &Path,
        manifest: Manifest,
        parent: Option<Manifest>,
        pages: Arc<P>,
    ) -> Result<Self, CodedError> {
        let local = LocalChunks::new(folder, manifest, Arc::clone(&pages) as _).map_err(|error| {
            CodedError::io(&codes::FOLDER_MISSING, format!("`{}` can't be opened", folder.display()), error)
        })?;
        Ok(Self { local, pages, parent })
    }

    /// What a page can travel over. A page of the parent that can't be read only makes the delta impossible.
    fn base_of_page(&self, bytes: &[u8]) -> Option<DeltaPrefix> {
        let candidates = self.parent()?.bases_of_page(&Page::decode(bytes).ok()?).ok()?;
        let mut prefix = DeltaPrefix::default();
        for id in candidates {
            let Ok(Some(bytes)) = self.pages.encoded(&id) else { continue };
            prefix.add(DeltaSource { id, offset: 0, length: bytes.len() as u32 }, &bytes);
        }
        Some(prefix)
    }

    fn parent(&self) -> Option<Tree<'_>> {
        self.parent.as_ref().map(|parent| Tree::new(parent, &*self.pages))
    }
}

impl<P: EncodedPages + 'static> Source for PublishedFolder<P> {
    fn page(&self, id: &ChunkId) -> Result<LoadedItem, SourceError> {
        let bytes = self.pages.encoded(id).map_err(|error| SourceError::Io(Box::new(error)))?;
        let bytes = bytes.ok_or(SourceError::OutOfScope)?;
        let base = self.base_of_page(&bytes).unwrap_or_default();
        Ok(loaded(*id, bytes, base))
    }

    fn chunk(&self, ordinal: u64) -> Result<LoadedItem, SourceError> {
        let place = self.local.tree().chunk_at(ordinal).map_err(|error| SourceError::Io(Box::new(error)))?;
        let place = place.ok_or(SourceError::OutOfScope)?;
        let bytes = self.local.at(&place).map_err(|error| match error {
            LocalError::Unavailable { .. } => SourceError::Unavailable { reason: error.to_string() },
            LocalError::NoSuchChunk(_) => SourceError::OutOfScope,
            LocalError::Tree(_) => SourceError::Io(Box::new(error)),
        })?;
        let base = self.parent().and_then(|parent| parent.base_of_chunk(&place, &bytes).ok().flatten());
        Ok(loaded(place.chunk.id, bytes, base.unwrap_or_default()))
    }
}

fn loaded(id: ChunkId, bytes: Bytes, base: DeltaPrefix) -> LoadedItem {
    LoadedItem { id, body: ItemBody::Plain(bytes), delta: DeltaBase::found(base) }
}
