//! Sending the version: signed, offered, and committed by the core.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headwater_host::error::{CodedError, codes};
use headwater_host::version::{BuiltVersion, LocalError, Outgoing, PublishedFolder};
use headwater_protocol::codec::{decode_stored, encode_stored};
use headwater_protocol::commit::{CommitRecord, Receipt};
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_quic::session::Priority;
use headwater_quic::transfer::{
    self, DeltaBase, ItemBody, LoadedItem, OutgoingVersion, SendReport, Source, SourceError, TransferError,
};

use super::{Before, ImportProgress, Importer, Pages, ended};
use crate::retry::Retry;

/// How an offer ended.
pub(super) enum Sent {
    /// The core has committed the version.
    Committed {
        /// Payload that travelled.
        wire_bytes: u64,
    },
    /// Files changed or vanished underneath; what happened to the first.
    Changed(String),
}

impl Importer<'_> {
    /// Sends what the core lacks of `version`, which becomes its version `number` of the dataset.
    pub(super) async fn send(
        &self,
        version: &BuiltVersion,
        before: Option<&Before>,
        number: u64,
    ) -> Result<Sent, CodedError> {
        let certificate = self.identity.certificate().to_vec();
        let record = CommitRecord::sign_as_author(&self.name, number, version.id, &*self.identity, certificate);
        let outgoing = OutgoingVersion {
            dataset: self.import.dataset.clone(),
            manifest: version.body.clone().into(),
            commit: encode_stored(&record).into(),
        };
        let parent = before.map(|before| before.manifest.clone());
        let folder = PublishedFolder::open(&self.import.folder, version.manifest.clone(), parent, self.pages.clone());
        let folder = folder.map_err(|error| {
            let said = format!("`{}` can't be opened", self.import.folder.display());
            CodedError::io(&codes::FOLDER_MISSING, said, error)
        })?;
        let source = Arc::new(FolderSource(folder));
        let (mut retry, reached) = (Retry::new(self.options.reconnect_for), Arc::new(AtomicU64::new(0)));
        loop {
            let control = self.control().await?;
            let (told, seen, before) = (self.told.clone(), reached.clone(), reached.load(Ordering::Relaxed));
            let progress = Arc::new(move |progress: &transfer::Progress| {
                seen.fetch_max(progress.bytes_done, Ordering::Relaxed);
                told(ImportProgress::Sending { bytes: progress.bytes_done, total: progress.bytes_total });
            });
            let sent = control.session().send_version(outgoing.clone(), Priority::Bulk, source.clone(), progress).await;
            match sent {
                Ok(report) => {
                    self.check(&report, number, version.id)?;
                    return Ok(Sent::Committed { wire_bytes: report.wire.total() });
                }
                Err(TransferError::Unavailable(chunks)) => {
                    return Ok(Sent::Changed(chunks.into_iter().next().map(|chunk| chunk.reason).unwrap_or_default()));
                }
                Err(TransferError::Refused(refusal)) if refusal.code == codes::VERSION_CONFLICT.code => {
                    return Err(CodedError::from(refusal)
                        .with_hint("another import of this dataset was faster; import again, on top of that"));
                }
                Err(error) => {
                    if reached.load(Ordering::Relaxed) > before {
                        retry.progressed();
                    }
                    retry.wait_out(ended(error)).await?;
                }
            }
        }
    }

    /// Checks the core's word that it has committed this.
    fn check(&self, report: &SendReport, number: u64, version: VersionId) -> Result<(), CodedError> {
        let bad = |reason: String| {
            CodedError::new(&codes::BAD_FRAME, format!("the core's answer to the import can't be used: {reason}"))
        };
        let record: CommitRecord = decode_stored(&report.commit).map_err(|error| bad(error.to_string()))?;
        let receipt: Receipt = decode_stored(&report.receipt).map_err(|error| bad(error.to_string()))?;
        if record.dataset != self.import.dataset || record.version != version || record.number != number {
            return Err(bad(format!("it commits version {} of `{}`", record.number, record.dataset)));
        }
        receipt.verify(&record, self.identity.authority()).map(drop).map_err(|error| bad(error.to_string()))
    }
}

/// The bytes of the version, from its folder.
struct FolderSource(PublishedFolder<Pages>);

impl Source for FolderSource {
    fn page(&self, id: &ChunkId) -> Result<LoadedItem, SourceError> {
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
