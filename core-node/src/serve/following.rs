//! What a subscriber hears of: the datasets and collections that it named, as far as it may read them.
//!
//! A name is a dataset, a pattern of dataset names, or a collection. A collection is readable only if all its members are;
//! following it means hearing of the versions in each new edition. What is not readable is unmatched, like what doesn't
//! exist.

use std::collections::BTreeMap;

use headwater_protocol::name::{DatasetName, NameContext, NamePattern};
use headwater_protocol::trust::Principal as Peer;
use headwater_protocol::wire::Following;

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
    /// The newest version of each dataset.
    pub news: Vec<Following>,
    /// Names that matched nothing readable.
    pub unmatched: Vec<String>,
}

impl Followed {
    /// Adds names, up to [`FOLLOWED_NAMES_MAX`].
    pub fn add(&mut self, names: Vec<String>) {
        for name in names {
            if self.names.len() < FOLLOWED_NAMES_MAX && !self.names.contains(&name) {
                self.names.push(name);
            }
        }
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

    /// The versions of all that is followed and readable: of datasets the newest, of a collection those in its newest
    /// edition. A dataset that is followed both ways is told once, with its newest.
    pub fn resolve(&self, core: &Core, peer: &Peer) -> Result<Resolved, CatalogError> {
        let readable: Vec<DatasetRecord> =
            core.catalog.datasets()?.into_iter().filter(|dataset| core.rights.may_read(peer, dataset)).collect();
        let mut found: BTreeMap<String, Following> = BTreeMap::new();
        let mut unmatched = Vec::new();
        let context = NameContext { device: &peer.name, labels: &peer.labels };
        for followed in &self.names {
            let pattern = NamePattern::new(followed.as_str()).ok();
            let matching = readable.iter().filter(|dataset| {
                dataset.name == *followed
                    || pattern.as_ref().is_some_and(|pattern| {
                        DatasetName::new(dataset.name.as_str()).is_ok_and(|name| pattern.matches_for(&name, &context))
                    })
            });
            let mut matched = false;
            for dataset in matching {
                matched = true;
                if let Some(head) = following(dataset) {
                    found.insert(dataset.name.clone(), head);
                }
            }
            if !matched {
                match readable_members(core, followed, &readable)? {
                    Some(members) => {
                        for member in members {
                            found.entry(member.dataset.clone()).or_insert(member);
                        }
                    }
                    None => unmatched.push(followed.clone()),
                }
            }
        }
        Ok(Resolved { news: found.into_values().collect(), unmatched })
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

/// The newest versions of the datasets that `peer` writes: those among `names`, or all if none is named.
pub fn own_heads(core: &Core, peer: &Peer, names: &[String]) -> Result<Vec<Following>, CatalogError> {
    let me = Principal::Device(peer.key);
    if names.is_empty() {
        let all = core.catalog.datasets()?;
        return Ok(all.iter().filter(|dataset| dataset.writer == me).filter_map(following).collect());
    }
    let mut heads = Vec::new();
    for name in names {
        if let Some(dataset) = core.catalog.dataset(name)?
            && dataset.writer == me
        {
            heads.extend(following(&dataset));
        }
    }
    Ok(heads)
}

fn following(dataset: &DatasetRecord) -> Option<Following> {
    let head = dataset.head?;
    Some(Following { dataset: dataset.name.clone(), number: head.number, version: head.version })
}
