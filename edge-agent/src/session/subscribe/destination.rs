//! Where a subscribed version goes: pages into the catalog, chunks into the staging file, unless a file on this device
//! has them already.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use headwater_host::error::{CodedError, codes};
use headwater_host::materialise::{ChunkProvider, ProviderError, is_complete};
use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::record::ChunkRef;
use headwater_protocol::sync::Presence;
use headwater_protocol::trust::Certificate;
use headwater_protocol::wire::{DeltaSource, Following, Refusal};
use headwater_quic::transfer::{Committed, Destination, DestinationError, HeldPage, IncomingItem, IncomingOffer};
use headwater_quic::work;

use crate::agent::Agent;
use crate::blocking::blocking;
use crate::catalog::{Catalog, CatalogError, DatasetRow};
use crate::session::incoming::{checked, keep_pages};
use crate::session::publish::index_version;
use crate::storage::holdings::Holdings;
use crate::storage::staging::{Staging, StagingError};

/// The device's side of one fetch. Cheap to clone.
#[derive(Clone)]
pub(super) struct SubscribeDestination(Arc<Inner>);

struct Inner {
    agent: Arc<Agent>,
    catalog: Arc<Catalog>,
    row: DatasetRow,
    wanted: Following,
    authority: Certificate,
    staging: Staging,
    holdings: Holdings,
    /// Pages of the version that is complete here: nothing below them is asked for. Empty when files proved damaged.
    complete: HashSet<ChunkId>,
    /// Read what is said to be here before saying so to the core.
    distrust: bool,
    /// The folder has the version's files already, and only the catalog did not know.
    is_written: bool,
}

impl SubscribeDestination {
    /// Takes the wanted version of a dataset. With `distrust` no file is believed to hold a chunk before it was read.
    pub(super) fn new(
        agent: Arc<Agent>,
        catalog: Arc<Catalog>,
        row: DatasetRow,
        wanted: Following,
        authority: Certificate,
        distrust: bool,
    ) -> Result<Self, StagingError> {
        let staging = Staging::new(agent.data(), Arc::clone(&catalog), row.id)?;
        let complete = match catalog.committed(row.id)? {
            Some(committed) if !distrust => catalog.reachable_pages(row.id, &committed)?,
            _ => HashSet::new(),
        };
        let is_written = is_complete(&row.folder, wanted.number, wanted.version);
        let holdings = Holdings::new(Arc::clone(&agent), Arc::clone(&catalog));
        let inner = Inner { agent, catalog, row, wanted, authority, staging, holdings, complete, distrust, is_written };
        Ok(Self(Arc::new(inner)))
    }

    /// Drops what is staged, once the files hold it.
    pub(super) fn clear_staging(&self) -> Result<(), StagingError> {
        self.0.staging.clear()
    }

    /// Notes which of the version's files holds which chunk, now that they are written: not before, since a home that is
    /// not on disk yet would hide the one that is.
    pub(super) fn index(&self, manifest: &Manifest) -> Result<(), CatalogError> {
        index_version(&self.0.catalog, self.0.row.id, manifest, &self.0.complete)
    }

    /// The chunks of the version, for writing its files.
    pub(super) fn provider(&self) -> impl ChunkProvider + use<> {
        Provider(Arc::clone(&self.0))
    }
}

impl Inner {
    fn held_page(&self, id: &ChunkId) -> Result<Option<HeldPage>, CatalogError> {
        if self.complete.contains(id) {
            // Whether its bytes are needed is the receiver's to decide; it is one look-up.
            let bytes = self.catalog.page(self.row.id, id)?.unwrap_or_default();
            return Ok(Some(HeldPage { bytes: bytes.into(), complete_below: true }));
        }
        let bytes = match self.catalog.page(self.row.id, id)? {
            Some(bytes) => Some(bytes),
            None => self.page_of_another(id)?,
        };
        Ok(bytes.map(|bytes| HeldPage { bytes: bytes.into(), complete_below: false }))
    }

    /// A page that another dataset of this device has is kept for this one too.
    fn page_of_another(&self, id: &ChunkId) -> Result<Option<Vec<u8>>, CatalogError> {
        let Some(bytes) = self.catalog.page_of_any(id, |row| self.agent.has(row))? else { return Ok(None) };
        keep_pages(&self.catalog, &self.row, [(*id, &*bytes)].into_iter(), |_, _| {})?;
        Ok(Some(bytes))
    }

    fn presence(&self, chunk: &ChunkRef) -> Result<Presence, DestinationError> {
        if self.is_written || self.is_staged(&chunk.id).map_err(staging_error)? {
            return Ok(Presence::Here);
        }
        let here = if self.distrust {
            self.holdings.read(&chunk.id, Some(chunk.length)).map_err(catalog_error)?.is_some()
        } else {
            self.holdings.is_said(&chunk.id).map_err(catalog_error)?
        };
        Ok(match self.staging.prefix_bytes(&chunk.id) {
            _ if here => Presence::Here,
            0 => Presence::Missing,
            bytes => Presence::Prefix(bytes.min(chunk.length.saturating_sub(1))),
        })
    }

    fn is_staged(&self, id: &ChunkId) -> Result<bool, StagingError> {
        let is_said = self.staging.holds(id)?;
        if !is_said || !self.distrust || self.staging.read(id)?.is_some() {
            return Ok(is_said);
        }
        self.staging.forget(id)?;
        Ok(false)
    }

    fn chunk(&self, id: &ChunkId, length: Option<u32>) -> Result<Option<Bytes>, DestinationError> {
        match self.staging.read(id).map_err(staging_error)? {
            Some(bytes) => Ok(Some(bytes)),
            None => self.holdings.read(id, length).map_err(catalog_error),
        }
    }

    fn store(&self, batch: Vec<IncomingItem>) -> Result<(), DestinationError> {
        let (pages, chunks): (Vec<_>, Vec<_>) = batch.into_iter().partition(|item| item.is_page);
        if !pages.is_empty() {
            let pages = pages.iter().map(|item| (item.id, &*item.plain));
            keep_pages(&self.catalog, &self.row, pages, |_, _| {}).map_err(catalog_error)?;
        }
        if !chunks.is_empty() {
            let chunks: Vec<_> = chunks.into_iter().map(|item| (item.id, item.plain)).collect();
            self.staging.store(&chunks).map_err(staging_error)?;
        }
        Ok(())
    }

    /// Checks that this is what was asked for, by the author's and the core's word, and that its tree can be.
    fn commit(&self, offer: &IncomingOffer, manifest: &Manifest) -> Result<(), CodedError> {
        let version = checked(&self.catalog, &self.row, &self.wanted, &self.authority, (offer, manifest))?;
        if self.catalog.version(self.row.id, &version.version)?.is_some() {
            // It comes once more, because files of it proved damaged or a transfer was cut.
            return Ok(());
        }
        self.catalog.put_version(self.row.id, &version)?;
        Ok(())
    }
}

impl Destination for SubscribeDestination {
    fn pages(&self, ids: &[ChunkId]) -> Result<Vec<Option<HeldPage>>, DestinationError> {
        ids.iter().map(|id| self.0.held_page(id).map_err(catalog_error)).collect()
    }

    fn presence(&self, chunks: &[ChunkRef]) -> Result<Vec<Presence>, DestinationError> {
        chunks.iter().map(|chunk| self.0.presence(chunk)).collect()
    }

    fn delta_source(&self, source: &DeltaSource) -> Result<Option<Bytes>, DestinationError> {
        let bytes = match self.0.catalog.page(self.0.row.id, &source.id).map_err(catalog_error)? {
            Some(page) => Some(Bytes::from(page)),
            None => self.0.chunk(&source.id, None)?,
        };
        let range = source.offset as usize..source.offset as usize + source.length as usize;
        Ok(bytes.filter(|bytes| bytes.len() >= range.end).map(|bytes| bytes.slice(range)))
    }

    fn prefix(&self, id: &ChunkId) -> Result<Option<Bytes>, DestinationError> {
        Ok(self.0.staging.prefix(id))
    }

    fn keep_prefix(&self, id: &ChunkId, bytes: &[u8]) -> Result<(), DestinationError> {
        self.0.staging.keep_prefix(id, bytes).map_err(staging_error)
    }

    fn store(&self, batch: Vec<IncomingItem>) -> BoxFuture<'_, Result<(), DestinationError>> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let stored = work::spawn_blocking(move || inner.store(batch)).await;
            stored.map_err(|error| DestinationError::Io(Box::new(error)))?
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

struct Provider(Arc<Inner>);

/// No file and no staging file has the chunk.
#[derive(Debug, thiserror::Error)]
#[error("no file on this device has it any more")]
struct Gone;

impl ChunkProvider for Provider {
    fn chunk(&mut self, chunk: &ChunkRef) -> Result<Bytes, ProviderError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| ProviderError { chunk: *chunk, source };
        match self.0.chunk(&chunk.id, Some(chunk.length)) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(failed(Box::new(Gone))),
            Err(error) => Err(failed(Box::new(error))),
        }
    }
}

fn catalog_error(error: CatalogError) -> DestinationError {
    match error {
        CatalogError::Full => DestinationError::Refused(CodedError::from(error).refusal()),
        other => DestinationError::Io(Box::new(other)),
    }
}

fn staging_error(error: StagingError) -> DestinationError {
    if error.is_full() {
        let error = CodedError::new(&codes::DISK_FULL, format!("the device's disk is full: {error}"));
        return DestinationError::Refused(error.refusal());
    }
    match error {
        StagingError::Catalog(error) => catalog_error(error),
        io @ StagingError::Io { .. } => DestinationError::Io(Box::new(io)),
    }
}
