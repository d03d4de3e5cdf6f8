//! One offered version on its way in: what the core says it has, and where what it lacks is stored.
//!
//! Every answer is within the peer's scope: members of the datasets that it may read, and what it uploaded itself under a
//! proof that lasts. A chunk that the store has for someone else is missing here; that it is then stored only once is
//! nobody's business.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::record::ChunkRef;
use headwater_protocol::trust::Principal as Peer;
use headwater_protocol::wire::{DeltaSource, Refusal};
use headwater_quic::transfer::{
    Committed, Destination, DestinationError, HeldPage, IncomingItem, IncomingOffer, Presence,
};
use headwater_quic::work;

use super::{CommitJob, Prefixes, catalog_refusal, commit_version, disk_full, judge};
use crate::catalog::{ChunkEntry, DatasetId, Principal, Scope};
use crate::core::Core;
use crate::store::{NewChunk, ReadError, StoreBatch, StoreError};

/// One version that a device publishes.
pub struct Publication {
    core: Arc<Core>,
    peer: Peer,
    scope: Scope,
    dataset: Option<DatasetId>,
    mends: bool,
    prefixes: Prefixes,
    prefixes_any: bool,
}

impl Publication {
    /// Judges an offer before anything of it travels.
    pub fn admit(core: &Arc<Core>, peer: &Peer, offer: &IncomingOffer) -> Result<Self, Refusal> {
        let judged = judge(core, peer, &offer.dataset, &offer.manifest, &offer.commit)?;
        let scope = core.scope_of(peer).map_err(|error| catalog_refusal(&error))?;
        let prefixes = Prefixes::new(&core.prefix_folder(), &peer.key, core.config.proofs.prefixes.0);
        Ok(Self {
            core: core.clone(),
            peer: peer.clone(),
            scope,
            dataset: judged.dataset.map(|dataset| dataset.id),
            mends: false,
            prefixes_any: prefixes.any(),
            prefixes,
        })
    }

    /// Takes what is damaged here of a version of `dataset` that is committed, and that the core itself asked `peer` for. Whoever
    /// may read it may bring it: the chunks are named by their hashes, and nothing is committed.
    pub fn mending(core: &Arc<Core>, peer: &Peer, dataset: DatasetId) -> Result<Self, Refusal> {
        let scope = core.scope_of(peer).map_err(|error| catalog_refusal(&error))?;
        let prefixes = Prefixes::new(&core.prefix_folder(), &peer.key, core.config.proofs.prefixes.0);
        Ok(Self {
            core: core.clone(),
            peer: peer.clone(),
            scope,
            dataset: Some(dataset),
            mends: true,
            prefixes_any: prefixes.any(),
            prefixes,
        })
    }

    fn prefix_length(&self, id: &ChunkId) -> Option<u32> {
        if self.prefixes_any { self.prefixes.length(id) } else { None }
    }

    fn visible(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkEntry>>, DestinationError> {
        let entries =
            self.core.catalog.locate_visible(&self.scope, ids, self.core.now()).map_err(|error| catalog(&error))?;
        Ok(entries.into_iter().map(|entry| entry.filter(|entry| !entry.damaged)).collect())
    }

    /// Which of `ids` are complete in a dataset of the scope: first the one that is published, then others that hold them.
    fn complete(&self, ids: &[ChunkId]) -> Result<Vec<bool>, DestinationError> {
        let table = &self.core.catalog;
        let mut complete = match self.dataset {
            Some(dataset) => table.pages_complete(dataset, ids).map_err(|error| catalog(&error))?,
            None => vec![false; ids.len()],
        };
        for (complete, id) in complete.iter_mut().zip(ids).filter(|(complete, _)| !**complete) {
            for holder in table.datasets_holding(id).map_err(|error| catalog(&error))? {
                if Some(holder) != self.dataset && self.scope.datasets.contains(&holder) {
                    *complete |= table.pages_complete(holder, &[*id]).map_err(|error| catalog(&error))?[0];
                }
            }
        }
        Ok(complete)
    }
}

impl Destination for Publication {
    fn pages(&self, ids: &[ChunkId]) -> Result<Vec<Option<HeldPage>>, DestinationError> {
        let visible = self.visible(ids)?;
        let held: Vec<ChunkId> = visible.iter().flatten().map(|entry| entry.id).collect();
        let mut complete = self.complete(&held)?.into_iter();
        visible
            .into_iter()
            .map(|entry| {
                let Some(entry) = entry else { return Ok(None) };
                let complete_below = complete.next().unwrap_or(false);
                if complete_below {
                    return Ok(Some(HeldPage { bytes: Bytes::new(), complete_below }));
                }
                match self.core.store.read_entry(&entry) {
                    Ok(bytes) => Ok(Some(HeldPage { bytes, complete_below })),
                    Err(ReadError::Missing(_) | ReadError::Damaged { .. }) => Ok(None),
                    Err(error) => Err(DestinationError::Io(Box::new(error))),
                }
            })
            .collect()
    }

    fn presence(&self, chunks: &[ChunkRef]) -> Result<Vec<Presence>, DestinationError> {
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
        let visible = self.visible(&ids)?;
        Ok(visible
            .into_iter()
            .zip(chunks)
            .map(|(entry, chunk)| match entry {
                Some(entry) if entry.location.plain_bytes == chunk.length => Presence::Here,
                // With another length the offer lies, and no bytes can make it true.
                Some(_) => Presence::Missing,
                None => match self.prefix_length(&chunk.id) {
                    Some(length) if length < chunk.length => Presence::Prefix(length),
                    _ => Presence::Missing,
                },
            })
            .collect())
    }

    fn delta_source(&self, source: &DeltaSource) -> Result<Option<Bytes>, DestinationError> {
        let Some(entry) = self.visible(&[source.id])?.pop().flatten() else { return Ok(None) };
        let bytes = match self.core.store.read_entry(&entry) {
            Ok(bytes) => bytes,
            Err(ReadError::Missing(_) | ReadError::Damaged { .. }) => return Ok(None),
            Err(error) => return Err(DestinationError::Io(Box::new(error))),
        };
        let (start, length) = (source.offset as usize, source.length as usize);
        Ok((start + length <= bytes.len()).then(|| bytes.slice(start..start + length)))
    }

    fn prefix(&self, id: &ChunkId) -> Result<Option<Bytes>, DestinationError> {
        self.prefixes.read(id).map_err(|error| DestinationError::Io(Box::new(error)))
    }

    fn keep_prefix(&self, id: &ChunkId, bytes: &[u8]) -> Result<(), DestinationError> {
        self.prefixes.keep(id, bytes).map_err(|error| DestinationError::Io(Box::new(error)))
    }

    fn store(&self, batch: Vec<IncomingItem>) -> BoxFuture<'_, Result<(), DestinationError>> {
        async move {
            let ids: Vec<ChunkId> =
                if self.prefixes_any { batch.iter().map(|item| item.id).collect() } else { Vec::new() };
            let chunks =
                batch.into_iter().map(|item| NewChunk { id: item.id, plain: item.plain, frame: item.frame }).collect();
            self.core
                .store
                .store(StoreBatch {
                    uploader: Principal::Device(self.peer.key),
                    pin_until: self.core.pin_until(),
                    chunks,
                })
                .await
                .map_err(|error| match error {
                    StoreError::Full => DestinationError::Refused(disk_full()),
                    other => DestinationError::Io(Box::new(other)),
                })?;
            for id in &ids {
                self.prefixes.forget(id);
            }
            Ok(())
        }
        .boxed()
    }

    fn commit<'a>(
        &'a self,
        offer: &'a IncomingOffer,
        manifest: &'a Manifest,
    ) -> BoxFuture<'a, Result<Committed, Refusal>> {
        if self.mends {
            return std::future::ready(Ok(Committed::default())).boxed();
        }
        let job = CommitJob {
            core: self.core.clone(),
            peer: self.peer.clone(),
            dataset: offer.dataset.clone(),
            body: offer.manifest.clone(),
            manifest: manifest.clone(),
            commit: offer.commit.clone(),
        };
        async move {
            let joined = work::spawn_blocking(move || commit_version(&job)).await;
            joined.unwrap_or_else(|error| {
                tracing::error!(%error, "a commit broke off");
                Err(headwater_host::error::CodedError::new(
                    &headwater_host::error::codes::INTERNAL,
                    "the core made a mistake while it committed",
                )
                .refusal())
            })
        }
        .boxed()
    }
}

fn catalog(error: &crate::catalog::CatalogError) -> DestinationError {
    DestinationError::Refused(catalog_refusal(error))
}
