//! Where the bytes of a published version come from: pages from the catalog, chunks from the folder's files, each verified
//! as it is read, so a file that changed underneath is noticed and never sent wrong.

use std::io;
use std::path::Path;
use std::sync::Arc;

use headwater_host::version::{LocalError, Outgoing, PublishedFolder};
use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_quic::transfer::{DeltaBase, ItemBody, LoadedItem, Source, SourceError};

use crate::catalog::DatasetPages;

/// The bytes of one version.
pub struct PublishSource(PublishedFolder<DatasetPages>);

impl PublishSource {
    /// The bytes of the version of `manifest` in `folder`. `parent` is what the core has committed before, if anything.
    pub fn new(pages: DatasetPages, folder: &Path, manifest: Manifest, parent: Option<Manifest>) -> io::Result<Self> {
        PublishedFolder::open(folder, manifest, parent, Arc::new(pages)).map(Self)
    }
}

impl Source for PublishSource {
    fn page(&self, id: &ChunkId) -> Result<LoadedItem, SourceError> {
        // Pages are kept by dataset, so this finds none of another one's.
        let page = self.0.page(id).map_err(|error| SourceError::Io(Box::new(error)))?;
        page.map(loaded).ok_or(SourceError::OutOfScope)
    }

    fn chunk(&self, ordinal: u64) -> Result<LoadedItem, SourceError> {
        self.0.chunk(ordinal).map(loaded).map_err(|error| match error {
            LocalError::Unavailable { .. } => SourceError::Unavailable { reason: error.to_string() },
            LocalError::NoSuchChunk(_) => SourceError::OutOfScope,
            LocalError::Tree(_) => SourceError::Io(Box::new(error)),
        })
    }
}

fn loaded(outgoing: Outgoing) -> LoadedItem {
    let Outgoing { id, bytes, base } = outgoing;
    LoadedItem { id, body: ItemBody::Plain(bytes), delta: DeltaBase::found(base) }
}
