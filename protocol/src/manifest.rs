//! The manifest: the root of a version's tree, and what the version id is the hash of.
//!
//! It holds no signature and no wall clock (file mtimes apart), so that the same tree on two devices with the same parent
//! is the same version. The signed word that a version has a name and a number is its [commit record](crate::commit).

use rkyv::{Archive, Deserialize, Serialize};

use crate::chunking::{ChunkerParams, GroupingParams};
use crate::codec::{self, DecodeError, Encoded, Stored};
use crate::id::VersionId;
use crate::page::{ChildRef, HEIGHT_MAX};
use crate::path::RelPath;

/// Longest encoding of a manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 64 * 1024;
/// Most metadata entries of a manifest.
pub const METADATA_ENTRIES_MAX: usize = 64;

/// The root of a version.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// How its files were cut.
    pub chunker: ChunkerParams,
    /// How its small files share chunks and where its pages end.
    pub grouping: GroupingParams,
    /// The version that this one changes.
    pub parent: Option<VersionId>,
    /// The name of the device or core that built it.
    pub origin: String,
    /// What the publisher says of it, sorted by key, each key once.
    pub metadata: Vec<(String, String)>,
    /// Level of the root page; 0 is a single leaf.
    pub height: u8,
    /// The root page; none in a version without files.
    pub root: Option<ChildRef>,
}

impl Encoded for Manifest {
    const WHAT: &'static str = "manifest";
    const BYTES_MAX: usize = MANIFEST_BYTES_MAX;
}

impl Stored for Manifest {
    const MAGIC: [u8; 4] = *b"HWmf";
    const VERSION: u16 = 1;
}

impl Manifest {
    /// The manifest's body; its BLAKE3 is the version id.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode_stored(self)
    }

    /// The manifest in `body`.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let manifest: Self = codec::decode_stored(body)?;
        let inconsistent =
            |reason: &str| Err(DecodeError::Inconsistent { what: Self::WHAT, reason: reason.to_owned() });
        if manifest.height >= HEIGHT_MAX || (manifest.root.is_none() && manifest.height != 0) {
            return inconsistent("its tree has an impossible height");
        }
        if manifest.metadata.len() > METADATA_ENTRIES_MAX {
            return inconsistent("it has too many metadata entries");
        }
        if manifest.metadata.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return inconsistent("its metadata is not sorted by key, or names a key twice");
        }
        if let Some(Err(error)) = manifest.root.as_ref().map(|root| RelPath::new(root.first.clone())) {
            return inconsistent(&error.to_string());
        }
        if let Err(error) = manifest.chunker.check() {
            return inconsistent(&error.to_string());
        }
        if let Err(error) = manifest.grouping.check() {
            return inconsistent(&error.to_string());
        }
        Ok(manifest)
    }

    /// The version id of a manifest body.
    pub fn id_of(body: &[u8]) -> VersionId {
        VersionId::of(body)
    }

    /// Files, samples, bytes and chunks of the version.
    pub fn totals(&self) -> Totals {
        self.root.as_ref().map_or_else(Totals::default, |root| Totals::default().and(root))
    }
}

/// What a version amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Totals {
    /// File records.
    pub files: u64,
    /// Samples.
    pub samples: u64,
    /// Sum of file sizes.
    pub bytes: u64,
    /// Data chunks in manifest order.
    pub chunks: u64,
}

impl Totals {
    /// These and what lies below `child`. What only a hostile tree counts up to stops at the largest number.
    pub fn and(self, child: &ChildRef) -> Self {
        Self {
            files: self.files.saturating_add(child.files),
            samples: self.samples.saturating_add(child.samples),
            bytes: self.bytes.saturating_add(child.bytes),
            chunks: self.chunks.saturating_add(child.chunks),
        }
    }
}
