//! The bytes of one committed version on their way out, as they rest: zstd frames are sent as they are stored.

use std::sync::Arc;

use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::tree::Tree;
use headwater_quic::transfer::{ItemBody, LoadedItem, Source, SourceError};

use crate::catalog::{DatasetId, Scope};
use crate::core::Core;
use crate::store::{ReadError, StoredBody};

/// A committed version as a source. It lives as long as one transfer, and so does its lease.
pub struct VersionSource {
    core: Arc<Core>,
    manifest: Manifest,
    scope: Scope,
}

impl VersionSource {
    /// The version of `manifest` in `dataset`, which the caller has found that the peer may read.
    pub fn new(core: Arc<Core>, dataset: DatasetId, manifest: Manifest) -> Self {
        Self { core, manifest, scope: Scope { everything: false, datasets: vec![dataset], uploader: None } }
    }

    fn load(&self, id: &ChunkId) -> Result<LoadedItem, SourceError> {
        let stored = self.core.store.read_stored(id).map_err(|error| match error {
            ReadError::Missing(_) | ReadError::Damaged { .. } => {
                tracing::error!(%error, "a chunk of a committed version can't be read");
                SourceError::Unavailable { reason: format!("chunk {} is damaged at the core", id.short()) }
            }
            other => SourceError::Io(Box::new(other)),
        })?;
        let body = match stored.body {
            StoredBody::Plain(bytes) => ItemBody::Plain(bytes),
            StoredBody::Zstd(frame) => ItemBody::Zstd { frame, plain_bytes: stored.plain_bytes },
        };
        Ok(LoadedItem { body, delta: None })
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
            Some(Some(_)) => self.load(id),
            _ => Err(SourceError::OutOfScope),
        }
    }

    fn chunk(&self, ordinal: u64) -> Result<LoadedItem, SourceError> {
        let tree = Tree::new(&self.manifest, &self.core.pages);
        let place = tree.chunk_at(ordinal).map_err(|error| SourceError::Io(Box::new(error)))?;
        match place {
            Some(place) => self.load(&place.chunk.id),
            None => Err(SourceError::OutOfScope),
        }
    }
}
