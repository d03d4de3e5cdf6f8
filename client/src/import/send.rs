//! Sending the version: signed, offered, and committed by the core.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headwater_host::error::{CodedError, codes};
use headwater_host::version::{BuiltVersion, PublishedFolder};
use headwater_protocol::codec::encode_stored;
use headwater_protocol::commit::CommitRecord;
use headwater_protocol::id::VersionId;
use headwater_quic::session::Priority;
use headwater_quic::transfer::{self, OutgoingVersion, SendReport, TransferError};

use super::{Before, ImportProgress, Importer, ended};
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
        let pages = self.pages.clone();
        let source = Arc::new(PublishedFolder::open(&self.import.folder, version.manifest.clone(), parent, pages)?);
        let mut retry = Retry::new(self.options.reconnect_for);
        loop {
            let control = self.control().await?;
            // Each attempt counts from nothing: what it has sent is what it has brought further.
            let (told, reached) = (self.told.clone(), Arc::new(AtomicU64::new(0)));
            let seen = reached.clone();
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
                    if reached.load(Ordering::Relaxed) > 0 {
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
        report
            .verify_committed(&self.import.dataset, number, version, self.identity.authority())
            .map_err(|error| bad(error.to_string()))
    }
}
