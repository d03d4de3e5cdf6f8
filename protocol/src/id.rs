//! Content ids: BLAKE3-256 of plain bytes, as a chunk's name and as a version's name.
//!
//! A [`ChunkId`] names bytes, a [`VersionId`] names a manifest body. Both print as 64 hexadecimal digits; people see the
//! first twelve.

use std::fmt;
use std::str::FromStr;

use rkyv::{Archive, Deserialize, Serialize};

/// Bytes in an id.
pub const ID_BYTES: usize = 32;

/// A string that was meant to be an id but is not 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an id: 64 hexadecimal digits were expected")]
pub struct ParseIdError(String);

macro_rules! content_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[rkyv(derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash))]
        pub struct $name(pub [u8; ID_BYTES]);

        impl $name {
            /// The id of `bytes`.
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// The id as bytes.
            pub const fn as_bytes(&self) -> &[u8; ID_BYTES] {
                &self.0
            }

            /// The id in `bytes`, if there are exactly 32 of them.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The first twelve hexadecimal digits: enough for people.
            pub fn short(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0[..6])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                data_encoding::HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| Self::from_slice(&bytes))
                    .ok_or_else(|| ParseIdError(text.chars().take(80).collect()))
            }
        }
    };
}

content_id!(
    /// The name of a chunk: BLAKE3-256 of its plain bytes.
    ChunkId
);
content_id!(
    /// The name of a version: BLAKE3-256 of its manifest's body.
    VersionId
);
content_id!(
    /// The name of a collection: BLAKE3-256 of its member list.
    CollectionId
);

/// The identity of a device, core or person: an Ed25519 public key.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[rkyv(derive(Clone, Copy, PartialEq, Eq, Hash))]
pub struct PublicKey(pub [u8; ID_BYTES]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", data_encoding::HEXLOWER.encode(&self.0[..6]))
    }
}
