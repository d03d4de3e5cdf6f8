//! Versions on their way in and out of one session, with their account.

use std::sync::Arc;

use bytes::Bytes;
use headwater_host::error::{CodedError, codes, countable, printable};
use headwater_protocol::id::VersionId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::trust::Principal as Peer;
use headwater_protocol::wire::Refusal;
use headwater_quic::session::{Priority, SessionHandle};
use headwater_quic::transfer::{IncomingOffer, OutgoingVersion, Progress, TransferError, no_progress};
use headwater_quic::work;

use super::sessions::Doing;
use crate::catalog::{DatasetRecord, Principal, VersionRecord};
use crate::control::damaged_versions;
use crate::core::Core;
use crate::ingest::{Publication, catalog_refusal, error_chain};
use crate::serve::{HeldLease, VersionSource};

/// A subscriber's question for a version.
#[derive(Clone, Debug)]
pub(super) struct Fetch {
    /// The number that the offer must carry.
    pub(super) transfer: u32,
    /// The dataset.
    pub(super) dataset: String,
    /// Its version.
    pub(super) version: VersionId,
}

/// Takes an offered version, or refuses it.
pub(super) async fn receive(
    core: Arc<Core>,
    peer: Arc<Peer>,
    handle: SessionHandle,
    offer: IncomingOffer,
    doing: Arc<Doing>,
) {
    let _shown = doing.begin("publishing", &offer.dataset);
    take(core, peer, handle, offer, Publication::admit).await;
}

/// Takes an offered version into what `admit` makes of it.
async fn take(
    core: Arc<Core>,
    peer: Arc<Peer>,
    handle: SessionHandle,
    offer: IncomingOffer,
    admit: impl FnOnce(&Arc<Core>, &Peer, &IncomingOffer) -> Result<Publication, Refusal> + Send + 'static,
) {
    let (transfer, dataset) = (offer.transfer, offer.dataset.clone());
    let admitted = {
        let (core, peer, offer) = (core.clone(), peer.clone(), offer.clone());
        work::spawn_blocking(move || admit(&core, &peer, &offer)).await
    };
    let publication = match admitted {
        Ok(Ok(publication)) => Arc::new(publication),
        Ok(Err(refusal)) => return refuse(&core, &peer, &handle, transfer, refusal).await,
        Err(error) => {
            tracing::error!(%error, "judging an offer broke off");
            let refusal = CodedError::new(&codes::INTERNAL, "the core made a mistake with this offer").refusal();
            return refuse(&core, &peer, &handle, transfer, refusal).await;
        }
    };
    match Box::pin(handle.receive_version(offer, publication, no_progress())).await {
        Ok(report) => {
            core.account.received_in_vain(report.wire.wasted);
            core.metrics.plain_bytes_in.inc_by(report.plain_bytes);
            core.metrics.saved("dedup", report.saved_dedup_bytes);
            core.metrics.saved("delta", report.saved_delta_bytes);
            core.metrics.saved("compression", report.saved_compression_bytes);
            tracing::info!(
                device = peer.name,
                dataset,
                wire_bytes = report.wire.total(),
                chunks = report.chunks,
                pages = report.pages,
                "received"
            );
        }
        Err(error) => failed(&core, &peer, &dataset, "publishing", &error),
    }
}

/// Sends a version that was asked for, or refuses.
pub(super) async fn send(core: Arc<Core>, peer: Arc<Peer>, handle: SessionHandle, fetch: Fetch, doing: Arc<Doing>) {
    let _shown = doing.begin("fetching", &fetch.dataset);
    let found = {
        let (core, peer, fetch) = (core.clone(), peer.clone(), fetch.clone());
        work::spawn_blocking(move || find(&core, &peer, &fetch)).await
    };
    let (source, version, lease) = match found {
        Ok(Ok(found)) => found,
        Ok(Err(refusal)) => return refuse(&core, &peer, &handle, fetch.transfer, refusal).await,
        Err(error) => {
            tracing::error!(%error, "looking up a version broke off");
            let refusal = CodedError::new(&codes::INTERNAL, "the core made a mistake with this fetch").refusal();
            return refuse(&core, &peer, &handle, fetch.transfer, refusal).await;
        }
    };
    let sent = Box::pin(handle.send_version_as(
        fetch.transfer,
        version,
        Priority::Subscribed,
        Arc::new(source),
        Arc::new(move |_: &Progress| lease.renew_if_old()),
    ))
    .await;
    match sent {
        Ok(report) => {
            core.metrics.plain_bytes_out.inc_by(report.plain_bytes);
            core.metrics.saved("delta", report.saved_delta_bytes);
            core.metrics.saved("dedup", report.saved_dedup_bytes);
            core.metrics.saved("compression", report.saved_compression_bytes);
            tracing::info!(device = peer.name, dataset = fetch.dataset, wire_bytes = report.wire.total(), "sent");
            note_held(&core, &peer, &fetch);
        }
        Err(error) => failed(&core, &peer, &fetch.dataset, "fetching", &error),
    }
}

/// Fetches versions again that the peer has and of which chunks are damaged here: the newest ones of its own datasets, and
/// what it took last of others. What is whole is not sent again, and the version stays as it is committed.
pub(super) async fn mend(core: Arc<Core>, peer: Arc<Peer>, handle: SessionHandle, doing: Arc<Doing>) {
    let looked = {
        let (core, peer) = (core.clone(), peer.clone());
        work::spawn_blocking(move || damaged_versions(&core, &|dataset| at_peer(&core, &peer, dataset))).await
    };
    for (dataset, version) in looked.unwrap_or_default() {
        let (id, is_own, dataset) = (dataset.id, dataset.writer == Principal::Device(peer.key), dataset.name);
        let _shown = doing.begin("mending", &dataset);
        let offer = match handle.fetch_offer(&dataset, version).await {
            Ok(offer) => offer,
            Err(error) => {
                tracing::info!(device = peer.name, dataset, error = error_chain(&error), "it has no whole copy");
                continue;
            }
        };
        let (core, peer, handle) = (core.clone(), peer.clone(), handle.clone());
        if is_own {
            take(core, peer, handle, offer, Publication::admit).await;
        } else {
            take(core, peer, handle, offer, move |core, peer, _| Publication::mending(core, peer, id)).await;
        }
    }
}

/// The key of the catalog's note on what a peer took last of a dataset.
fn held_key(peer: &Peer, dataset: &str) -> String {
    format!("held/{}/{dataset}", peer.key)
}

/// Remembers what the peer has now, so that the next version can travel as what changed. Losing that costs only bytes.
fn note_held(core: &Arc<Core>, peer: &Peer, fetch: &Fetch) {
    let (core, key, version) = (core.clone(), held_key(peer, &fetch.dataset), fetch.version);
    work::spawn_blocking(move || {
        if let Err(error) = core.catalog.set_note(&key, version.as_bytes()) {
            tracing::warn!(error = error_chain(&error), "what a subscriber has could not be noted");
        }
    });
}

/// The version of a dataset that the peer should have whole, as far as the core knows.
fn at_peer(core: &Core, peer: &Peer, dataset: &DatasetRecord) -> Option<VersionId> {
    if dataset.writer == Principal::Device(peer.key) {
        return dataset.head.map(|head| head.version);
    }
    let may_read = core.rights.may_read(peer, dataset);
    VersionId::from_slice(&core.catalog.note(&held_key(peer, &dataset.name)).ok().filter(|_| may_read)??)
}

/// The manifest of what the peer took last of a dataset, if that version is still there and is another one.
fn held(core: &Core, peer: &Peer, dataset: &DatasetRecord, wanted: &VersionId) -> Option<Manifest> {
    let note = core.catalog.note(&held_key(peer, &dataset.name)).ok()??;
    let version = VersionId::from_slice(&note).filter(|held| held != wanted)?;
    let record = core.catalog.version_by_id(dataset.id, &version).ok()??;
    Manifest::decode(&record.manifest).ok()
}

fn find(core: &Arc<Core>, peer: &Peer, fetch: &Fetch) -> Result<(VersionSource, OutgoingVersion, HeldLease), Refusal> {
    let catalog = |error| catalog_refusal(&error);
    let absent = || {
        CodedError::new(&codes::NOT_FOUND, format!("there is no dataset `{}` with this version", fetch.dataset))
            .refusal()
    };
    let dataset: DatasetRecord = core
        .catalog
        .dataset(&fetch.dataset)
        .map_err(catalog)?
        .filter(|dataset| core.rights.may_read(peer, dataset))
        .ok_or_else(absent)?;
    let wanted = core.catalog.version_by_id(dataset.id, &fetch.version).map_err(catalog)?.ok_or_else(absent)?;
    let (lease, version): (_, VersionRecord) =
        HeldLease::take(core, &format!("fetch-{}", peer.key), dataset.id, wanted.summary.number)
            .map_err(catalog)?
            .ok_or_else(absent)?;
    let manifest = Manifest::decode(&version.manifest).map_err(|error| {
        tracing::error!(%error, dataset = dataset.name, "the manifest of a committed version can't be read");
        CodedError::new(&codes::CATALOG_DAMAGED, "the core can't read the version's manifest").refusal()
    })?;
    let outgoing = OutgoingVersion {
        dataset: dataset.name.clone(),
        manifest: Bytes::from(version.manifest),
        commit: Bytes::from(version.commit),
    };
    let held = held(core, peer, &dataset, &fetch.version);
    let source = VersionSource::new(core.clone(), dataset.id, manifest, held);
    Ok((source, outgoing, lease))
}

async fn refuse(core: &Core, peer: &Peer, handle: &SessionHandle, transfer: u32, refusal: Refusal) {
    tracing::info!(device = peer.name, code = refusal.code, reason = refusal.message, "refused");
    core.metrics.error(&refusal.code);
    core.journal.note(&refusal.code, &refusal.message, &peer.name);
    // A session that is gone needs no telling.
    let _ = handle.refuse(transfer, refusal).await;
}

/// The end of a transfer that came to nothing. A cut link is no error: the next session goes on.
fn failed(core: &Core, peer: &Peer, dataset: &str, doing: &str, error: &TransferError) {
    let (code, message) = match error {
        TransferError::Disconnected(reason) => {
            tracing::debug!(device = peer.name, dataset, reason, "cut while {doing}");
            return;
        }
        TransferError::Withdrawn | TransferError::Unavailable(_) | TransferError::Stalled(_) => {
            tracing::info!(device = peer.name, dataset, error = error_chain(error), "given up while {doing}");
            return;
        }
        // The words are the peer's.
        TransferError::Refused(refusal) => (countable(&refusal.code).to_owned(), printable(&refusal.message)),
        TransferError::Violation(violation) => (violation.refusal().code, error_chain(error)),
        TransferError::Manifest(_) | TransferError::WrongVersion { .. } => {
            (codes::BAD_FRAME.code.to_owned(), error_chain(error))
        }
        TransferError::Source { .. } => (codes::READ_FAILED.code.to_owned(), error_chain(error)),
        TransferError::Destination(_) => (codes::WRITE_FAILED.code.to_owned(), error_chain(error)),
    };
    tracing::warn!(device = peer.name, dataset, code, message, "failed while {doing}");
    core.metrics.error(&code);
    core.journal.note(&code, &message, &peer.name);
}
