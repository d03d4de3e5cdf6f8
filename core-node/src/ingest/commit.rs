//! The commit of a version: everything is checked again, in the order in which it could be wrong, and then it is one
//! transaction of the catalog.
//!
//! ```text
//! writer, name, signature, number, parent   judge()
//! shape of the tree                          verify_shape(), only what the parent does not share
//! all that is new is durable and in scope    gather()
//! countersignature and receipt
//! catalog transaction                        again from gather(), if gc or another commit came between
//! news to those who follow
//! ```

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::codec;
use headwater_protocol::commit::{CommitRecord, Durability, Receipt};
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::manifest::Manifest;
use headwater_protocol::tree::{PageSourceError, Tree, TreeError, verify_shape};
use headwater_protocol::trust::Principal as Peer;
use headwater_protocol::wire::Refusal;
use headwater_quic::transfer::Committed;

use super::{Judged, catalog_refusal, error_chain, judge, second_writer};
use crate::catalog::{
    CatalogError, CommitVersionError, CreateDatasetError, DatasetId, DatasetRecord, NewDataset, NewVersion, Principal,
    Retention, Scope,
};
use crate::core::Core;

/// Most tries of a transaction whose ground gc moved meanwhile.
const COMMIT_TRIES_MAX: usize = 4;
/// Chunks whose visibility is asked at once.
const VISIBLE_BATCH: usize = 4096;

/// A version that is to be committed for a device.
pub struct CommitJob {
    /// The core.
    pub core: Arc<Core>,
    /// Who publishes.
    pub peer: Peer,
    /// The dataset's name.
    pub dataset: String,
    /// The manifest's body.
    pub body: Bytes,
    /// The same, decoded.
    pub manifest: Manifest,
    /// The commit record with the author's signature.
    pub commit: Bytes,
}

/// Commits a version that a device published. Blocks.
pub fn commit_version(job: &CommitJob) -> Result<Committed, Refusal> {
    let core = &job.core;
    let judged = judge(core, &job.peer, &job.dataset, &job.body, &job.commit)?;
    let version = Manifest::id_of(&job.body);
    if judged.committed_before
        && let Some(dataset) = &judged.dataset
    {
        return committed_before(core, dataset.id, &version);
    }
    check_shape(core, &judged, &job.manifest)?;
    let dataset = match judged.dataset {
        Some(dataset) => dataset,
        None => create(core, &job.dataset, Principal::Device(job.peer.key))?,
    };
    let record = judged.record.countersign(&core.keys.identity, core.keys.identity.certificate().to_vec());
    // As it is now: what another dataset of this device has brought into view since the offer no longer stands under a
    // proof of upload.
    let scope = core.scope_of(&job.peer).map_err(|error| catalog_refusal(&error))?;
    let committed = enter(core, &dataset, &record, &job.body, &job.manifest, &scope)?;
    tracing::info!(
        dataset = job.dataset,
        number = record.number,
        version = version.short(),
        device = job.peer.name,
        files = job.manifest.totals().files,
        bytes = job.manifest.totals().bytes,
        "committed"
    );
    Ok(committed)
}

/// Enters a countersigned version: gathers what is new, writes the receipt, and runs the transaction.
pub(crate) fn enter(
    core: &Core,
    dataset: &DatasetRecord,
    record: &CommitRecord,
    body: &Bytes,
    manifest: &Manifest,
    scope: &Scope,
) -> Result<Committed, Refusal> {
    let receipt = Receipt::sign(record, Durability::LocalDisk, &core.keys.identity);
    let committed = Committed { commit: codec::encode_stored(record), receipt: codec::encode_stored(&receipt) };
    for _ in 0..COMMIT_TRIES_MAX {
        let Gathered { new_pages, new_chunks, complete_pages } = gather(core, dataset.id, manifest, scope)?;
        let entered = core.catalog.commit_version(&NewVersion {
            dataset: dataset.id,
            number: record.number,
            version: record.version,
            writer: dataset.writer,
            manifest: body.to_vec(),
            root: manifest.root.as_ref().map(|root| root.id),
            commit: committed.commit.clone(),
            receipt: committed.receipt.clone(),
            totals: manifest.totals(),
            committed_at: core.now(),
            new_pages,
            new_chunks,
            complete_pages,
        });
        match entered {
            Ok(()) => {
                core.metrics.commits_total.inc();
                core.announce(&dataset.name);
                return Ok(committed);
            }
            Err(CommitVersionError::Already { .. }) => return committed_before(core, dataset.id, &record.version),
            Err(CommitVersionError::Incomplete(_)) => {}
            Err(error) => return Err(refused(core, dataset, record, error)),
        }
    }
    Err(CodedError::new(&codes::TOO_BUSY, format!("`{}` could not be committed while gc runs", dataset.name)).refusal())
}

/// Creates a dataset for its first publisher.
pub(crate) fn create(core: &Core, name: &str, writer: Principal) -> Result<DatasetRecord, Refusal> {
    let created = core.catalog.create_dataset(&NewDataset {
        name: name.to_owned(),
        writer,
        retention: Retention::default(),
        created_at: core.now(),
    });
    match created {
        Ok(dataset) => Ok(dataset),
        // Another session was faster. If it was the same writer, that is as good.
        Err(CreateDatasetError::Exists { .. }) => match core.catalog.dataset(name) {
            Ok(Some(dataset)) if dataset.writer == writer => Ok(dataset),
            Ok(Some(dataset)) => Err(second_writer(core, &dataset)),
            Ok(None) => Err(CodedError::new(&codes::TOO_BUSY, format!("`{name}` is being deleted")).refusal()),
            Err(error) => Err(catalog_refusal(&error)),
        },
        Err(CreateDatasetError::Catalog(error)) => Err(catalog_refusal(&error)),
    }
}

fn check_shape(core: &Core, judged: &Judged, manifest: &Manifest) -> Result<(), Refusal> {
    let parent = match &judged.dataset {
        Some(DatasetRecord { id, head: Some(head), .. }) => core
            .catalog
            .version(*id, head.number)
            .map_err(|error| catalog_refusal(&error))?
            .and_then(|version| Manifest::decode(&version.manifest).ok()),
        _ => None,
    };
    let verified = parent.as_ref().map(|parent| Tree::new(parent, &core.pages));
    verify_shape(Tree::new(manifest, &core.pages), verified).map_err(|error| tree_refusal(&error))
}

struct Gathered {
    new_pages: Vec<ChunkId>,
    new_chunks: Vec<ChunkId>,
    complete_pages: Vec<ChunkId>,
}

/// All that the version adds to its dataset, and the topmost pages that the dataset has already. Whatever is added must be
/// visible to the publisher: a version is no way to reach someone else's bytes.
fn gather(core: &Core, dataset: DatasetId, manifest: &Manifest, scope: &Scope) -> Result<Gathered, Refusal> {
    let mut seen: HashSet<ChunkId> = HashSet::new();
    let mut complete_pages = Vec::new();
    let mut failed: Option<CatalogError> = None;
    let mut pages = Vec::new();
    let mut chunks = Vec::new();
    Tree::new(manifest, &core.pages)
        .walk(
            &mut |page| {
                if !seen.insert(*page) || failed.is_some() {
                    return false;
                }
                match core.catalog.pages_complete(dataset, std::slice::from_ref(page)) {
                    Ok(complete) if complete.first() == Some(&true) => {
                        complete_pages.push(*page);
                        false
                    }
                    Ok(_) => {
                        pages.push(*page);
                        true
                    }
                    Err(error) => {
                        failed = Some(error);
                        false
                    }
                }
            },
            &mut |chunk| chunks.push(chunk.id),
        )
        .map_err(|error| tree_refusal(&error))?;
    if let Some(error) = failed {
        return Err(catalog_refusal(&error));
    }
    chunks.retain(|chunk| seen.insert(*chunk));
    for batch in pages.chunks(VISIBLE_BATCH).chain(chunks.chunks(VISIBLE_BATCH)) {
        let entries = core.catalog.locate_visible(scope, batch, core.now()).map_err(|error| catalog_refusal(&error))?;
        let hidden = entries.iter().zip(batch).find(|(entry, _)| entry.is_none_or(|entry| entry.damaged));
        if let Some((_, id)) = hidden {
            return Err(out_of_scope(id));
        }
    }
    Ok(Gathered { new_pages: pages, new_chunks: chunks, complete_pages })
}

fn committed_before(core: &Core, dataset: DatasetId, version: &VersionId) -> Result<Committed, Refusal> {
    match core.catalog.version_by_id(dataset, version) {
        Ok(Some(found)) => Ok(Committed { commit: found.commit, receipt: found.receipt }),
        Ok(None) => Err(CodedError::new(&codes::VERSION_CONFLICT, "the version was dropped meanwhile").refusal()),
        Err(error) => Err(catalog_refusal(&error)),
    }
}

fn refused(core: &Core, dataset: &DatasetRecord, record: &CommitRecord, error: CommitVersionError) -> Refusal {
    let conflict = |message: String| CodedError::new(&codes::VERSION_CONFLICT, message).refusal();
    match error {
        CommitVersionError::NoDataset => {
            CodedError::new(&codes::NOT_FOUND, format!("`{}` was deleted meanwhile", dataset.name)).refusal()
        }
        CommitVersionError::Writer { writer } => second_writer(core, &DatasetRecord { writer, ..dataset.clone() }),
        CommitVersionError::Number { expected } => {
            conflict(format!("`{}@{}` came, and its next version is number {expected}", dataset.name, record.number))
        }
        CommitVersionError::Missing(ids) => out_of_scope(&ids[0]),
        CommitVersionError::Already { .. } | CommitVersionError::Incomplete(_) => {
            conflict(format!("`{}` changed while it was committed", dataset.name))
        }
        CommitVersionError::Catalog(error) => catalog_refusal(&error),
    }
}

/// Absent and someone else's look the same.
fn out_of_scope(id: &ChunkId) -> Refusal {
    CodedError::new(
        &codes::OUT_OF_SCOPE,
        format!("the version names chunk {}, which this device neither uploaded nor may read", id.short()),
    )
    .refusal()
}

fn tree_refusal(error: &TreeError) -> Refusal {
    match error {
        TreeError::Source(PageSourceError::Missing(id)) => out_of_scope(id),
        TreeError::Source(PageSourceError::Io(_)) => {
            tracing::error!(error = error_chain(error), "a page could not be read");
            CodedError::new(&codes::READ_FAILED, "the core could not read a page of the version").refusal()
        }
        TreeError::Source(PageSourceError::Invalid { .. }) | TreeError::Mismatch { .. } => {
            CodedError::new(&codes::UNSAFE_MANIFEST, format!("the version can't be used: {}", error_chain(error)))
                .refusal()
        }
    }
}
