//! How every structure becomes bytes and comes back: rkyv, length-capped before it is touched, validated with a depth
//! limit, and, where it is stored, opened by a magic and a version.
//!
//! The caps matter: a nested archive of a megabyte can exhaust the stack inside a checked access, so all structures are
//! flat, and both the length and the depth are bounded before the validator walks them.

use std::num::NonZeroUsize;

use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::de::Pool;
use rkyv::rancor::{self, Strategy};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Deserialize, Serialize};

/// Deepest nesting of out-of-line data that a decoder follows.
pub const DEPTH_MAX: usize = 16;

const DEPTH_LIMIT: NonZeroUsize = match NonZeroUsize::new(DEPTH_MAX) {
    Some(limit) => limit,
    None => unreachable!(),
};

/// A structure that travels or rests: it names itself for error messages and caps its encoded length.
pub trait Encoded: Sized {
    /// What it is, for error messages: `page`, `manifest`.
    const WHAT: &'static str;
    /// Longest encoding that a decoder looks at, in bytes.
    const BYTES_MAX: usize;
}

/// A structure that rests: its encoding is opened by a magic and a version.
pub trait Stored: Encoded {
    /// Four bytes that open the encoding.
    const MAGIC: [u8; 4];
    /// The version of the layout; decoders refuse what is newer.
    const VERSION: u16;
}

/// Bytes before the archive of a [`Stored`] structure: magic, version, two zero bytes.
pub const STORED_HEADER_BYTES: usize = 8;

/// Why bytes are not the structure that they should be.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the structure may be.
    #[error("a {what} of {length} bytes is over its limit of {limit}")]
    TooLong {
        /// The structure.
        what: &'static str,
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The magic is another's.
    #[error("these bytes are no {what}: they do not open with its magic")]
    Magic {
        /// The structure.
        what: &'static str,
    },
    /// Written by a newer release.
    #[error("this {what} has layout version {found}, and this release reads up to {known}; a newer release wrote it")]
    Newer {
        /// The structure.
        what: &'static str,
        /// The version in the bytes.
        found: u16,
        /// The newest version known here.
        known: u16,
    },
    /// The archive inside is not valid.
    #[error("these bytes are no valid {what}: {source}")]
    Invalid {
        /// The structure.
        what: &'static str,
        /// What the validator found.
        source: rancor::Error,
    },
    /// The archive is well formed, but what it says can't be.
    #[error("this {what} contradicts itself: {reason}")]
    Inconsistent {
        /// The structure.
        what: &'static str,
        /// What does not fit.
        reason: String,
    },
}

/// Types that [`encode`] takes.
pub trait Encode: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>> {}
impl<T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>> Encode for T {}

/// Types that [`decode`] gives.
pub trait Decode:
    Archive<
        Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>>
                      + Deserialize<Self, Strategy<Pool, rancor::Error>>,
    > + Sized
{
}
impl<T> Decode for T where
    T: Archive<
            Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>>
                          + Deserialize<T, Strategy<Pool, rancor::Error>>,
        > + Sized
{
}

/// The bytes of `value`.
pub fn encode<T: Encoded + Encode>(value: &T) -> Vec<u8> {
    archive(value).into_vec()
}

/// The `T` in `bytes`, after checking their length, their validity and their depth.
pub fn decode<T: Encoded + Decode>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > T::BYTES_MAX {
        return Err(DecodeError::TooLong { what: T::WHAT, length: bytes.len(), limit: T::BYTES_MAX });
    }
    let invalid = |source| DecodeError::Invalid { what: T::WHAT, source };
    let mut aligned = AlignedVec::<16>::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    let mut validator =
        Validator::new(ArchiveValidator::with_max_depth(&aligned, Some(DEPTH_LIMIT)), SharedValidator::new());
    let archived =
        rkyv::api::access_with_context::<T::Archived, _, rancor::Error>(&aligned, &mut validator).map_err(invalid)?;
    rkyv::api::deserialize_using(archived, &mut Pool::new()).map_err(invalid)
}

/// The bytes of `value` with its magic and version before them.
pub fn encode_stored<T: Stored + Encode>(value: &T) -> Vec<u8> {
    let body = archive(value);
    let mut bytes = Vec::with_capacity(STORED_HEADER_BYTES + body.len());
    bytes.extend_from_slice(&T::MAGIC);
    bytes.extend_from_slice(&T::VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&body);
    bytes
}

/// The `T` in `bytes` that [`encode_stored`] wrote.
pub fn decode_stored<T: Stored + Decode>(bytes: &[u8]) -> Result<T, DecodeError> {
    let what = T::WHAT;
    let Some((header, body)) = bytes.split_at_checked(STORED_HEADER_BYTES) else {
        return Err(DecodeError::Magic { what });
    };
    let found = u16::from_le_bytes([header[4], header[5]]);
    if header[..4] != T::MAGIC || found == 0 || header[6..] != [0, 0] {
        return Err(DecodeError::Magic { what });
    }
    if found > T::VERSION {
        return Err(DecodeError::Newer { what, found, known: T::VERSION });
    }
    decode(body)
}

fn archive<T: Encoded + Encode>(value: &T) -> AlignedVec {
    let bytes = rkyv::to_bytes::<rancor::Error>(value).expect("serialising into memory can't fail");
    assert!(
        bytes.len() <= T::BYTES_MAX,
        "a {} of {} bytes was built, over its limit of {}",
        T::WHAT,
        bytes.len(),
        T::BYTES_MAX
    );
    bytes
}
