//! The bytes of one committed version on their way out, as they rest: zstd frames are sent as they are stored.
//!
//! If the peer took an older version of the dataset before, what is new of shared chunks and pages travels as a delta over
//! that. A peer that has it no longer says so, and gets the item plain.

use std::sync::Arc;

use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::page::Page;
use headwater_protocol::tree::{ChunkPlace, DeltaPrefix, PageSource, Tree};
use headwater_protocol::wire::DeltaSource;
use headwater_quic::transfer::{DeltaBase, ItemBody, LoadedItem, Source, SourceError};

use crate::catalog::{DatasetId, Scope};
use crate::core::Core;
use crate::store::{ReadError, StoredBody, StoredForm};

/// A committed version as a source. It lives as long as one transfer, and so does its lease.
pub struct VersionSource {
    core: Arc<Core>,
    manifest: Manifest,
    held: Option<Manifest>,
    scope: Scope,
}

impl VersionSource {
    /// The version of `manifest` in `dataset`, which the caller has found that the peer may read; `held` is what the peer
    /// took last of the same dataset.
    pub fn new(core: Arc<Core>, dataset: DatasetId, manifest: Manifest, held: Option<Manifest>) -> Self {
        Self { core, manifest, held, scope: Scope { everything: false, datasets: vec![dataset], uploader: None } }
    }

    fn stored(&self, id: &ChunkId) -> Result<StoredForm, SourceError> {
        self.core.store.read_stored(id).map_err(|error| match error {
            ReadError::Missing(_) | ReadError::Damaged { .. } => {
                tracing::error!(%error, "a chunk of a committed version can't be read");
                SourceError::Unavailable { reason: format!("chunk {} is damaged at the core", id.short()) }
            }
            other => SourceError::Io(Box::new(other)),
        })
    }

    /// What a page can travel as a delta over. That there is nothing is no error: then it travels whole.
    fn page_base(&self, id: &ChunkId) -> Option<DeltaBase> {
        let held = Tree::new(self.held.as_ref()?, &self.core.pages);
        let page: Arc<Page> = self.core.pages.page(id).ok()?;
        let mut prefix = DeltaPrefix::default();
        for base in held.bases_of_page(&page).ok()? {
            let bytes = self.core.store.read(&base).ok()?;
            prefix.add(DeltaSource { id: base, offset: 0, length: bytes.len() as u32 }, &bytes);
        }
        DeltaBase::found(prefix)
    }

    /// What a chunk can travel as a delta over.
    fn chunk_base(&self, place: &ChunkPlace, plain: &[u8]) -> Option<DeltaBase> {
        let held = Tree::new(self.held.as_ref()?, &self.core.pages);
        held.base_of_chunk(place, plain).ok().flatten().and_then(DeltaBase::found)
    }
}

fn body(stored: StoredForm) -> ItemBody {
    match stored.body {
        StoredBody::Plain(bytes) => ItemBody::Plain(bytes),
        StoredBody::Zstd(frame) => ItemBody::Zstd { frame, plain_bytes: stored.plain_bytes },
    }
}

impl Source for VersionSource {
    fn page(&self, id: &ChunkId) -> Result<LoadedItem, SourceError> {
        // Pages of this dataset only: an id that leaked from elsewhere opens nothing.
        let entries = self
            .core
            .catalog
            .locate_visible(&self.scope, std::slice::from_ref(id), self.core.now())
            .map_err(|error| SourceError::Io(Box::new(error)))?;
        match entries.first() {
            Some(Some(_)) => Ok(LoadedItem { id: *id, body: body(self.stored(id)?), delta: self.page_base(id) }),
            _ => Err(SourceError::OutOfScope),
        }
    }

    fn chunk(&self, ordinal: u64) -> Result<LoadedItem, SourceError> {
        let tree = Tree::new(&self.manifest, &self.core.pages);
        let place = tree.chunk_at(ordinal).map_err(|error| SourceError::Io(Box::new(error)))?;
        let place = place.ok_or(SourceError::OutOfScope)?;
        if self.held.is_some() {
            let plain = self.core.store.read(&place.chunk.id).map_err(|error| SourceError::Io(Box::new(error)));
            if let Some(base) = plain.ok().and_then(|plain| self.chunk_base(&place, &plain)) {
                return Ok(LoadedItem {
                    id: place.chunk.id,
                    body: body(self.stored(&place.chunk.id)?),
                    delta: Some(base),
                });
            }
        }
        Ok(LoadedItem { id: place.chunk.id, body: body(self.stored(&place.chunk.id)?), delta: None })
    }
}
