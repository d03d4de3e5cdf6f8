//! Why a request was not answered with bytes.

use rkyv::{Archive, Deserialize, Serialize};

use crate::codec::{self, DecodeError, Encoded};
use crate::wire::{MESSAGE_TEXT_BYTES_MAX, Refusal};

/// Longest encoded failure, in bytes.
pub const READ_FAILURE_BYTES_MAX: usize = 3 * MESSAGE_TEXT_BYTES_MAX + 256;

/// Why a request was not answered with bytes. Other requests go on.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{refusal}")]
pub struct ReadFailure {
    /// What a person is told.
    pub refusal: Refusal,
    /// Bytes that the slot would have to have, where that is what it lacks; else 0.
    pub slot_bytes_needed: u64,
}

impl Encoded for ReadFailure {
    const WHAT: &'static str = "read failure";
    const BYTES_MAX: usize = READ_FAILURE_BYTES_MAX;
}

impl ReadFailure {
    /// The failure in `bytes`, if it is valid.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }

    /// The failure as bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }
}
