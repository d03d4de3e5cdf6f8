//! Collections: many datasets read as one.

use std::sync::Arc;

use headwater_host::error::{CodedError, codes};
use headwater_protocol::name::{DatasetName, Labels, NamePattern, check_label};
use serde_json::json;

use super::handler::{Asker, Emitter, catalog_failed, not_found};
use super::{Answer, CollectionCreate, CollectionRow, MemberRow};
use crate::catalog::{
    AddEditionError, CatalogError, CollectionMember, CollectionRecord, CreateCollectionError, DatasetRecord, Edition,
    NewCollection, Principal,
};
use crate::core::Core;

/// Fewest seconds between two editions.
const EVERY_S_MIN: u64 = 10;
/// Editions that a scheduled collection keeps where nobody says how many.
const EDITIONS_KEPT_DEFAULT: u64 = 30;

pub(super) fn create(
    core: &Arc<Core>,
    asker: &Asker,
    asked: CollectionCreate,
    out: &Emitter,
) -> Result<(), CodedError> {
    let rule = checked(core, asked)?;
    let taken = core.catalog.dataset(&rule.name).map_err(catalog_failed)?;
    if taken.is_some_and(|dataset| asker.may_read(core, &dataset)) {
        return Err(CodedError::new(&codes::ALREADY_EXISTS, format!("there is a dataset named `{}`", rule.name)));
    }
    let mut members = members_of(core, &rule).map_err(catalog_failed)?;
    if let Some(names) = asker.readable_names(core).map_err(catalog_failed)? {
        members.retain(|member| names.contains(&member.dataset));
    }
    if members.is_empty() && rule.every_s.is_none() {
        return Err(not_found("dataset that matches", &rule.pattern).with_hint(
            "see `core-node dataset list`; or give `--every` for a collection whose members are still to come",
        ));
    }
    let edition = core.catalog.create_collection(&rule, &members).map_err(|error| match error {
        CreateCollectionError::Exists(name) => {
            CodedError::new(&codes::ALREADY_EXISTS, format!("there is a collection named `{name}`"))
        }
        error @ CreateCollectionError::NoMember { .. } => member_changed(error),
        CreateCollectionError::Catalog(error) => catalog_failed(error),
    })?;
    core.announce(&rule.name);
    out.send(&Answer::Collection(row(&rule, edition.number, &edition.id.to_string(), edition.members.len())))
}

/// The rule that was asked for, if it can be one.
fn checked(core: &Core, asked: CollectionCreate) -> Result<NewCollection, CodedError> {
    let usage = |message: String| CodedError::new(&codes::USAGE, message);
    let CollectionCreate { name, matching, labels, every_s, keep } = asked;
    DatasetName::new(name.as_str()).map_err(|error| CodedError::new(&codes::NAME_INVALID, error.to_string()))?;
    NamePattern::new(matching.as_str()).map_err(|error| usage(error.to_string()))?;
    for (key, value) in &labels {
        check_label(key, value).map_err(|error| usage(error.to_string()))?;
    }
    if every_s.is_some_and(|every| every < EVERY_S_MIN) {
        return Err(usage(format!("a collection is made anew every {EVERY_S_MIN} s at most")));
    }
    let keep = match keep {
        Some(keep) => Some(keep).filter(|&keep| keep > 0),
        None => every_s.map(|_| EDITIONS_KEPT_DEFAULT),
    };
    Ok(NewCollection {
        name,
        pattern: matching,
        labels: labels.into_iter().collect(),
        every_s,
        keep,
        created_at: core.now(),
    })
}

pub(super) fn delete(core: &Arc<Core>, asker: &Asker, name: &str, out: &Emitter) -> Result<(), CodedError> {
    let collection = core.catalog.collection(name).map_err(catalog_failed)?.ok_or_else(|| absent(name))?;
    let edition = core.catalog.edition(name, None).map_err(catalog_failed)?;
    readable_row(core, asker, &collection, edition.as_ref())?.ok_or_else(|| absent(name))?;
    if !core.catalog.delete_collection(name).map_err(catalog_failed)? {
        return Err(absent(name));
    }
    tracing::info!(collection = name, by = asker.who, "deleted");
    core.announce(name);
    out.done(
        format!("the collection `{name}` is deleted; its datasets stay, and retention may drop what only it kept"),
        json!({ "collection": name, "deleted": true }),
    )
}

fn absent(name: &str) -> CodedError {
    not_found("collection", name).with_hint("see `core-node collection list`")
}

fn member_changed(error: impl std::error::Error + Send + Sync + 'static) -> CodedError {
    CodedError::new(&codes::VERSION_CONFLICT, "a member changed meanwhile; try again").with_source(error)
}

pub(super) fn list(core: &Arc<Core>, asker: &Asker, out: &Emitter) -> Result<(), CodedError> {
    for collection in core.catalog.collections().map_err(catalog_failed)? {
        let edition = core.catalog.edition(&collection.rule.name, None).map_err(catalog_failed)?;
        if let Some(row) = readable_row(core, asker, &collection, edition.as_ref())? {
            out.send(&Answer::Collection(row))?;
        }
    }
    Ok(())
}

pub(super) fn show(
    core: &Arc<Core>,
    asker: &Asker,
    name: &str,
    number: Option<u64>,
    out: &Emitter,
) -> Result<(), CodedError> {
    let absent = || absent(name);
    let collection = core.catalog.collection(name).map_err(catalog_failed)?.ok_or_else(absent)?;
    let edition = core.catalog.edition(name, number).map_err(catalog_failed)?;
    if number.is_some() && edition.is_none() {
        return Err(absent());
    }
    let row = readable_row(core, asker, &collection, edition.as_ref())?.ok_or_else(absent)?;
    out.send(&Answer::Collection(row))?;
    for member in edition.map(|edition| edition.members).unwrap_or_default() {
        out.send(&Answer::Member(MemberRow {
            dataset: member.dataset,
            number: member.number,
            version: member.version.to_string(),
        }))?;
    }
    Ok(())
}

/// The newest versions of the datasets that belong to a collection now.
pub(crate) fn members_of(core: &Core, rule: &NewCollection) -> Result<Vec<CollectionMember>, CatalogError> {
    let Ok(pattern) = NamePattern::new(rule.pattern.as_str()) else { return Ok(Vec::new()) };
    let mut members = Vec::new();
    for dataset in core.catalog.datasets()? {
        let Some(head) = dataset.head else { continue };
        let fits = DatasetName::new(dataset.name.as_str()).is_ok_and(|name| pattern.matches(&name));
        if fits && labels_fit(core, &dataset, &rule.labels)? {
            members.push(CollectionMember { dataset: dataset.name, number: head.number, version: head.version });
        }
    }
    Ok(members)
}

fn labels_fit(core: &Core, dataset: &DatasetRecord, wanted: &Labels) -> Result<bool, CatalogError> {
    if wanted.is_empty() {
        return Ok(true);
    }
    let Principal::Device(key) = dataset.writer else { return Ok(false) };
    let labels = core.catalog.device(&key)?.map(|device| device.labels).unwrap_or_default();
    Ok(wanted.iter().all(|label| labels.contains(label)))
}

/// Adds an edition with `members`, unless the newest one has the same, and announces it.
pub(crate) fn add_edition(
    core: &Core,
    rule: &NewCollection,
    members: &[CollectionMember],
) -> Result<Edition, CodedError> {
    let edition = core.catalog.add_edition(&rule.name, members, core.now()).map_err(|error| match error {
        AddEditionError::NoCollection(name) => not_found("collection", &name),
        error @ AddEditionError::NoMember { .. } => member_changed(error),
        AddEditionError::Catalog(error) => catalog_failed(error),
    })?;
    core.announce(&rule.name);
    Ok(edition)
}

/// A collection is readable only if all its members are. One without members shows nothing that one may read, and so
/// nobody but who sees all may know of it.
fn readable_row(
    core: &Core,
    asker: &Asker,
    collection: &CollectionRecord,
    edition: Option<&Edition>,
) -> Result<Option<CollectionRow>, CodedError> {
    let members = edition.map(|edition| edition.members.as_slice()).unwrap_or_default();
    if !asker.sees_all() {
        for member in members {
            let dataset = core.catalog.dataset(&member.dataset).map_err(catalog_failed)?;
            if !dataset.is_some_and(|dataset| asker.may_read(core, &dataset)) {
                return Ok(None);
            }
        }
        if members.is_empty() {
            return Ok(None);
        }
    }
    let (number, id) = edition.map_or((0, String::new()), |edition| (edition.number, edition.id.to_string()));
    Ok(Some(row(&collection.rule, number, &id, members.len())))
}

fn row(rule: &NewCollection, number: u64, id: &str, members: usize) -> CollectionRow {
    CollectionRow {
        name: rule.name.clone(),
        number,
        id: id.to_owned(),
        matching: rule.pattern.clone(),
        labels: rule.labels.iter().cloned().collect(),
        every_s: rule.every_s,
        keep: rule.keep,
        members: members as u64,
    }
}
