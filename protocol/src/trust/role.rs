//! Roles, and what each may ask for at all. Which datasets it may ask it of is [`super::AccessRules`]' matter.

use std::fmt;
use std::str::FromStr;

use super::NameGrants;
use crate::id::PublicKey;
use crate::name::{Labels, NameContext};

/// What kind of user a certificate stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// An edge: publishes its data, follows models.
    Device,
    /// A training job or a person who reads.
    Reader,
    /// One who publishes and tags.
    Writer,
    /// One who runs federated learning.
    Coordinator,
    /// One who decides who may do what.
    Admin,
}

/// What may be asked of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read versions of datasets.
    Read,
    /// Publish versions.
    Publish,
    /// Tag, hand over, and set retention.
    Curate,
    /// Begin, change and end federated runs.
    Federate,
    /// See the state of the core and its devices.
    Observe,
    /// Tokens, devices, rules, deletion, gc.
    Administer,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [Self::Device, Self::Reader, Self::Writer, Self::Coordinator, Self::Admin];

    /// Whether the role may do this at all.
    pub const fn allows(self, action: Action) -> bool {
        match self {
            Self::Admin => true,
            Self::Coordinator => !matches!(action, Action::Administer),
            Self::Writer => matches!(action, Action::Read | Action::Publish | Action::Curate | Action::Observe),
            Self::Reader => matches!(action, Action::Read | Action::Observe),
            Self::Device => matches!(action, Action::Read | Action::Publish),
        }
    }

    /// Whether many processes use one identity at once: those of jobs, which make theirs from a token that they share. An
    /// identity of another role that shows up twice has been copied.
    pub const fn is_shared(self) -> bool {
        matches!(self, Self::Reader | Self::Writer)
    }

    /// Its name, as commands and configuration spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Coordinator => "coordinator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role; there are device, reader, writer, coordinator and admin")]
pub struct ParseRoleError(String);

impl FromStr for Role {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, ParseRoleError> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| ParseRoleError(text.chars().take(80).collect()))
    }
}

/// One who has been recognised: what the core's device list says of the key that the handshake proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Its key.
    pub key: PublicKey,
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Its labels.
    pub labels: Labels,
    /// What the token with which it joined lets it read and write.
    pub grants: NameGrants,
}

impl Principal {
    /// What patterns and templates know of it.
    pub fn context(&self) -> NameContext<'_> {
        NameContext { device: &self.name, labels: &self.labels }
    }
}
