//! A request for bytes into a receive slot.

use rkyv::{Archive, Deserialize, Serialize};

use super::what::ReadWhat;
use crate::codec::{self, DecodeError, Encoded};
use crate::path::PATH_BYTES_MAX;

/// Most samples of one request.
pub const SAMPLES_PER_REQUEST_MAX: usize = 16_384;
/// Longest encoded request, in bytes.
pub const READ_REQUEST_BYTES_MAX: usize = SAMPLES_PER_REQUEST_MAX * 8 + 4096;
/// Longest receive slot, in bytes: what stands in it is counted in 32 bits.
pub const SLOT_BYTES_MAX: u32 = 1 << 30;

/// A request for bytes into a receive slot.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// The asker's number for it, which the completion carries.
    pub request: u32,
    /// The slot; no other request may be under way into it.
    pub slot: u32,
    /// Bytes of the slot.
    pub slot_bytes: u32,
    /// The opened source.
    pub source: u32,
    /// What for.
    pub what: ReadWhat,
}

impl Encoded for ReadRequest {
    const WHAT: &'static str = "read request";
    const BYTES_MAX: usize = READ_REQUEST_BYTES_MAX;
}

impl ReadRequest {
    /// The request in `bytes`, if it is valid and what it asks for is in bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let request: Self = codec::decode(bytes)?;
        request.check().map_err(|reason| DecodeError::Inconsistent { what: Self::WHAT, reason })?;
        Ok(request)
    }

    /// The request as bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    fn check(&self) -> Result<(), String> {
        if self.slot_bytes > SLOT_BYTES_MAX {
            return Err(format!("a slot of {} bytes", self.slot_bytes));
        }
        match &self.what {
            ReadWhat::Samples { samples, .. } if samples.is_empty() || samples.len() > SAMPLES_PER_REQUEST_MAX => {
                Err(format!("{} samples at once", samples.len()))
            }
            ReadWhat::Range { path, .. } if path.len() > PATH_BYTES_MAX => {
                Err(format!("a path of {} bytes", path.len()))
            }
            ReadWhat::Range { offset, length, .. } if offset.checked_add(*length).is_none() => {
                Err(format!("{length} bytes from {offset}"))
            }
            _ => Ok(()),
        }
    }
}
