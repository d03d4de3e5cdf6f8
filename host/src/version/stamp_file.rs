//! The stamps of an imported folder's files in a file of their own, so that a second import reads only what changed. It may be
//! lost or damaged: then the files are read again.
//!
//! ```text
//! magic "HWst" version u16 zero u16 | folder[32] | { leaf[32] length u32 stamps[length] }* | blake3 of all before[32]
//! ```

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use headwater_protocol::id::{ChunkId, ID_BYTES};

use super::{StatCache, StatCacheError};
use crate::durable::{self, PRIVATE_FILE_MODE, PRIVATE_FOLDER_MODE};
use crate::scan::Stamp;

const HEADER: [u8; 8] = *b"HWst\x01\0\0\0";

/// The stamps of one dataset's files, as they were at the last import and as this one finds them.
pub struct StampFile {
    path: PathBuf,
    folder: [u8; ID_BYTES],
    known: HashMap<ChunkId, Vec<u8>>,
    found: HashMap<ChunkId, Vec<u8>>,
}

impl StampFile {
    /// What the last import of `folder` left at `path`.
    pub fn load(path: PathBuf, folder: &Path) -> Self {
        let folder = *blake3::hash(folder.as_os_str().as_bytes()).as_bytes();
        let known = std::fs::read(&path).ok().and_then(|bytes| decode(&bytes, &folder)).unwrap_or_default();
        Self { path, folder, known, found: HashMap::new() }
    }

    /// Keeps what is known of the pages in `leaves`. If that fails, the next import reads more.
    pub fn save(&self, leaves: &HashSet<ChunkId>) {
        let mut bytes = Vec::new();
        for leaf in leaves {
            let Some(stamps) = self.found.get(leaf).or_else(|| self.known.get(leaf)) else { continue };
            bytes.extend_from_slice(leaf.as_bytes());
            bytes.extend_from_slice(&(stamps.len() as u32).to_le_bytes());
            bytes.extend_from_slice(stamps);
        }
        let saved = durable::create_folder(durable::parent_of(&self.path), PRIVATE_FOLDER_MODE)
            .and_then(|()| durable::write_atomic(&self.path, &seal(&self.folder, &bytes), PRIVATE_FILE_MODE));
        if let Err(error) = saved {
            tracing::warn!(%error, path = %self.path.display(), "the stamps of an import could not be kept");
        }
    }
}

/// A stamp file of this folder (BLAKE3 of its path) around the bytes of its leaves.
pub fn seal(folder: &[u8; ID_BYTES], leaves: &[u8]) -> Vec<u8> {
    let mut bytes = [&HEADER[..], folder, leaves].concat();
    let sum = blake3::hash(&bytes);
    bytes.extend_from_slice(sum.as_bytes());
    bytes
}

/// The stamps of each leaf page as they stand in a stamp file; none if it is damaged or another folder's.
pub fn decode(bytes: &[u8], folder: &[u8; ID_BYTES]) -> Option<HashMap<ChunkId, Vec<u8>>> {
    let (body, sum) = bytes.split_last_chunk::<ID_BYTES>()?;
    if blake3::hash(body).as_bytes() != sum {
        return None;
    }
    let mut rest = body.strip_prefix(&HEADER)?.strip_prefix(folder)?;
    let mut stamps = HashMap::new();
    while !rest.is_empty() {
        let (leaf, after) = rest.split_first_chunk::<ID_BYTES>()?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let (of_leaf, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        stamps.insert(ChunkId(*leaf), of_leaf.to_vec());
        rest = after;
    }
    Some(stamps)
}

impl StatCache for StampFile {
    fn stamps(&mut self, leaf: &ChunkId) -> Result<Option<Vec<Stamp>>, StatCacheError> {
        let kept = self.found.get(leaf).or_else(|| self.known.get(leaf));
        Ok(kept.and_then(|bytes| Stamp::decode_all(bytes)))
    }

    fn put(&mut self, leaf: &ChunkId, stamps: &[Stamp]) -> Result<(), StatCacheError> {
        self.found.insert(*leaf, Stamp::encode_all(stamps));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A stamp file of these leaves.
    fn encoded(folder: &[u8; ID_BYTES], leaves: &[(ChunkId, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (leaf, stamps) in leaves {
            bytes.extend_from_slice(leaf.as_bytes());
            bytes.extend_from_slice(&(stamps.len() as u32).to_le_bytes());
            bytes.extend_from_slice(stamps);
        }
        seal(folder, &bytes)
    }

    /// Gives bytes that have the right sum, so that what lies behind it is reached.
    fn with_sum(mut body: Vec<u8>) -> Vec<u8> {
        let sum = blake3::hash(&body);
        body.extend_from_slice(sum.as_bytes());
        body
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            tail in proptest::collection::vec(any::<u8>(), 0..200),
            has_header in any::<bool>(),
            has_sum in any::<bool>(),
        ) {
            let folder = [7; ID_BYTES];
            let bytes = if has_header { [&HEADER[..], &folder, &tail].concat() } else { tail };
            let bytes = if has_sum { with_sum(bytes) } else { bytes };
            if let Some(stamps) = decode(&bytes, &folder) {
                prop_assert!(has_sum && has_header);
                for kept in stamps.values() {
                    let _ = Stamp::decode_all(kept);
                }
            }
        }

        #[test]
        fn a_file_comes_back_whole_or_not_at_all(
            leaves in proptest::collection::btree_map(any::<[u8; ID_BYTES]>(), proptest::collection::vec(any::<u8>(), 0..40), 0..6),
            byte in any::<proptest::sample::Index>(),
            bit in 0u8..8,
        ) {
            let folder = [7; ID_BYTES];
            let leaves: Vec<_> = leaves.into_iter().map(|(leaf, stamps)| (ChunkId(leaf), stamps)).collect();
            let mut bytes = encoded(&folder, &leaves);
            let found = decode(&bytes, &folder);
            prop_assert_eq!(found, Some(leaves.into_iter().collect()));
            let at = byte.index(bytes.len());
            prop_assert_eq!(decode(&bytes[..at], &folder), None, "cut off at {}", at);
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(decode(&bytes, &folder), None, "byte {} changed", at);
        }
    }

    #[test]
    fn come_back_for_the_same_folder_only() {
        let data = tempfile::tempdir().expect("a folder");
        let leaf = ChunkId::of(b"leaf");
        let mut first = StampFile::load(data.path().join("a"), Path::new("/x"));
        first.put(&leaf, &[Stamp::NONE, Stamp::NONE]).expect("memory");
        first.save(&HashSet::from([leaf]));
        let mut again = StampFile::load(data.path().join("a"), Path::new("/x"));
        again.save(&HashSet::from([leaf]));
        assert_eq!(again.stamps(&leaf).expect("memory").map(|stamps| stamps.len()), Some(2));
        let mut other = StampFile::load(data.path().join("a"), Path::new("/y"));
        assert!(other.stamps(&leaf).expect("memory").is_none());
        let mut bytes = std::fs::read(&first.path).expect("saved");
        bytes[20] ^= 1;
        std::fs::write(&first.path, bytes).expect("written");
        assert!(StampFile::load(data.path().join("a"), Path::new("/x")).known.is_empty(), "damage is noticed");
    }
}
