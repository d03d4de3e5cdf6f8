//! Fixed headers of the TCP plane: what does not fit its kind is refused before a byte of a body is read.

use headwater_protocol::delivery::{READ_FAILURE_BYTES_MAX, READ_REQUEST_BYTES_MAX, SLOT_BYTES_MAX};

use crate::invitation::KEY_BYTES;
use crate::offer::{ENDPOINT_BYTES, REASON_BYTES_MAX};
use crate::plane::LaneError;

const MAGIC: [u8; 4] = *b"HWd1";
const VERSION: u16 = 1;
const FLAG_SEALED: u16 = 1;
/// Bytes of a hello.
pub const HELLO_BYTES: usize = 48;
/// Bytes of the answer to it.
pub(crate) const ANSWER_BYTES: usize = 8;
/// Bytes of a frame's header.
pub(crate) const HEADER_BYTES: usize = 16;
/// Longest body of a sealed frame, in bytes: it is checked as a whole before any of it counts.
pub(crate) const SEALED_BODY_BYTES_MAX: usize = 256 * 1024;

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Whether frames are sealed.
    pub sealed: bool,
    /// The session that it belongs to.
    pub session: u64,
    /// What shows that it does.
    pub proof: [u8; KEY_BYTES],
}

impl Hello {
    /// As bytes.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&if self.sealed { FLAG_SEALED } else { 0 }.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.session.to_le_bytes());
        bytes[16..].copy_from_slice(&self.proof);
        bytes
    }

    /// The hello in `bytes`.
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, LaneError> {
        let broken = |reason: &str| Err(LaneError::Protocol(reason.to_owned()));
        if bytes[..4] != MAGIC {
            return broken("it does not begin as a data connection does");
        }
        if u16::from_le_bytes([bytes[4], bytes[5]]) != VERSION {
            return broken("its version of the data connection is another");
        }
        let flags = u16::from_le_bytes([bytes[6], bytes[7]]);
        if flags & !FLAG_SEALED != 0 {
            return broken("its hello has flags that nobody knows");
        }
        let mut session = [0; 8];
        session.copy_from_slice(&bytes[8..16]);
        let mut proof = [0; KEY_BYTES];
        proof.copy_from_slice(&bytes[16..]);
        Ok(Self { sealed: flags & FLAG_SEALED != 0, session: u64::from_le_bytes(session), proof })
    }
}

/// The answer to a hello that was taken.
pub(crate) fn welcome() -> [u8; ANSWER_BYTES] {
    let mut bytes = [0; ANSWER_BYTES];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes
}

/// Whether these bytes welcome.
pub(crate) fn is_welcome(bytes: [u8; ANSWER_BYTES]) -> bool {
    bytes == welcome()
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes for a slot.
    Put,
    /// A slot is complete.
    Done,
    /// A request gets no bytes.
    Failed,
    /// The core's queue pair: RDMA is on from now on.
    RdmaOn,
    /// There is no RDMA, or none any more; the body says why.
    RdmaOff,
    /// A request.
    Read,
    /// The job's queue pair.
    RdmaOffer,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// The slot.
    pub slot: u32,
    /// First byte in the slot, or the request.
    pub at: u32,
    /// Bytes of the body.
    pub length: u32,
}

impl Header {
    /// As bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = match self.kind {
            Kind::Put => 1,
            Kind::Done => 2,
            Kind::Failed => 3,
            Kind::RdmaOn => 4,
            Kind::RdmaOff => 5,
            Kind::Read => 16,
            Kind::RdmaOffer => 17,
        };
        bytes[4..8].copy_from_slice(&self.slot.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.at.to_le_bytes());
        bytes[12..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// The header in `bytes`, if its body can be of that length; `sealed` bodies are shorter.
    pub fn decode(bytes: &[u8; HEADER_BYTES], sealed: bool) -> Result<Self, LaneError> {
        let broken = |reason: String| Err(LaneError::Protocol(reason));
        let (kind, length_max) = match bytes[0] {
            1 if sealed => (Kind::Put, SEALED_BODY_BYTES_MAX),
            1 => (Kind::Put, SLOT_BYTES_MAX as usize),
            2 => (Kind::Done, 0),
            3 => (Kind::Failed, READ_FAILURE_BYTES_MAX),
            4 => (Kind::RdmaOn, ENDPOINT_BYTES),
            5 => (Kind::RdmaOff, REASON_BYTES_MAX),
            16 => (Kind::Read, READ_REQUEST_BYTES_MAX),
            17 => (Kind::RdmaOffer, ENDPOINT_BYTES),
            other => return broken(format!("a frame of kind {other}")),
        };
        if bytes[1..4] != [0; 3] {
            return broken("a frame's header has bits that nobody knows".to_owned());
        }
        let field = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let header = Self { kind, slot: field(4), at: field(8), length: field(12) };
        if header.length as usize > length_max {
            return broken(format!("a frame of kind {} with {} bytes", bytes[0], header.length));
        }
        Ok(header)
    }
}
