//! What a token grants, and whether one may still be used.
//!
//! The decision is pure: the core passes its clock in, and carries out what [`Admission`] says in one transaction. A
//! device whose reply was lost asks again with the same key, and that costs the token nothing.

use super::{Role, SecretDigest};
use crate::name::{self, DatasetName, DeviceNameError, Labels, NamePattern};

/// Most patterns of either kind in one token.
pub const TOKEN_PATTERNS_MAX: usize = 64;

/// Dataset names that a principal may read and write, as its token said. Patterns may hold `{device}` and `{label.KEY}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct NameGrants {
    /// What it may read.
    pub read: Vec<NamePattern>,
    /// What it may publish.
    pub write: Vec<NamePattern>,
}

/// A token as the core keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenGrant {
    /// What the secret must hash to.
    pub secret: SecretDigest,
    /// When it was made, by the core's clock, in seconds since the Unix epoch.
    pub created_s: i64,
    /// How long it lives from then on, in seconds; none for ever.
    pub lifetime_s: Option<u64>,
    /// How often it can still be used; none without limit.
    pub uses_left: Option<u32>,
    /// Whether it was withdrawn.
    pub revoked: bool,
    /// The role of who joins with it.
    pub role: Role,
    /// Labels that who joins with it gets.
    pub labels: Labels,
    /// What who joins with it may read and write.
    pub names: NameGrants,
    /// Names that who joins with it may take; empty for any.
    pub device_names: Vec<NamePattern>,
}

/// What the core knows already of a key and name that ask to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriorJoin {
    /// Neither the key nor the name is known.
    None,
    /// This very key has joined under this very name with this token before; its reply may have been lost.
    SameKeyAndToken,
    /// The name belongs to another key.
    NameTaken,
    /// The key is known, under another name or by another token.
    KeyKnown,
    /// The key was revoked.
    Revoked,
}

/// What to do for one who may join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Its role.
    pub role: Role,
    /// Its labels.
    pub labels: Labels,
    /// What it may read and write.
    pub names: NameGrants,
    /// Whether this counts as a use of the token.
    pub consumes_use: bool,
}

/// Why one may not join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// The token was withdrawn.
    #[error("this token was revoked")]
    Revoked,
    /// Its lifetime is over.
    #[error("this token expired {ago_s} seconds ago, by the core's clock")]
    Expired {
        /// How long ago.
        ago_s: u64,
    },
    /// It has no use left.
    #[error("this token has been used as often as it may be")]
    UsedUp,
    /// The name can't be.
    #[error(transparent)]
    Name(#[from] DeviceNameError),
    /// The name is not one of those that the token allows.
    #[error("this token admits only names like `{allowed}`; `{name}` is not one")]
    NameNotAllowed {
        /// The asked name.
        name: String,
        /// What is allowed.
        allowed: String,
    },
    /// Another device has the name.
    #[error("another device has the name `{0}`")]
    NameTaken(String),
    /// The key belongs to a device already.
    #[error("this device has joined before, under another name or with another token")]
    KeyKnown,
    /// The key was revoked.
    #[error("this device was revoked")]
    DeviceRevoked,
}

impl TokenGrant {
    /// Whether one who shows this token's secret may join as `name` at `now_s`, and as what.
    pub fn decide(&self, now_s: i64, name: &str, prior: PriorJoin) -> Result<Admission, TokenRefusal> {
        name::check_device_name(name)?;
        match prior {
            PriorJoin::None | PriorJoin::SameKeyAndToken | PriorJoin::NameTaken => {}
            PriorJoin::KeyKnown => return Err(TokenRefusal::KeyKnown),
            PriorJoin::Revoked => return Err(TokenRefusal::DeviceRevoked),
        }
        if self.revoked {
            return Err(TokenRefusal::Revoked);
        }
        if !self.admits_name(name) {
            let allowed = self.device_names.iter().map(NamePattern::as_str).collect::<Vec<_>>().join("`, `");
            return Err(TokenRefusal::NameNotAllowed { name: name.to_owned(), allowed });
        }
        let consumes_use = prior != PriorJoin::SameKeyAndToken;
        if consumes_use {
            self.check_age(now_s)?;
            if self.uses_left == Some(0) {
                return Err(TokenRefusal::UsedUp);
            }
        }
        // Said last: which names there are is for those alone whose token could give them that name.
        if prior == PriorJoin::NameTaken {
            return Err(TokenRefusal::NameTaken(name.to_owned()));
        }
        Ok(Admission { role: self.role, labels: self.labels.clone(), names: self.names.clone(), consumes_use })
    }

    /// Whether the token could still admit someone at `now_s`: what a listing shows.
    pub fn is_usable(&self, now_s: i64) -> bool {
        !self.revoked && self.uses_left != Some(0) && self.check_age(now_s).is_ok()
    }

    fn admits_name(&self, name: &str) -> bool {
        // Device names are dataset names of one part.
        self.device_names.is_empty()
            || DatasetName::new(name).is_ok_and(|name| self.device_names.iter().any(|allowed| allowed.matches(&name)))
    }

    fn check_age(&self, now_s: i64) -> Result<(), TokenRefusal> {
        let Some(lifetime_s) = self.lifetime_s else { return Ok(()) };
        // A core whose clock went backwards sees an age of zero: the token lives on rather than dying early.
        let age_s = u64::try_from(now_s.saturating_sub(self.created_s)).unwrap_or(0);
        if age_s < lifetime_s { Ok(()) } else { Err(TokenRefusal::Expired { ago_s: age_s - lifetime_s }) }
    }
}
