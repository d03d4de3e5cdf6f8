//! Datasets: listing, looking into versions, tags, deletion, hand-over, retention.

use std::sync::Arc;

use headwater_host::error::{CodedError, codes};
use headwater_protocol::commit::CommitRecord;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::name::{DatasetName, NamePattern};
use headwater_protocol::path::RelPath;
use headwater_protocol::record::{FileKind, FileRecord};
use headwater_protocol::samples::Rule;
use headwater_protocol::tree::{self, Change, Tree, TreeError};
use headwater_protocol::trust::Action;
use serde_json::json;

use super::handler::{Asker, Emitter, catalog_failed, not_found};
use super::{Answer, ChangeRow, DatasetRow, FileRow, VersionRow};
use crate::catalog::{
    DatasetRecord, Deletion, DeviceRecord, DeviceState, DropError, Principal, Retention, TagError, TagRecord,
    VersionRecord,
};
use crate::core::Core;
use crate::ingest::{Next, may_publish, next};
use crate::samples;
use crate::serve::HeldLease;

/// Seconds in a day.
const DAY_S: u64 = 86_400;
/// More newest versions than any dataset has.
const KEEP_ALL: u64 = u32::MAX as u64 + 1;
/// Versions that are asked of the catalog at once.
const LOG_BATCH: usize = 500;

pub(super) fn list(core: &Arc<Core>, asker: &Asker, pattern: Option<&str>, out: &Emitter) -> Result<(), CodedError> {
    let pattern =
        pattern.map(NamePattern::new).transpose().map_err(|error| CodedError::new(&codes::USAGE, error.to_string()))?;
    for dataset in core.catalog.datasets().map_err(catalog_failed)? {
        let fits = pattern
            .as_ref()
            .is_none_or(|pattern| DatasetName::new(dataset.name.as_str()).is_ok_and(|name| pattern.matches(&name)));
        if fits && asker.may_read(core, &dataset) {
            out.send(&Answer::Dataset(row(core, &dataset)?))?;
        }
    }
    Ok(())
}

pub(super) fn show(core: &Arc<Core>, asker: &Asker, version: &str, out: &Emitter) -> Result<(), CodedError> {
    let (dataset, version) = resolve(core, asker, version)?;
    out.send(&Answer::Version(version_row(core, &dataset, &version)?))
}

pub(super) fn log(core: &Arc<Core>, asker: &Asker, name: &str, limit: u64, out: &Emitter) -> Result<(), CodedError> {
    let dataset = readable(core, asker, name)?;
    let mut left = if limit == 0 { u64::MAX } else { limit };
    let mut before = None;
    while left > 0 {
        let batch = usize::try_from(left).unwrap_or(LOG_BATCH).min(LOG_BATCH);
        let versions = core.catalog.versions(dataset.id, before, batch).map_err(catalog_failed)?;
        let Some(last) = versions.last() else { break };
        before = Some(last.number);
        left -= versions.len() as u64;
        for summary in &versions {
            let version = core.catalog.version(dataset.id, summary.number).map_err(catalog_failed)?;
            if let Some(version) = version {
                out.send(&Answer::Version(version_row(core, &dataset, &version)?))?;
            }
        }
    }
    Ok(())
}

pub(super) fn files(
    core: &Arc<Core>,
    asker: &Asker,
    version: &str,
    under: &str,
    limit: u64,
    out: &Emitter,
) -> Result<(), CodedError> {
    let (_, version, lease) = hold(core, asker, version)?;
    let manifest = manifest_of(&version)?;
    let tree = Tree::new(&manifest, &core.pages);
    let under = under.trim_matches('/');
    let records = match under {
        "" => tree.records(),
        path => {
            tree.records_from(&RelPath::new(path).map_err(|error| CodedError::new(&codes::USAGE, error.to_string()))?)
        }
    };
    let mut sent = 0;
    for record in records {
        let record = record.map_err(tree_failed)?;
        if !lies_under(&record.path, under.as_bytes()) || (limit > 0 && sent >= limit) {
            break;
        }
        sent += 1;
        lease.renew_if_old();
        out.send(&Answer::File(file_row(&record)))?;
    }
    if sent == 0 && !under.is_empty() {
        return Err(CodedError::new(&codes::PATH_NOT_IN_DATASET, format!("the version has nothing at `{under}`")));
    }
    Ok(())
}

pub(super) fn diff(core: &Arc<Core>, asker: &Asker, from: &str, to: &str, out: &Emitter) -> Result<(), CodedError> {
    let (_, older, older_lease) = hold(core, asker, from)?;
    let (_, newer, newer_lease) = hold(core, asker, to)?;
    let (older, newer) = (manifest_of(&older)?, manifest_of(&newer)?);
    let changes = tree::diff(Some(Tree::new(&older, &core.pages)), Tree::new(&newer, &core.pages));
    for change in changes {
        older_lease.renew_if_old();
        newer_lease.renew_if_old();
        let (change, record, bytes_before, bytes_after) = match change.map_err(tree_failed)? {
            Change::Added(new) => ("added", new.clone(), 0, new.size),
            Change::Removed(old) => ("removed", old.clone(), old.size, 0),
            Change::Changed { old, new } => ("changed", new.clone(), old.size, new.size),
        };
        let path = String::from_utf8_lossy(&record.path).into_owned();
        out.send(&Answer::Change(ChangeRow { change: change.to_owned(), path, bytes_before, bytes_after }))?;
    }
    Ok(())
}

pub(super) fn tag(core: &Arc<Core>, asker: &Asker, version: &str, tag: &str, out: &Emitter) -> Result<(), CodedError> {
    let numeric = tag.chars().all(|digit| digit.is_ascii_digit());
    if DatasetName::new(tag).is_err() || tag.contains('/') || tag == "latest" || numeric {
        return Err(CodedError::new(&codes::NAME_INVALID, format!("`{tag}` can't be a tag"))
            .with_hint("use letters, digits, `.`, `_` and `-`; not `latest`, and not a number"));
    }
    let (dataset, version) = resolve(core, asker, version)?;
    let number = version.summary.number;
    let record = TagRecord { name: tag.to_owned(), number, tagged_at: core.now() };
    core.catalog.tag(dataset.id, &record, false).map_err(|error| match error {
        TagError::NoVersion { number } => not_found("version", &format!("{}@{number}", dataset.name)),
        TagError::Taken { name, number } => {
            CodedError::new(&codes::ALREADY_EXISTS, format!("the tag `{name}` names version {number} already"))
                .with_hint(format!("take it away first: `core-node dataset tag {} {name} --delete`", dataset.name))
        }
        TagError::Catalog(error) => catalog_failed(error),
    })?;
    out.done(
        format!("`{}@{number}` is `{}@{tag}`, and kept", dataset.name, dataset.name),
        json!({ "dataset": dataset.name, "number": number, "tag": tag }),
    )
}

/// Reads what samples are.
pub(super) fn parse_rule(text: &str) -> Result<Rule, CodedError> {
    Rule::parse(text).map_err(|error| CodedError::new(&codes::USAGE, error.to_string()))
}

/// Answers who is about to publish, before a folder is read for it.
pub(super) fn next_version(core: &Arc<Core>, asker: &Asker, name: &str, out: &Emitter) -> Result<(), CodedError> {
    let Some(peer) = &asker.peer else {
        return Err(CodedError::new(&codes::USAGE, "on the core's own machine the core itself is the writer")
            .with_hint("use `core-node import`"));
    };
    let head = may_publish(core, peer, name)?.and_then(|dataset| dataset.head);
    let Next { number, parent } = next(core, name, head)?;
    let parent = parent.map(|parent| parent.to_string());
    out.done(
        format!("the next version of `{name}` is {number}"),
        json!({ "dataset": name, "number": number, "parent": parent, "parent_number": head.map(|head| head.number) }),
    )
}

/// Says or sets what the samples of a dataset are, and finds those of its newest version.
pub(super) fn samples(
    core: &Arc<Core>,
    asker: &Asker,
    name: &str,
    rule: Option<&str>,
    out: &Emitter,
) -> Result<(), CodedError> {
    let dataset = readable(core, asker, name)?;
    if let Some(rule) = rule {
        samples::set_rule(core, dataset.id, &parse_rule(rule)?)?;
    }
    let rule = samples::rule_of(core, dataset.id)?.to_string();
    let Some(head) = dataset.head else {
        return out.done(format!("`{name}` is read as `{rule}`"), json!({ "dataset": name, "rule": rule }));
    };
    let version = core.catalog.version(dataset.id, head.number).map_err(catalog_failed)?;
    let version = version.ok_or_else(|| absent_version(name))?;
    let count = match samples::index_of(core, &dataset, &version)? {
        Some(index) => index.totals().samples,
        None => manifest_of(&version)?.totals().samples,
    };
    out.done(
        format!("`{name}` is read as `{rule}`; `{name}@{}` has {count} samples", head.number),
        json!({ "dataset": name, "rule": rule, "number": head.number, "samples": count }),
    )
}

pub(super) fn untag(core: &Arc<Core>, asker: &Asker, name: &str, tag: &str, out: &Emitter) -> Result<(), CodedError> {
    let dataset = readable(core, asker, name)?;
    if !core.catalog.untag(dataset.id, tag).map_err(catalog_failed)? {
        return Err(not_found("tag", &format!("{name}@{tag}")));
    }
    out.done(format!("the tag `{tag}` of `{name}` is gone"), json!({ "dataset": name, "tag": tag }))
}

pub(super) fn delete(
    core: &Arc<Core>,
    asker: &Asker,
    name: &str,
    with: Deletion,
    out: &Emitter,
) -> Result<(), CodedError> {
    let dataset = readable(core, asker, name)?;
    core.catalog.delete_dataset(dataset.id, with).map_err(|error| drop_refused(core, name, error))?;
    tracing::info!(dataset = name, ?with, by = asker.who, "deleted");
    core.announce_rights();
    out.done(format!("`{name}` is deleted; `core-node gc` frees its disk"), json!({ "dataset": name, "deleted": true }))
}

pub(super) fn hand_over(
    core: &Arc<Core>,
    asker: &Asker,
    name: &str,
    to: Option<&str>,
    out: &Emitter,
) -> Result<(), CodedError> {
    let dataset = readable(core, asker, name)?;
    let writer = match to {
        None => Principal::Core,
        Some(device) => {
            let found = core.catalog.device_named(device).map_err(catalog_failed)?;
            Principal::Device(can_write(&found.ok_or_else(|| not_found("device", device))?)?.key)
        }
    };
    if writer != dataset.writer
        && !core.catalog.hand_over(dataset.id, dataset.writer, writer).map_err(catalog_failed)?
    {
        return Err(CodedError::new(&codes::VERSION_CONFLICT, format!("`{name}` got another writer meanwhile"))
            .with_hint("look at it and try again: `core-node dataset list`"));
    }
    core.announce_rights();
    let to = core.writer_name(writer);
    tracing::info!(dataset = name, to, "handed over");
    out.done(format!("`{name}` is written by `{to}` from now on"), json!({ "dataset": name, "writer": to }))
}

/// A dataset is not handed to one that can never write it.
fn can_write(device: &DeviceRecord) -> Result<&DeviceRecord, CodedError> {
    let name = &device.name;
    match device.state {
        DeviceState::Revoked(_) => Err(CodedError::new(&codes::DEVICE_REVOKED, format!("`{name}` is revoked"))
            .with_hint("name a device that may connect: `core-node device list`")),
        DeviceState::Active if !device.role.allows(Action::Publish) => {
            let message = format!("`{name}` has the role `{}`, which publishes nothing", device.role);
            Err(CodedError::new(&codes::FORBIDDEN, message).with_hint("name a device: `core-node device list`"))
        }
        DeviceState::Active => Ok(device),
    }
}

pub(super) fn retention(
    core: &Arc<Core>,
    asker: &Asker,
    name: &str,
    keep_last: Option<u32>,
    keep_days: Option<u32>,
    reset: bool,
    out: &Emitter,
) -> Result<(), CodedError> {
    let dataset = readable(core, asker, name)?;
    let rule = if reset {
        Retention::default()
    } else {
        // What isn't given stays; "keep the newest 0" keeps all, whatever the configuration says.
        Retention {
            keep_last: keep_last
                .map_or(dataset.retention.keep_last, |keep| Some(if keep == 0 { KEEP_ALL } else { u64::from(keep) })),
            keep_newer_than_s: keep_days.map_or(dataset.retention.keep_newer_than_s, |days| {
                Some(u64::from(days) * DAY_S).filter(|&seconds| seconds > 0)
            }),
        }
    };
    core.catalog.set_retention(dataset.id, rule).map_err(catalog_failed)?;
    let said = retention_text(rule).unwrap_or_else(|| "what the configuration says".to_owned());
    out.done(format!("of `{name}` is kept: {said}"), json!({ "dataset": name, "retention": said }))
}

/// The dataset `name`, if `asker` may know of it.
pub(super) fn readable(core: &Core, asker: &Asker, name: &str) -> Result<DatasetRecord, CodedError> {
    core.catalog
        .dataset(name)
        .map_err(catalog_failed)?
        .filter(|dataset| asker.may_read(core, dataset))
        .ok_or_else(|| not_found("dataset", name).with_hint("see `core-node dataset list` for those that there are"))
}

/// The version that `NAME`, `NAME@3`, `NAME@tag` or `NAME@latest` means.
pub(super) fn resolve(core: &Core, asker: &Asker, text: &str) -> Result<(DatasetRecord, VersionRecord), CodedError> {
    let (name, wanted) = text.split_once('@').unwrap_or((text, "latest"));
    let dataset = readable(core, asker, name)?;
    let absent = || absent_version(text);
    let number = if wanted == "latest" {
        dataset.head.ok_or_else(absent)?.number
    } else if let Ok(number) = wanted.parse() {
        number
    } else {
        let tags = core.catalog.tags(dataset.id).map_err(catalog_failed)?;
        tags.iter().find(|tag| tag.name == wanted).ok_or_else(absent)?.number
    };
    let version = core.catalog.version(dataset.id, number).map_err(catalog_failed)?.ok_or_else(absent)?;
    Ok((dataset, version))
}

/// The same under a lease: its pages and chunks stay while the lease is held, whatever retention and gc do meanwhile.
pub(crate) fn hold(
    core: &Arc<Core>,
    asker: &Asker,
    text: &str,
) -> Result<(DatasetRecord, VersionRecord, HeldLease), CodedError> {
    let (dataset, version) = resolve(core, asker, text)?;
    let (lease, version) = HeldLease::take(core, &asker.who, dataset.id, version.summary.number)
        .map_err(catalog_failed)?
        .ok_or_else(|| absent_version(text))?;
    Ok((dataset, version, lease))
}

fn absent_version(text: &str) -> CodedError {
    let name = text.split('@').next().unwrap_or_default();
    not_found("version", text).with_hint(format!("see `core-node dataset log {name}`"))
}

/// The manifest of a committed version.
pub(crate) fn manifest_of(version: &VersionRecord) -> Result<Manifest, CodedError> {
    Manifest::decode(&version.manifest).map_err(|error| {
        CodedError::new(
            &codes::CATALOG_DAMAGED,
            format!("the manifest of version {} can't be read", version.summary.number),
        )
        .with_source(error)
    })
}

/// A version that can't be read, as a person meets it.
pub(crate) fn tree_failed(error: TreeError) -> CodedError {
    CodedError::new(&codes::PACK_DAMAGED, "a page of the version can't be read").with_source(error)
}

/// Versions that can't be dropped, as a person meets it.
pub(super) fn drop_refused(core: &Core, name: &str, error: DropError) -> CodedError {
    match error {
        DropError::NotFound => not_found("dataset", name),
        DropError::LastCopy { devices, .. } => {
            let devices: Vec<_> = devices.iter().map(|key| core.writer_name(Principal::Device(*key))).collect();
            CodedError::new(
                &codes::LAST_COPY,
                format!("`{name}` holds the last copy of files that {} freed", devices.join(", ")),
            )
        }
        DropError::Newest { number } => {
            CodedError::new(&codes::USAGE, format!("version {number} is the newest of `{name}`"))
                .with_hint("delete the dataset instead")
        }
        DropError::Tagged { number, tag } => {
            CodedError::new(&codes::USAGE, format!("version {number} of `{name}` is kept by the tag `{tag}`"))
                .with_hint(format!("take the tag away first: `core-node dataset tag {name} {tag} --delete`"))
        }
        DropError::Collected { collection, number } => CodedError::new(
            &codes::COLLECTED,
            format!("`{collection}@{number}` is a collection that holds a version of `{name}`"),
        )
        .with_hint(format!(
            "delete the collection (`core-node collection delete {collection}`), or let it lose the member with --from-collections"
        )),
        DropError::Catalog(error) => catalog_failed(error),
    }
}

/// A rule of retention in words; none if it has none.
pub(super) fn retention_text(rule: Retention) -> Option<String> {
    match (rule.keep_last, rule.keep_newer_than_s) {
        (None, None) => None,
        (Some(KEEP_ALL), _) => Some("every version".to_owned()),
        (Some(last), None) => Some(format!("the newest {last}")),
        (None, Some(seconds)) => Some(format!("those of the last {} days", seconds / DAY_S)),
        (Some(last), Some(seconds)) => {
            Some(format!("the newest {last}, and those of the last {} days", seconds / DAY_S))
        }
    }
}

fn row(core: &Core, dataset: &DatasetRecord) -> Result<DatasetRow, CodedError> {
    let tags = core.catalog.tags(dataset.id).map_err(catalog_failed)?;
    let versions = core.catalog.count_versions(dataset.id).map_err(catalog_failed)?;
    let head = dataset.head;
    let totals = head.map(|head| head.totals).unwrap_or_default();
    Ok(DatasetRow {
        name: dataset.name.clone(),
        writer: core.writer_name(dataset.writer),
        number: head.map_or(0, |head| head.number),
        version: head.map(|head| head.version.to_string()).unwrap_or_default(),
        versions,
        files: totals.files,
        samples: totals.samples,
        bytes: totals.bytes,
        committed_unix_s: head.map_or(0, |head| head.committed_at.0 / 1000),
        tags: tags.into_iter().map(|tag| (tag.name, tag.number)).collect(),
        retention: retention_text(dataset.retention),
    })
}

fn version_row(core: &Core, dataset: &DatasetRecord, version: &VersionRecord) -> Result<VersionRow, CodedError> {
    let manifest = manifest_of(version)?;
    let summary = &version.summary;
    let author = headwater_protocol::codec::decode_stored::<CommitRecord>(&version.commit)
        .map(|commit| commit.author.to_string())
        .unwrap_or_default();
    let tags = core.catalog.tags(dataset.id).map_err(catalog_failed)?;
    Ok(VersionRow {
        dataset: dataset.name.clone(),
        number: summary.number,
        version: summary.version.to_string(),
        parent: manifest.parent.map(|parent| parent.to_string()),
        origin: manifest.origin,
        author,
        files: summary.totals.files,
        samples: summary.totals.samples,
        bytes: summary.totals.bytes,
        committed_unix_s: summary.committed_at.0 / 1000,
        tags: tags.into_iter().filter(|tag| tag.number == summary.number).map(|tag| tag.name).collect(),
        metadata: manifest.metadata.into_iter().collect(),
    })
}

fn file_row(record: &FileRecord) -> FileRow {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (kind, link_target) = match record.kind {
        FileKind::File => ("file", None),
        FileKind::Folder => ("folder", None),
        FileKind::Symlink => ("symlink", Some(lossy(&record.link_target))),
    };
    FileRow {
        path: lossy(&record.path),
        file_kind: kind.to_owned(),
        link_target,
        mode: format!("{:o}", record.mode),
        bytes: record.size,
        mtime_ns: record.mtime_ns,
    }
}

/// Whether `path` is `under` or lies below it.
fn lies_under(path: &[u8], under: &[u8]) -> bool {
    under.is_empty() || path == under || path.strip_prefix(under).is_some_and(|rest| rest.first() == Some(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn under_means_whole_components() {
        for (path, under, wanted) in
            [("a/b", "a", true), ("a", "a", true), ("ab", "a", false), ("x", "", true), ("a/b/c", "a/b", true)]
        {
            assert_eq!(lies_under(path.as_bytes(), under.as_bytes()), wanted, "{path} under {under}");
        }
    }

    #[test]
    fn retention_reads_well() {
        let rule = |keep_last, keep_newer_than_s| retention_text(Retention { keep_last, keep_newer_than_s });
        assert_eq!(rule(None, None), None);
        assert_eq!(rule(Some(3), None).as_deref(), Some("the newest 3"));
        assert_eq!(rule(Some(3), Some(7 * DAY_S)).as_deref(), Some("the newest 3, and those of the last 7 days"));
    }
}
