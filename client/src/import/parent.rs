//! The version before: its pages come from the core, and none of its chunks.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use headwater_host::error::{CodedError, codes};
use headwater_protocol::commit::CommitRecord;
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::manifest::Manifest;
use headwater_protocol::record::ChunkRef;
use headwater_protocol::tree::{Tree, verify_shape};
use headwater_protocol::wire::{DeltaSource, Refusal};
use headwater_quic::Identity;
use headwater_quic::transfer::{
    Committed, Destination, DestinationError, HeldPage, IncomingItem, IncomingOffer, Presence, no_progress,
};

use super::{Before, Importer, Pages, ended};
use crate::retry::Retry;

impl Importer<'_> {
    /// Takes the version `(number, id)`, on which the next one follows.
    pub(super) async fn before(&self, (number, id): (u64, VersionId)) -> Result<Before, CodedError> {
        let parent = Arc::new(Parent {
            dataset: self.import.dataset.clone(),
            number,
            version: id,
            identity: self.identity.clone(),
            pages: self.pages.clone(),
            manifest: Mutex::default(),
        });
        let mut retry = Retry::new(self.options.reconnect_for);
        loop {
            let (control, held) = (self.control().await?, self.pages.count());
            let session = control.session();
            match session.fetch_version(&self.import.dataset, id, parent.clone(), no_progress()).await {
                Ok(_) => break,
                Err(error) => {
                    if self.pages.count() > held {
                        retry.progressed();
                    }
                    retry.wait_out(ended(error)).await?;
                }
            }
        }
        let manifest = parent.manifest.lock().unwrap_or_else(PoisonError::into_inner).take();
        let manifest = manifest
            .ok_or_else(|| CodedError::new(&codes::BAD_FRAME, "the core gave no version where one was asked for"))?;
        Ok(Before { number, id, manifest })
    }
}

/// Takes the pages of a version whose number and name are known.
struct Parent {
    dataset: String,
    number: u64,
    version: VersionId,
    identity: Arc<Identity>,
    pages: Arc<Pages>,
    manifest: Mutex<Option<Manifest>>,
}

impl Parent {
    /// Checks that it is what was asked for, by the author's and the core's word, and that its tree can be.
    fn check(&self, offer: &IncomingOffer, manifest: &Manifest) -> Result<(), CodedError> {
        let bad = |reason: String| CodedError::new(&codes::UNSAFE_MANIFEST, reason);
        let authority = self.identity.authority();
        CommitRecord::decode_committed(&offer.commit, &self.dataset, self.number, self.version, authority)
            .map_err(|error| bad(error.to_string()))?;
        verify_shape(Tree::new(manifest, &*self.pages), None).map_err(|error| bad(error.to_string()))
    }
}

impl Destination for Parent {
    fn pages(&self, ids: &[ChunkId]) -> Result<Vec<Option<HeldPage>>, DestinationError> {
        let held = |id| self.pages.find(id).map(|bytes| HeldPage { bytes, complete_below: false });
        Ok(ids.iter().map(held).collect())
    }

    fn presence(&self, chunks: &[ChunkRef]) -> Result<Vec<Presence>, DestinationError> {
        // The bytes are in the folder, or stay at the core.
        Ok(vec![Presence::Here; chunks.len()])
    }

    fn delta_source(&self, source: &DeltaSource) -> Result<Option<Bytes>, DestinationError> {
        let (start, end) = (source.offset as usize, source.offset as usize + source.length as usize);
        let bytes = self.pages.find(&source.id).filter(|bytes| end <= bytes.len());
        Ok(bytes.map(|bytes| bytes.slice(start..end)))
    }

    fn prefix(&self, _id: &ChunkId) -> Result<Option<Bytes>, DestinationError> {
        Ok(None)
    }

    fn keep_prefix(&self, _id: &ChunkId, _bytes: &[u8]) -> Result<(), DestinationError> {
        Ok(())
    }

    fn store(&self, batch: Vec<IncomingItem>) -> BoxFuture<'_, Result<(), DestinationError>> {
        for item in batch.into_iter().filter(|item| item.is_page) {
            self.pages.keep(item.id, item.plain);
        }
        ready(Ok(())).boxed()
    }

    fn commit<'a>(
        &'a self,
        offer: &'a IncomingOffer,
        manifest: &'a Manifest,
    ) -> BoxFuture<'a, Result<Committed, Refusal>> {
        let checked = self.check(offer, manifest).map(|()| {
            *self.manifest.lock().unwrap_or_else(PoisonError::into_inner) = Some(manifest.clone());
            Committed::default()
        });
        ready(checked.map_err(|error| error.refusal())).boxed()
    }
}
