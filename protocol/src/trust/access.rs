//! Which datasets a principal may see. What it may not read looks to it as if it didn't exist.
//!
//! Three things open a dataset: the principal's own token ([`super::NameGrants`]), the core's rules, and having written
//! it. Writing never opens reading of what others wrote: a fleet that shares one token must not read itself.

use serde::{Deserialize, Serialize};

use super::{Action, Principal, Role};
use crate::id::PublicKey;
use crate::name::{self, DatasetName, NamePattern};

/// What a rule opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Reading.
    Read,
    /// Publishing.
    Write,
    /// Both.
    ReadWrite,
}

/// Which principals a rule is for: those that have all of these labels. An empty one is for all. The key `device` stands
/// for the name, `role` for the role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LabelSelector(Vec<(String, String)>);

/// A text that selects nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no selector: `KEY=VALUE[,KEY=VALUE...]` was expected, with a label's key, `device` or `role`")]
pub struct SelectorError(String);

impl LabelSelector {
    /// Reads `site=berlin,line=3`. An empty text selects all.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| name::parse_label(pair).map_err(|_| SelectorError(text.chars().take(80).collect())))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether the principal is one of those selected.
    pub fn selects(&self, principal: &Principal) -> bool {
        self.0.iter().all(|(key, value)| match key.as_str() {
            "device" => principal.name == *value,
            "role" => principal.role.as_str() == value,
            _ => name::label(&principal.labels, key) == Some(value),
        })
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pairs: Vec<_> = self.0.iter().map(|(key, value)| format!("{key}={value}")).collect();
        f.write_str(&pairs.join(","))
    }
}

/// One rule: these principals may do this with these datasets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AccessRule {
    /// Which datasets; may hold `{device}` and `{label.KEY}`.
    pub names: NamePattern,
    /// Which principals.
    #[serde(default)]
    pub who: LabelSelector,
    /// What they may do.
    pub access: Access,
}

/// The core's rules. Rules only open; there is no rule that closes, so their order means nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccessRules {
    /// The rules.
    pub rules: Vec<AccessRule>,
}

/// What a decision needs to know of a dataset.
#[derive(Clone, Copy, Debug)]
pub struct DatasetFacts<'a> {
    /// Its name.
    pub name: &'a DatasetName,
    /// The key of its one writer; none where it doesn't exist yet.
    pub writer: Option<PublicKey>,
}

impl AccessRules {
    /// Whether the principal may read the dataset. Where not, it must not learn that there is one.
    pub fn may_read(&self, principal: &Principal, dataset: &DatasetFacts<'_>) -> bool {
        if !principal.role.allows(Action::Read) {
            return false;
        }
        principal.role == Role::Admin
            || dataset.writer == Some(principal.key)
            || self.opens(principal, dataset.name, Access::Read)
    }

    /// Whether the principal may publish under this name. That the dataset has another writer is a separate question,
    /// asked after this one, so that its answer reveals nothing to one who may not write here at all.
    pub fn may_write(&self, principal: &Principal, dataset: &DatasetFacts<'_>) -> bool {
        if !principal.role.allows(Action::Publish) {
            return false;
        }
        principal.role == Role::Admin
            || dataset.writer == Some(principal.key)
            || self.opens(principal, dataset.name, Access::Write)
    }

    /// Whether the principal may know that the dataset exists.
    pub fn may_see(&self, principal: &Principal, dataset: &DatasetFacts<'_>) -> bool {
        self.may_read(principal, dataset) || dataset.writer == Some(principal.key)
    }

    fn opens(&self, principal: &Principal, name: &DatasetName, wanted: Access) -> bool {
        let context = principal.context();
        let own = match wanted {
            Access::Write => &principal.grants.write,
            Access::Read | Access::ReadWrite => &principal.grants.read,
        };
        own.iter().any(|pattern| pattern.matches_for(name, &context))
            || self.rules.iter().any(|rule| {
                (rule.access == wanted || rule.access == Access::ReadWrite)
                    && rule.who.selects(principal)
                    && rule.names.matches_for(name, &context)
            })
    }
}
