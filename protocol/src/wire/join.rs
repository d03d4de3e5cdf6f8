//! What travels when a device joins: it shows a token's secret and its new key, and gets a certificate or a refusal.

use std::fmt;

use rkyv::{Archive, Deserialize, Serialize};

use super::Refusal;
use super::message::{check_list, check_text};
use crate::codec::{self, DecodeError, Encoded};
use crate::id::PublicKey;
use crate::name::{LABELS_MAX, Labels};
use crate::trust::{CERTIFICATE_BYTES_MAX, Signature, TOKEN_SECRET_BYTES};

/// Longest message of joining, in bytes.
pub const JOIN_BYTES_MAX: usize = 32 * 1024;
/// Most addresses of a core that a device is told.
const ADDRESSES_MAX: usize = 64;

/// What a device gets.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct JoinReply {
    /// The certificate (DER) for its key.
    pub certificate: Vec<u8>,
    /// The name under which the core knows it.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Where the core listens; empty where the token's addresses are all that there is to say.
    pub addresses: Vec<String>,
}

/// A message of joining.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq)]
pub enum JoinMessage {
    /// The device asks.
    Request {
        /// The token's secret.
        secret: Vec<u8>,
        /// The name that it wants.
        name: String,
        /// Its key.
        key: PublicKey,
        /// Its signature, by that key, over this very TLS session and the name.
        proof: Signature,
    },
    /// The core admits it.
    Admitted(JoinReply),
    /// The core refuses.
    Refused(Refusal),
}

impl fmt::Debug for JoinMessage {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { name, key, .. } => {
                f.debug_struct("Request").field("name", name).field("key", key).finish_non_exhaustive()
            }
            Self::Admitted(reply) => f.debug_tuple("Admitted").field(reply).finish(),
            Self::Refused(refusal) => f.debug_tuple("Refused").field(refusal).finish(),
        }
    }
}

impl Encoded for JoinMessage {
    const WHAT: &'static str = "join message";
    const BYTES_MAX: usize = JOIN_BYTES_MAX;
}

impl JoinMessage {
    /// The message in a frame's body, if it is valid and what it holds is in bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message: Self = codec::decode(bytes)?;
        message.check()?;
        Ok(message)
    }

    /// Checks that lists and texts are in bounds. What [`codec::decode`] alone gives must pass here before it is acted upon.
    pub fn check(&self) -> Result<(), DecodeError> {
        self.check_bounds().map_err(|reason| DecodeError::Inconsistent { what: Self::WHAT, reason })
    }

    fn check_bounds(&self) -> Result<(), String> {
        match self {
            Self::Request { secret, .. } if secret.len() != TOKEN_SECRET_BYTES => {
                Err(format!("a secret of {} bytes", secret.len()))
            }
            Self::Request { name, .. } => check_text("a name", name),
            Self::Admitted(reply) => {
                check_list("certificate bytes", &reply.certificate, CERTIFICATE_BYTES_MAX)?;
                check_list("labels", &reply.labels, LABELS_MAX)?;
                check_list("addresses", &reply.addresses, ADDRESSES_MAX)?;
                check_text("a name", &reply.name)
            }
            Self::Refused(refusal) => refusal.check(),
        }
    }
}
