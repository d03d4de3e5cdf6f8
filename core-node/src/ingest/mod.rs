//! Taking what devices publish: whether an offer may come in at all, where its bytes go, and its commit.
//!
//! An offer is judged twice: when it arrives ([`Publication::admit`]), so that nothing travels in vain, and when it commits
//! ([`commit`]), because much can have happened in between. Only the second counts.

mod commit;
mod freed;
mod prefixes;
mod publication;
mod sink;

pub use commit::{CommitJob, commit_version};
pub(crate) use commit::{create, enter};
pub(crate) use freed::note_freed;
pub use prefixes::Prefixes;
pub use publication::Publication;
pub(crate) use sink::StoreSink;

use headwater_host::error::{CodedError, codes};
use headwater_protocol::commit::CommitRecord;
use headwater_protocol::id::VersionId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::name::DatasetName;
use headwater_protocol::trust::Principal as Peer;
use headwater_protocol::wire::Refusal;

use crate::catalog::{CatalogError, DatasetRecord, Head, Principal};
use crate::core::Core;

/// What an offer says, decoded and judged as far as that goes without its pages.
pub(crate) struct Judged {
    /// The dataset, if it exists.
    pub(crate) dataset: Option<DatasetRecord>,
    /// The commit record with the author's signature.
    pub(crate) record: CommitRecord,
    /// The version is the newest one already: its acknowledgement was lost.
    pub(crate) committed_before: bool,
}

/// Judges an offer of `peer`: the name, the one writer, the signature, and that the version follows on the newest one.
pub(crate) fn judge(
    core: &Core,
    peer: &Peer,
    dataset: &str,
    manifest: &[u8],
    commit: &[u8],
) -> Result<Judged, Refusal> {
    let refuse = |code, message: String| CodedError::new(code, message).refusal();
    let existing = may_publish(core, peer, dataset)?;
    let record: CommitRecord = headwater_protocol::codec::decode_stored(commit)
        .map_err(|error| refuse(&codes::BAD_FRAME, error.to_string()))?;
    record
        .verify_author(core.keys.authority.parsed())
        .map_err(|error| refuse(&codes::PEER_UNTRUSTED, error_chain(&error)))?;
    let version = Manifest::id_of(manifest);
    if record.author != peer.key || record.dataset != dataset || record.version != version {
        return Err(refuse(
            &codes::UNSAFE_MANIFEST,
            format!("the commit record that came with `{dataset}` is for another version, dataset or author"),
        ));
    }
    let parsed = Manifest::decode(manifest).map_err(|error| refuse(&codes::UNSAFE_MANIFEST, error.to_string()))?;
    let head = existing.as_ref().and_then(|found| found.head);
    let committed_before = head.is_some_and(|head| head.version == version && head.number == record.number);
    if !committed_before {
        let Next { number: next, parent } = next(core, dataset, head)?;
        if record.number != next || parsed.parent != parent {
            let newest =
                head.map_or("none yet".to_owned(), |head| format!("@{} {}", head.number, head.version.short()));
            return Err(refuse(
                &codes::VERSION_CONFLICT,
                format!("`{dataset}@{}` does not follow on its newest version ({newest})", record.number),
            ));
        }
    }
    Ok(Judged { dataset: existing, record, committed_before })
}

/// Whether `peer` may publish under the name `dataset` and nobody else does; gives the dataset, if it exists.
pub(crate) fn may_publish(core: &Core, peer: &Peer, dataset: &str) -> Result<Option<DatasetRecord>, Refusal> {
    let name = DatasetName::new(dataset)
        .map_err(|error| CodedError::new(&codes::NAME_INVALID, error.to_string()).refusal())?;
    let existing = core.catalog.dataset(dataset).map_err(|error| catalog_refusal(&error))?;
    if !core.rights.may_write(peer, &name, existing.as_ref().map(|found| found.writer)) {
        return Err(CodedError::new(
            &codes::FORBIDDEN,
            format!("`{}` may not publish under the name `{name}`", peer.name),
        )
        .with_hint("publish under a name that its token allows, or ask the core's operator for a rule that allows it")
        .refusal());
    }
    match existing {
        Some(found) if found.writer != Principal::Device(peer.key) => Err(second_writer(core, &found)),
        existing => Ok(existing),
    }
}

/// Where the next version of a dataset goes.
pub(crate) struct Next {
    /// Its number.
    pub(crate) number: u64,
    /// The version that it has to follow on.
    pub(crate) parent: Option<VersionId>,
}

/// What comes after the newest version `head` of `dataset`.
pub(crate) fn next(core: &Core, dataset: &str, head: Option<Head>) -> Result<Next, Refusal> {
    if let Some(head) = head {
        return Ok(Next { number: head.number + 1, parent: Some(head.version) });
    }
    // After a deletion the numbers go on.
    let last = core.catalog.last_number(dataset).map_err(|error| catalog_refusal(&error))?;
    Ok(Next { number: last + 1, parent: None })
}

/// The refusal for one who would be a dataset's second writer. It may write under the name, so it may know that it is taken.
pub(crate) fn second_writer(core: &Core, dataset: &DatasetRecord) -> Refusal {
    let writer = core.writer_name(dataset.writer);
    CodedError::new(
        &codes::SECOND_WRITER,
        format!("`{}` is written by `{writer}`, and a dataset has one writer", dataset.name),
    )
    .with_hint(format!(
        "publish under another name; or, to move it, run `core-node dataset hand-over {} DEVICE` on the core",
        dataset.name
    ))
    .refusal()
}

/// What a peer is told when the catalog fails: that it did, and nothing of the inside.
pub(crate) fn catalog_refusal(error: &CatalogError) -> Refusal {
    tracing::error!(error = %error_chain(error), "the catalog failed while a device published");
    match error {
        CatalogError::Full { .. } => disk_full(),
        _ => CodedError::new(&codes::CATALOG_FAILED, "the core's catalog failed")
            .with_hint("the work is tried again by itself; the core's operator finds the reason in its log")
            .refusal(),
    }
}

/// What a peer is told when the core's disk is full.
pub(crate) fn disk_full() -> Refusal {
    CodedError::new(&codes::DISK_FULL, "the core's disk is full")
        .with_hint("nothing is lost, and the device tries again by itself; free space on the core, or run `core-node gc` there")
        .refusal()
}

/// An error with its causes, for one line of a log.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
