//! A folder's version as what is sent of it: pages by id, chunks by place, each with what it can travel as a delta over, which
//! is found in the tree of the version before; see [`DeltaPrefix`].

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::page::Page;
use headwater_protocol::tree::{DeltaPrefix, PageSource, PageSourceError, Tree};
use headwater_protocol::wire::DeltaSource;

use super::{LocalChunks, LocalError};

/// Pages as they travel and rest.
pub trait EncodedPages: PageSource + Send + Sync {
    /// The encoded bytes of a page; none if it is not here.
    fn encoded(&self, id: &ChunkId) -> Result<Option<Bytes>, PageSourceError>;
}

/// A page or chunk that is to be sent.
#[derive(Debug)]
pub struct Outgoing {
    /// Its id.
    pub id: ChunkId,
    /// Its plain bytes; of a chunk, verified.
    pub bytes: Bytes,
    /// Bytes like these that the receiver has already.
    pub base: DeltaPrefix,
}

/// The version of a folder, whose files hold its chunks.
pub struct PublishedFolder<P> {
    local: LocalChunks,
    pages: Arc<P>,
    parent: Option<Manifest>,
}

impl<P: EncodedPages + 'static> PublishedFolder<P> {
    /// The version of `manifest` in `folder`. `parent` is what the receiver has committed before, if anything.
    pub fn open(folder: &Path, manifest: Manifest, parent: Option<Manifest>, pages: Arc<P>) -> io::Result<Self> {
        let local = LocalChunks::new(folder, manifest, Arc::clone(&pages) as _)?;
        Ok(Self { local, pages, parent })
    }

    /// A page; none if it is not here.
    pub fn page(&self, id: &ChunkId) -> Result<Option<Outgoing>, PageSourceError> {
        let Some(bytes) = self.pages.encoded(id)? else { return Ok(None) };
        let base = self.base_of_page(&bytes).unwrap_or_default();
        Ok(Some(Outgoing { id: *id, bytes, base }))
    }

    /// The chunk at `ordinal` in manifest order, read from the folder and verified: a file that changed underneath is
    /// noticed.
    pub fn chunk(&self, ordinal: u64) -> Result<Outgoing, LocalError> {
        let place = self.local.tree().chunk_at(ordinal)?.ok_or(LocalError::NoSuchChunk(ordinal))?;
        let bytes = self.local.at(&place)?;
        let base = self.parent().and_then(|parent| parent.base_of_chunk(&place, &bytes).ok().flatten());
        Ok(Outgoing { id: place.chunk.id, bytes, base: base.unwrap_or_default() })
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
