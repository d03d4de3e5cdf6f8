//! Sending a built version: signed, offered, and, once the core has committed it, acknowledged in the catalog.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_host::error::{CodedError, codes};
use headwater_host::materialise::current_version;
use headwater_host::version::PublishedFolder;
use headwater_protocol::codec::{decode_stored, encode_stored};
use headwater_protocol::commit::CommitRecord;
use headwater_protocol::id::VersionId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::name::DatasetName;
use headwater_protocol::path::RelPath;
use headwater_protocol::tree::Tree;
use headwater_quic::session::{Priority, SessionHandle};
use headwater_quic::transfer::{
    OutgoingVersion, ProgressSink, SendReport, TransferError, UnavailableChunk, no_progress,
};
use headwater_quic::work;

use super::keep::forget_deletions_of;
use crate::agent::Agent;
use crate::blocking::blocking;
use crate::catalog::{Catalog, CatalogError, DatasetPages, DatasetRow, EventLevel, Role, VersionRow, VersionState};
use crate::device::Device;
use crate::session::link::Link;
use crate::session::transfer_error;
use crate::storage::deletions;

/// Files are small if they are no longer than this on average: the least that a chunk of a longer one has.
const SMALL_FILE_BYTES: u64 = 64 << 10;

/// How an offer ended.
#[derive(Debug)]
pub enum Sent {
    /// The core committed the version.
    Committed(Box<SendReport>),
    /// Files changed or vanished underneath: the version must do without them.
    Unavailable(Vec<UnavailableChunk>),
    /// The core has another newest version than we think: ask it again.
    Conflict,
}

/// Offers a version, sends what the core lacks, and notes the commit.
pub(super) async fn send(
    agent: &Agent,
    link: &Link,
    row: &DatasetRow,
    version: VersionRow,
    progress: ProgressSink,
) -> Result<Sent, CodedError> {
    let (catalog, device) = (agent.catalog(), agent.joined()?);
    let (version, source) = {
        let (catalog, row) = (Arc::clone(&catalog), row.clone());
        blocking(move || {
            let version = signed(&device, &catalog, &row, version)?;
            let source =
                source(&catalog, DatasetPages::new(Arc::clone(&catalog), row.id), &row, &row.folder, &version)?;
            Ok((version, source))
        })
        .await?
    };
    let is_urgent = agent.folder(&row.name).is_ok_and(|folder| folder.urgent);
    let priority = if is_urgent { Priority::ModelUpdate } else { priority(&version) };
    let outgoing = outgoing(&row.name, &version);
    let sent = link.handle().send_version(outgoing, priority, Arc::new(source), progress).await;
    match sent {
        Ok(report) => {
            acknowledged(agent, &catalog, row, version, &report).await?;
            Ok(Sent::Committed(Box::new(report)))
        }
        Err(TransferError::Unavailable(chunks)) => Ok(Sent::Unavailable(chunks)),
        Err(TransferError::Refused(refusal)) if refusal.code == codes::VERSION_CONFLICT.code => Ok(Sent::Conflict),
        Err(error) => Err(transfer_error(&catalog, error)),
    }
}

/// Datasets of small files, as labels are, go before what takes long anyway.
fn priority(version: &VersionRow) -> Priority {
    let totals = Manifest::decode(&version.manifest).map(|manifest| manifest.totals()).unwrap_or_default();
    if totals.bytes <= totals.files.saturating_mul(SMALL_FILE_BYTES) { Priority::Small } else { Priority::Bulk }
}

/// Asks for the receipt of a version that is committed already: offering it again costs one round trip. False if the core would
/// need bytes for it that are not here any more, as where its own were damaged and the file has changed.
pub(super) async fn ask_receipt(
    agent: &Agent,
    link: &Link,
    row: &DatasetRow,
    version: VersionRow,
) -> Result<bool, CodedError> {
    let catalog = agent.catalog();
    let source = {
        let (catalog, row, version) = (Arc::clone(&catalog), row.clone(), version.clone());
        blocking(move || source(&catalog, DatasetPages::new(Arc::clone(&catalog), row.id), &row, &row.folder, &version))
            .await?
    };
    let outgoing = outgoing(&row.name, &version);
    let sent = link.handle().send_version(outgoing, Priority::Bulk, Arc::new(source), no_progress()).await;
    match sent {
        Ok(report) => acknowledged(agent, &catalog, row, version, &report).await.map(|()| true),
        Err(TransferError::Unavailable(_)) => Ok(false),
        Err(error) => Err(transfer_error(&catalog, error)),
    }
}

/// Takes the core's word that it has committed a version, for want of a receipt, which comes when the core has mended it. Until
/// then nothing is freed under it.
pub(super) async fn note_without_receipt(
    agent: &Agent,
    row: &DatasetRow,
    version: VersionRow,
) -> Result<(), CodedError> {
    let number = version.number;
    let mine = agent.have(&row.name, &row.folder).await;
    let (catalog, row_here) = (agent.catalog(), row.clone());
    blocking(move || {
        let _mine = mine;
        note_commit(&catalog, &row_here, &VersionRow { receipt: Vec::new(), ..version })
    })
    .await?;
    let text = format!("version {number} had been committed, and its receipt waits until the core has mended it");
    agent.note(EventLevel::Warn, "", &row.name, text);
    Ok(())
}

/// Answers the core when it asks for a version that this device publishes or has subscribed to, as to replace a chunk that
/// it found damaged. What is
/// local does not exist for it.
pub fn serve_fetch(agent: &Arc<Agent>, handle: SessionHandle, transfer: u32, dataset: String, version: VersionId) {
    let agent = Arc::clone(agent);
    work::spawn(async move {
        let found = blocking(move || {
            let published = find_published(&agent, &dataset, &version).ok().flatten();
            let found = published.map(|(row, known)| (row.folder.clone(), row, known));
            let (folder, row, known) = found
                .or_else(|| find_subscribed(&agent, &dataset, &version).ok().flatten())
                .ok_or_else(|| CodedError::new(&codes::NOT_FOUND, "this device has no such version"))?;
            // A newer version may be committed while this one is read.
            let catalog = agent.catalog();
            let pages = DatasetPages::of_passing_version(Arc::clone(&catalog), row.id);
            Ok((outgoing(&dataset, &known), source(&catalog, pages, &row, &folder, &known)?))
        });
        let (outgoing, source) = match found.await {
            Ok(found) => found,
            Err(error) => {
                let _ = handle.refuse(transfer, error.refusal()).await;
                return;
            }
        };
        let sent = handle.send_version_as(transfer, outgoing, Priority::Bulk, Arc::new(source), no_progress()).await;
        if let Err(error) = sent {
            tracing::debug!(%error, "a version that the core asked for could not be sent");
        }
    });
}

pub(super) fn find_published(
    agent: &Agent,
    dataset: &str,
    version: &VersionId,
) -> Result<Option<(DatasetRow, VersionRow)>, CodedError> {
    let catalog = agent.catalog();
    for row in agent.datasets()? {
        if row.role == Role::Publish
            && row.name == dataset
            && let Some(known) = catalog.version(row.id, version)?
            && known.state == VersionState::Committed
        {
            return Ok(Some((row, known)));
        }
    }
    Ok(None)
}

/// A version that came from the core and is whole in its folder here, with the folder of its files.
fn find_subscribed(
    agent: &Agent,
    dataset: &str,
    version: &VersionId,
) -> Result<Option<(PathBuf, DatasetRow, VersionRow)>, CodedError> {
    let catalog = agent.catalog();
    for row in agent.datasets()? {
        if row.role != Role::Subscribe || row.name != dataset {
            continue;
        }
        let known = catalog.version(row.id, version)?.filter(|known| known.state == VersionState::Committed);
        let in_force = current_version(&row.folder).filter(|(_, id, _)| id == version);
        if let (Some(known), Some((_, _, folder))) = (known, in_force) {
            return Ok(Some((folder, row, known)));
        }
    }
    Ok(None)
}

fn outgoing(dataset: &str, version: &VersionRow) -> OutgoingVersion {
    OutgoingVersion {
        dataset: dataset.to_owned(),
        manifest: version.manifest.clone().into(),
        commit: version.record.clone().into(),
    }
}

fn source(
    catalog: &Catalog,
    pages: DatasetPages,
    row: &DatasetRow,
    folder: &Path,
    version: &VersionRow,
) -> Result<PublishedFolder<DatasetPages>, CodedError> {
    // Whatever else goes wrong, what is local is never a source.
    assert!(row.role != Role::Local, "what is local is never sent");
    let manifest = version.decode_manifest()?;
    let parent = match catalog.committed(row.id)? {
        Some(committed) if committed.version != version.version => Some(committed.decode_manifest()?),
        _ => None,
    };
    PublishedFolder::open(folder, manifest, parent, Arc::new(pages))
}

/// The version with this device's signature, durably noted as offered.
fn signed(device: &Device, catalog: &Catalog, row: &DatasetRow, version: VersionRow) -> Result<VersionRow, CodedError> {
    let known = decode_stored::<CommitRecord>(&version.record).ok();
    let ours = known.is_some_and(|record| {
        record.author == device.identity.public_key()
            && record.number == version.number
            && record.dataset == row.name
            && record.version == version.version
    });
    if ours && version.state != VersionState::Built {
        return Ok(version);
    }
    let name = DatasetName::new(row.name.as_str())
        .map_err(|error| CodedError::new(&codes::NAME_INVALID, error.to_string()))?;
    let certificate = device.identity.certificate().to_vec();
    let record = CommitRecord::sign_as_author(&name, version.number, version.version, &device.identity, certificate);
    let offered = VersionRow { record: encode_stored(&record), state: VersionState::Offered, ..version };
    match catalog.put_version(row.id, &offered) {
        // A full disk keeps nothing from being sent. Should the answer be lost, the version is known again by its id.
        Ok(()) | Err(CatalogError::Full) => Ok(offered),
        Err(error) => Err(error.into()),
    }
}

/// Checks what the core answered, and makes it durable here.
async fn acknowledged(
    agent: &Agent,
    catalog: &Arc<Catalog>,
    row: &DatasetRow,
    version: VersionRow,
    report: &SendReport,
) -> Result<(), CodedError> {
    let device = agent.joined()?;
    let bad = |reason: String| CodedError::new(&codes::BAD_FRAME, format!("the core's answer can't be used: {reason}"));
    let authority = device.identity.authority();
    report
        .verify_committed(&row.name, version.number, version.version, authority)
        .map_err(|error| bad(error.to_string()))?;
    let number = version.number;
    let committed = VersionRow { record: report.commit.clone(), receipt: report.receipt.clone(), ..version };
    let mine = agent.have(&row.name, &row.folder).await;
    let (catalog, row_here, data) = (Arc::clone(catalog), row.clone(), agent.data().to_owned());
    let work = move || {
        let _mine = mine;
        note_commit(&catalog, &row_here, &committed)?;
        if catalog.deletions_after(row_here.id, b"", 1)?.is_empty() {
            deletions::forget(&data, &row_here)?;
        }
        Ok(())
    };
    blocking(work).await?;
    agent.note(EventLevel::Info, "", &row.name, format!("version {number} is committed"));
    Ok(())
}

pub(super) fn note_commit(catalog: &Arc<Catalog>, row: &DatasetRow, committed: &VersionRow) -> Result<(), CodedError> {
    catalog.commit_version(row.id, committed, 1)?;
    let manifest = committed.decode_manifest()?;
    let pages = DatasetPages::new(Arc::clone(catalog), row.id);
    let tree = Tree::new(&manifest, &pages);
    // A deletion that came while this version was sent is for the next one.
    let is_gone = |path: &[u8]| RelPath::new(path).is_ok_and(|path| matches!(tree.find(&path), Ok(None)));
    forget_deletions_of(catalog, row.id, is_gone)?;
    catalog.prune_pages(row.id)?;
    Ok(())
}
