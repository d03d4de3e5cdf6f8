//! Datasets whose samples are inside files: what was set for each, and the index of each version, from which jobs read.
//!
//! An index is a tree of pages like that of a version, in which every record is a file: where its bytes lie in the version's chunks,
//! and their hash. So a job reads records as it reads files, and nothing of a record is stored twice. It follows from the version
//! and the rule alone, and is built when a version is committed or, if that was not done, when it is first opened.
//!
//! What is known stands in notes of the catalog; a lease on each index keeps its pages for as long as there is its version.

mod build;
mod parts;

use std::sync::{Mutex, PoisonError};

use headwater_host::error::{CodedError, codes};
use headwater_protocol::id::VersionId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::samples::Rule;
use headwater_protocol::tree::Tree;
use serde::{Deserialize, Serialize};

use crate::catalog::{CatalogError, DatasetId, DatasetRecord, Lease, UnixMs, VersionRecord};
use crate::control::{catalog_failed, manifest_of, tree_failed};
use crate::core::Core;
use crate::ingest::error_chain;
use build::{Earlier, IndexError};

pub(crate) use parts::CONTINUES;

/// What the leases of indices begin with.
const LEASE_PREFIX: &str = "samples/";
/// When a lease ends that only the end of its version ends.
const NEVER: UnixMs = UnixMs(i64::MAX as u64);

/// One index is built at a time: it reads a whole version.
static BUILDING: Mutex<()> = Mutex::new(());

/// What is known of a version's index.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    /// By which rule.
    rule: String,
    /// The version, in case its number was given anew.
    version: String,
    /// Its manifest, in hex; empty where there is none.
    manifest: String,
    /// Why there is none.
    failed: String,
}

impl Noted {
    fn index(&self) -> Option<Manifest> {
        Manifest::decode(&data_encoding::HEXLOWER.decode(self.manifest.as_bytes()).ok()?).ok()
    }
}

fn rule_key(dataset: DatasetId) -> String {
    format!("samples/{}", dataset.0)
}

fn index_key(dataset: DatasetId, number: u64) -> String {
    format!("{LEASE_PREFIX}{}/{number}", dataset.0)
}

/// What the samples of `dataset` are. Blocks.
pub(crate) fn rule_of(core: &Core, dataset: DatasetId) -> Result<Rule, CodedError> {
    let noted = core.catalog.note(&rule_key(dataset)).map_err(catalog_failed)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&noted);
    if text.is_empty() {
        return Ok(Rule::default());
    }
    Rule::parse(&text).map_err(|error| CodedError::new(&codes::CATALOG_DAMAGED, error.to_string()))
}

/// Sets what the samples of `dataset` are, from its next opening on. Blocks.
pub(crate) fn set_rule(core: &Core, dataset: DatasetId, rule: &Rule) -> Result<(), CodedError> {
    core.catalog.set_note(&rule_key(dataset), rule.to_string().as_bytes()).map_err(catalog_failed)
}

/// The index of a version, which is built if there is none; none where samples are files. Blocks.
pub(crate) fn index_of(
    core: &Core,
    dataset: &DatasetRecord,
    version: &VersionRecord,
) -> Result<Option<Manifest>, CodedError> {
    let rule = rule_of(core, dataset.id)?;
    if rule.is_files() {
        return Ok(None);
    }
    let label = format!("{}@{}", dataset.name, version.summary.number);
    if let Some(known) = known(core, dataset.id, version, &rule)? {
        return known.map(Some).map_err(|reason| damaged(&label, &rule, &reason));
    }
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    // Somebody else may have built it meanwhile.
    if let Some(known) = known(core, dataset.id, version, &rule)? {
        return known.map(Some).map_err(|reason| damaged(&label, &rule, &reason));
    }
    let manifest = manifest_of(version)?;
    let earlier = earlier(core, dataset.id, version, &rule);
    let build = |earlier| build::build(core, &rule, version.summary.version, &manifest, earlier);
    // What is damaged of an earlier index is found again in the files.
    let built = match build(earlier.as_ref()) {
        Err(IndexError::Tree(_)) if earlier.is_some() => build(None),
        built => built,
    };
    let (index, failed) = match built {
        Ok(index) => (Some(index), String::new()),
        Err(error) if error.stays() => (None, error.to_string()),
        Err(error) => return Err(unbuilt(&label, error)),
    };
    keep(core, dataset.id, version, &rule, index.as_ref(), &failed).map_err(catalog_failed)?;
    match index {
        Some(index) => {
            tracing::info!(dataset = label, rule = %rule, samples = index.totals().samples, "samples were found");
            Ok(Some(index))
        }
        None => Err(damaged(&label, &rule, &failed)),
    }
}

/// What is known of the index by `rule`; none if nothing is, or if its root can't be read any more.
fn known(
    core: &Core,
    dataset: DatasetId,
    version: &VersionRecord,
    rule: &Rule,
) -> Result<Option<Result<Manifest, String>>, CodedError> {
    let key = index_key(dataset, version.summary.number);
    let Some(noted) = core.catalog.note(&key).map_err(catalog_failed)? else { return Ok(None) };
    let Ok(noted) = serde_json::from_slice::<Noted>(&noted) else { return Ok(None) };
    if noted.rule != rule.to_string() || noted.version != version.summary.version.to_string() {
        return Ok(None);
    }
    if !noted.failed.is_empty() {
        return Ok(Some(Err(noted.failed)));
    }
    let Some(index) = noted.index() else { return Ok(None) };
    // Whatever of its upper pages was damaged is stored again by building it again.
    let is_sound = Tree::new(&index, &core.pages).leaves().all(|leaf| leaf.is_ok());
    Ok(is_sound.then_some(Ok(index)))
}

/// The newest earlier version with an index by `rule`.
fn earlier(core: &Core, dataset: DatasetId, version: &VersionRecord, rule: &Rule) -> Option<Earlier> {
    let before = core.catalog.versions(dataset, Some(version.summary.number), 1).ok()?;
    let before = core.catalog.version(dataset, before.first()?.number).ok()??;
    let index = known(core, dataset, &before, rule).ok()??.ok()?;
    Some(Earlier { version: manifest_of(&before).ok()?, index })
}

/// Notes an index, and keeps its pages.
fn keep(
    core: &Core,
    dataset: DatasetId,
    version: &VersionRecord,
    rule: &Rule,
    index: Option<&Manifest>,
    failed: &str,
) -> Result<(), CatalogError> {
    let key = index_key(dataset, version.summary.number);
    let body = index.map(Manifest::encode).unwrap_or_default();
    core.catalog.put_lease(&Lease {
        id: key.clone(),
        version: VersionId::of(&body),
        root: index.and_then(|index| index.root.as_ref()).map(|root| root.id),
        expires_at: NEVER,
    })?;
    let noted = Noted {
        rule: rule.to_string(),
        version: version.summary.version.to_string(),
        manifest: data_encoding::HEXLOWER.encode(&body),
        failed: failed.to_owned(),
    };
    core.catalog.set_note(&key, &serde_json::to_vec(&noted).unwrap_or_default())
}

/// Builds what index is missing of the newest versions, and lets go of those whose versions have gone or that are damaged. Says
/// what it did. Blocks.
pub(crate) fn keep_up(core: &Core) -> Result<String, CodedError> {
    let gone = let_go(core).map_err(catalog_failed)?;
    let mut built = 0;
    for dataset in core.catalog.datasets().map_err(catalog_failed)? {
        built += u64::from(keep_up_with(core, &dataset)?);
    }
    Ok(format!("{built} indices built, {gone} let go"))
}

/// Builds the index of the newest version of `name`, if one is missing; whether one was. Blocks.
pub(crate) fn follow(core: &Core, name: &str) -> Result<bool, CodedError> {
    match core.catalog.dataset(name).map_err(catalog_failed)? {
        Some(dataset) => keep_up_with(core, &dataset),
        None => Ok(false),
    }
}

fn keep_up_with(core: &Core, dataset: &DatasetRecord) -> Result<bool, CodedError> {
    let Some(head) = dataset.head else { return Ok(false) };
    let rule = rule_of(core, dataset.id)?;
    if rule.is_files() {
        return Ok(false);
    }
    let Some(version) = core.catalog.version(dataset.id, head.number).map_err(catalog_failed)? else {
        return Ok(false);
    };
    if known(core, dataset.id, &version, &rule)?.is_some() {
        return Ok(false);
    }
    if let Err(error) = index_of(core, dataset, &version) {
        tracing::warn!(dataset = dataset.name, number = head.number, %error, "no samples were found");
    }
    Ok(true)
}

fn let_go(core: &Core) -> Result<u64, CatalogError> {
    let (mut gone, is_damaged) = (0, !core.catalog.damaged()?.is_empty());
    for lease in core.catalog.leases()? {
        let of = lease.id.strip_prefix(LEASE_PREFIX).and_then(|rest| rest.split_once('/'));
        let of = of.and_then(|(dataset, number)| Some((DatasetId(dataset.parse().ok()?), number.parse().ok()?)));
        let Some((dataset, number)) = of else { continue };
        if core.catalog.version(dataset, number)?.is_none() || (is_damaged && !is_whole(core, &lease.id)?) {
            core.catalog.end_lease(&lease.id)?;
            core.catalog.set_note(&lease.id, &[])?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// Whether all pages of a noted index can be read.
fn is_whole(core: &Core, key: &str) -> Result<bool, CatalogError> {
    let noted = core.catalog.note(key)?.unwrap_or_default();
    let noted = serde_json::from_slice::<Noted>(&noted).ok();
    let Some(index) = noted.and_then(|noted| noted.index()) else { return Ok(true) };
    let tree = Tree::new(&index, &core.pages);
    Ok(tree.leaves().all(|leaf| leaf.and_then(|leaf| tree.leaf(&leaf)).is_ok()))
}

fn damaged(label: &str, rule: &Rule, reason: &str) -> CodedError {
    CodedError::new(&codes::SAMPLES_NOT_FOUND, format!("`{label}` is read as `{rule}`, and that can't be: {reason}"))
}

fn unbuilt(label: &str, error: IndexError) -> CodedError {
    tracing::error!(dataset = label, error = error_chain(&error), "the samples of a version could not be found");
    match error {
        IndexError::Tree(error) => tree_failed(error),
        error => CodedError::new(&codes::READ_FAILED, format!("the samples of `{label}` can't be found: {error}")),
    }
}
