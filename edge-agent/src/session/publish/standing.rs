//! Where this device and its core stand with a dataset: compared at the start of every session, because nothing else is
//! kept of the last one.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::codec::decode_stored;
use headwater_protocol::commit::CommitRecord;
use headwater_protocol::id::{ChunkId, PublicKey};
use headwater_protocol::manifest::Manifest;
use headwater_protocol::record::ChunkRef;
use headwater_protocol::sync::Presence;
use headwater_protocol::tree::Tree;
use headwater_protocol::trust::Certificate;
use headwater_protocol::wire::{DeltaSource, Following, Refusal};
use headwater_quic::transfer::{
    Committed, Destination, DestinationError, HeldPage, IncomingItem, IncomingOffer, no_progress,
};
use headwater_quic::work;

use super::index::ChunkIndexer;
use crate::agent::Agent;
use crate::blocking::blocking;
use crate::catalog::{Catalog, CatalogError, DatasetPages, DatasetRow, EventLevel, VersionRow, VersionState};
use crate::session::CoreHead;
use crate::session::incoming::{checked, keep_pages};
use crate::session::link::Link;
use crate::storage::deletions;
use crate::storage::free::note_deletions;

/// How the catalog compares with what the core says of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Both know the same newest committed version.
    Level,
    /// The core has a version of ours that we never heard the answer for.
    AnswerLost(Box<VersionRow>),
    /// The core has a version that is not here: the catalog was lost, or is an old one.
    Behind,
    /// The core has nothing of what we think is committed, or counts on from a dataset that was deleted there.
    Ahead {
        /// The number of the version that it would take.
        next: u64,
    },
}

/// Compares the catalog with the core's newest version.
pub fn standing(catalog: &Catalog, row: &DatasetRow, head: &CoreHead) -> Result<Standing, CatalogError> {
    let committed = catalog.committed(row.id)?;
    let head = match head {
        CoreHead::Is(head) => head,
        CoreHead::None { last_number } => {
            let next = *last_number + 1;
            let is_ahead = committed.is_some() || catalog.pending(row.id)?.is_some_and(|built| built.number != next);
            return Ok(if is_ahead { Standing::Ahead { next } } else { Standing::Level });
        }
    };
    if committed.as_ref().is_some_and(|committed| committed.version == head.version) {
        return Ok(Standing::Level);
    }
    let known = catalog.version(row.id, &head.version)?.filter(|known| known.state != VersionState::Committed);
    // Its number can only be other than ours if the core counts differently; then its pages are asked for.
    Ok(match known {
        Some(known) if known.number == head.number => Standing::AnswerLost(Box::new(known)),
        _ => Standing::Behind,
    })
}

/// Takes over the core's newest version of one of this device's own datasets: its pages, none of its chunks. Unless it
/// is the one that this device made last, files that it has and the folder hasn't count as freed from the next build on.
pub async fn adopt(agent: &Agent, link: &Link, row: &DatasetRow, head: &Following) -> Result<(), CodedError> {
    let device = agent.joined()?;
    let catalog = agent.catalog();
    let indexer = ChunkIndexer::new(Arc::clone(&catalog), row.id);
    let adopter = Adopter(Arc::new(AdopterInner {
        catalog: Arc::clone(&catalog),
        row: row.clone(),
        wanted: head.clone(),
        authority: device.identity.authority().clone(),
        me: device.identity.public_key(),
        indexer: Mutex::new(Some(indexer)),
    }));
    link.handle()
        .fetch_version(&row.name, head.version, Arc::new(adopter), no_progress())
        .await
        .map_err(|error| crate::session::transfer_error(&catalog, error))?;
    let (data, row_here) = (agent.data().to_owned(), row.clone());
    blocking(move || delete_again(&data, &catalog, &row_here)).await?;
    let text = format!("took over version {} from the core, because the catalog did not know it", head.number);
    agent.note(EventLevel::Info, "", &row.name, text);
    Ok(())
}

/// Marks again what the user deleted by command and the version that was taken over still has.
fn delete_again(data: &Path, catalog: &Arc<Catalog>, row: &DatasetRow) -> Result<(), CodedError> {
    let paths = deletions::remembered(data, row)?;
    let Some(committed) = catalog.committed(row.id)?.filter(|_| !paths.is_empty()) else { return Ok(()) };
    let manifest = committed.decode_manifest()?;
    let pages = DatasetPages::new(Arc::clone(catalog), row.id);
    paths.iter().try_for_each(|path| note_deletions(catalog, row, Tree::new(&manifest, &pages), path))
}

struct Adopter(Arc<AdopterInner>);

struct AdopterInner {
    catalog: Arc<Catalog>,
    row: DatasetRow,
    wanted: Following,
    authority: Certificate,
    me: PublicKey,
    indexer: Mutex<Option<ChunkIndexer>>,
}

impl AdopterInner {
    fn store(&self, batch: &[IncomingItem]) -> Result<(), CatalogError> {
        let mut indexer = self.indexer.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = batch.iter().filter(|item| item.is_page).map(|item| (item.id, &*item.plain));
        keep_pages(&self.catalog, &self.row, pages, |id, page| {
            if let Some(indexer) = indexer.as_mut() {
                indexer.page(id, page);
            }
        })?;
        indexer.as_mut().map_or(Ok(()), ChunkIndexer::write_full)
    }

    /// Whether it is the one that this device itself made on the one that it knows, with a catalog that has missed nothing
    /// that was freed: a full disk kept it from being noted, and what the folder has not is gone.
    fn is_own_next(&self, version: &VersionRow) -> Result<bool, CodedError> {
        let known = self.catalog.committed(self.row.id)?.map_or(0, |known| known.number);
        let record: CommitRecord = decode_stored(&version.record)
            .map_err(|error| CodedError::new(&codes::BAD_FRAME, format!("the core's commit record: {error}")))?;
        let is_next = version.number == known + 1 && record.author == self.me;
        Ok(is_next && !self.catalog.has_missed_frees()?)
    }

    fn commit(&self, offer: &IncomingOffer, manifest: &Manifest) -> Result<(), CodedError> {
        let version = checked(&self.catalog, &self.row, &self.wanted, &self.authority, (offer, manifest))?;
        if let Some(indexer) = self.indexer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            indexer.finish()?;
        }
        if !self.is_own_next(&version)? {
            self.catalog.begin_recovering(self.row.id)?;
        }
        self.catalog.forget_versions(self.row.id)?;
        self.catalog.commit_version(self.row.id, &version, 1)?;
        Ok(())
    }
}

impl Destination for Adopter {
    fn pages(&self, ids: &[ChunkId]) -> Result<Vec<Option<HeldPage>>, DestinationError> {
        ids.iter()
            .map(|id| {
                let bytes = self.0.catalog.page(self.0.row.id, id).map_err(io)?;
                Ok(bytes.map(|bytes| HeldPage { bytes: bytes.into(), complete_below: false }))
            })
            .collect()
    }

    fn presence(&self, chunks: &[ChunkRef]) -> Result<Vec<Presence>, DestinationError> {
        // The bytes stay where they are: in the folder, or, of freed files, at the core.
        Ok(vec![Presence::Here; chunks.len()])
    }

    fn delta_source(&self, source: &DeltaSource) -> Result<Option<Bytes>, DestinationError> {
        let bytes = self.0.catalog.page(self.0.row.id, &source.id).map_err(io)?;
        let end = source.offset as usize + source.length as usize;
        Ok(bytes.and_then(|bytes| bytes.get(source.offset as usize..end).map(Bytes::copy_from_slice)))
    }

    fn prefix(&self, _id: &ChunkId) -> Result<Option<Bytes>, DestinationError> {
        Ok(None)
    }

    fn keep_prefix(&self, _id: &ChunkId, _bytes: &[u8]) -> Result<(), DestinationError> {
        Ok(())
    }

    fn store(&self, batch: Vec<IncomingItem>) -> BoxFuture<'_, Result<(), DestinationError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let stored = work::spawn_blocking(move || inner.store(&batch)).await;
            stored.map_err(|error| DestinationError::Io(Box::new(error)))?.map_err(io)
        })
    }

    fn commit<'a>(
        &'a self,
        offer: &'a IncomingOffer,
        manifest: &'a Manifest,
    ) -> BoxFuture<'a, Result<Committed, Refusal>> {
        let (inner, offer, manifest) = (Arc::clone(&self.0), offer.clone(), manifest.clone());
        Box::pin(async move {
            let committed = blocking(move || inner.commit(&offer, &manifest)).await;
            committed.map(|()| Committed::default()).map_err(|error| error.refusal())
        })
    }
}

fn io(error: CatalogError) -> DestinationError {
    DestinationError::Io(Box::new(error))
}
