//! What a subscriber hears of: the datasets and collections that it named, as far as it may read them.
//!
//! A name is a dataset, a pattern of dataset names, or a collection. A collection is readable only if all its members are;
//! following it means hearing of the versions in each new edition. What is not readable is unmatched, like what doesn't
//! exist.

use std::collections::BTreeSet;

use headwater_protocol::name::{DatasetName, NameContext, NamePattern};
use headwater_protocol::trust::Principal as Peer;
use headwater_protocol::wire::{EndedDataset, Following, News};

use crate::catalog::{CatalogError, DatasetRecord, Principal};
use crate::core::Core;

/// Most names that one peer follows.
pub const FOLLOWED_NAMES_MAX: usize = 4096;

/// What a peer follows, as it named it.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    names: Vec<String>,
}

/// What [`Followed::resolve`] found.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// What each name stands for.
    pub news: Vec<News>,
    /// Names that matched nothing readable.
    pub unmatched: Vec<String>,
}

impl Followed {
    /// Follows these names, each once, up to [`FOLLOWED_NAMES_MAX`].
    pub fn new(names: Vec<String>) -> Self {
        let mut seen = BTreeSet::new();
        let names = names.into_iter().filter(|name| seen.insert(name.clone())).take(FOLLOWED_NAMES_MAX).collect();
        Self { names }
    }

    /// Whether nothing is followed.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether a change of the dataset or collection `changed` may concern this peer: a cheap first look, before the rights.
    pub fn may_concern(&self, peer: &Peer, changed: &str) -> bool {
        let Ok(name) = DatasetName::new(changed) else { return false };
        let context = NameContext { device: &peer.name, labels: &peer.labels };
        self.names.iter().any(|followed| {
            followed == changed
                || NamePattern::new(followed.as_str()).is_ok_and(|pattern| pattern.matches_for(&name, &context))
        })
    }

    /// What the names stand for among what is readable: the newest version of a dataset, of a collection the versions in its
    /// newest edition. A dataset that several names stand for is told for each.
    pub fn resolve(&self, core: &Core, peer: &Peer) -> Result<Resolved, CatalogError> {
        let readable: Vec<DatasetRecord> =
            core.catalog.datasets()?.into_iter().filter(|dataset| core.rights.may_read(peer, dataset)).collect();
        let mut resolved = Resolved::default();
        let context = NameContext { device: &peer.name, labels: &peer.labels };
        for name in &self.names {
            let pattern = NamePattern::new(name.as_str()).ok();
            let matching = |dataset: &&DatasetRecord| {
                dataset.name == *name
                    || pattern.as_ref().is_some_and(|pattern| {
                        DatasetName::new(dataset.name.as_str()).is_ok_and(|name| pattern.matches_for(&name, &context))
                    })
            };
            let mut matching = readable.iter().filter(matching).peekable();
            let versions = if matching.peek().is_some() {
                Some(matching.filter_map(following).collect())
            } else {
                readable_members(core, name, &readable)?
            };
            match versions {
                Some(versions) => {
                    resolved.news.extend(versions.into_iter().map(|newest| News { name: name.clone(), newest }));
                }
                None => resolved.unmatched.push(name.clone()),
            }
        }
        Ok(resolved)
    }
}

/// The members of the newest edition of the collection `name`; none if there is no such collection, it has no members, or
/// one of them is not among `readable`.
fn readable_members(
    core: &Core,
    name: &str,
    readable: &[DatasetRecord],
) -> Result<Option<Vec<Following>>, CatalogError> {
    let Some(edition) = core.catalog.edition(name, None)? else { return Ok(None) };
    let all_readable = !edition.members.is_empty()
        && edition.members.iter().all(|member| readable.iter().any(|dataset| dataset.name == member.dataset));
    Ok(all_readable.then(|| {
        edition
            .members
            .into_iter()
            .map(|member| Following { dataset: member.dataset, number: member.number, version: member.version })
            .collect()
    }))
}

/// The newest versions of the datasets that `peer` writes: those among `names`, or all if none is named. And of those named
/// that have none, and that it may write, the last numbers from before they were deleted.
pub fn own_heads(
    core: &Core,
    peer: &Peer,
    names: &[String],
) -> Result<(Vec<Following>, Vec<EndedDataset>), CatalogError> {
    let me = Principal::Device(peer.key);
    if names.is_empty() {
        let all = core.catalog.datasets()?;
        let heads = all.iter().filter(|dataset| dataset.writer == me).filter_map(following).collect();
        return Ok((heads, Vec::new()));
    }
    let (mut heads, mut ended) = (Vec::new(), Vec::new());
    for name in names {
        let dataset = core.catalog.dataset(name)?;
        if dataset.as_ref().is_some_and(|dataset| dataset.writer != me) {
            continue;
        }
        if let Some(head) = dataset.as_ref().and_then(following) {
            heads.push(head);
        } else if DatasetName::new(name.as_str()).is_ok_and(|name| core.rights.may_write(peer, &name, None)) {
            let number = core.catalog.last_number(name)?;
            ended.extend((number > 0).then(|| EndedDataset { dataset: name.clone(), number }));
        }
    }
    Ok((heads, ended))
}

fn following(dataset: &DatasetRecord) -> Option<Following> {
    let head = dataset.head?;
    Some(Following { dataset: dataset.name.clone(), number: head.number, version: head.version })
}
