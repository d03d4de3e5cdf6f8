//! The first bytes of chunks whose transfer was cut, so that a slow link does not send them twice.
//!
//! They are unverified and allowed to be lost: plain files, one per chunk, in a folder per device, bounded per device; the
//! oldest go first. The chunk's hash is checked when it is complete, so a damaged prefix costs one transfer, never wrong bytes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use headwater_protocol::chunking::CHUNK_BYTES_MAX;
use headwater_protocol::id::{ChunkId, PublicKey};

/// Prefixes shorter than this are not worth a file.
const PREFIX_BYTES_MIN: usize = 4 << 10;

/// The prefixes of one device.
#[derive(Clone, Debug)]
pub struct Prefixes {
    folder: PathBuf,
    bytes_max: u64,
}

impl Prefixes {
    /// The prefixes of `device` below `folder`, at most `bytes_max` of them.
    pub fn new(folder: &Path, device: &PublicKey, bytes_max: u64) -> Self {
        Self { folder: folder.join(device.to_string()), bytes_max }
    }

    /// Bytes that are kept of `id`.
    pub fn length(&self, id: &ChunkId) -> Option<u32> {
        let length = fs::metadata(self.path(id)).ok()?.len();
        u32::try_from(length).ok().filter(|&length| length > 0 && length < CHUNK_BYTES_MAX)
    }

    /// The bytes that are kept of `id`.
    pub fn read(&self, id: &ChunkId) -> io::Result<Option<Bytes>> {
        match fs::read(self.path(id)) {
            Ok(bytes) if bytes.len() < CHUNK_BYTES_MAX as usize => Ok(Some(bytes.into())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps `bytes` of `id`, in place of what was kept of it.
    pub fn keep(&self, id: &ChunkId, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() < PREFIX_BYTES_MIN || bytes.len() as u64 > self.bytes_max {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        self.make_room(bytes.len() as u64)?;
        fs::write(self.path(id), bytes)
    }

    /// Forgets what is kept of `id`: it is complete.
    pub fn forget(&self, id: &ChunkId) {
        // What can't be removed is removed later to make room.
        let _ = fs::remove_file(self.path(id));
    }

    /// Whether anything is kept at all.
    pub fn any(&self) -> bool {
        fs::read_dir(&self.folder).is_ok_and(|mut entries| entries.next().is_some())
    }

    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
        let mut kept: u64 = files.iter().map(|(_, length, _)| length).sum();
        files.sort();
        for (_, length, path) in files {
            if kept + bytes <= self.bytes_max {
                break;
            }
            fs::remove_file(path)?;
            kept -= length;
        }
        Ok(())
    }

    fn path(&self, id: &ChunkId) -> PathBuf {
        self.folder.join(id.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_within_bounds_and_forgets() {
        let folder = tempfile::tempdir().expect("a folder");
        let prefixes = Prefixes::new(folder.path(), &PublicKey([7; 32]), 20_000);
        let ids: Vec<_> = (0u8..4).map(|n| ChunkId::of(&[n])).collect();
        assert!(!prefixes.any());
        for id in &ids {
            prefixes.keep(id, &[1; 8_000]).expect("kept");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let kept: Vec<_> = ids.iter().map(|id| prefixes.length(id)).collect();
        assert_eq!(kept, [None, None, Some(8_000), Some(8_000)]);
        assert_eq!(prefixes.read(&ids[3]).expect("read").expect("kept").len(), 8_000);
        prefixes.forget(&ids[3]);
        assert_eq!(prefixes.length(&ids[3]), None);
        prefixes.keep(&ids[0], &[1; 100]).expect("ignored");
        assert_eq!(prefixes.length(&ids[0]), None, "a hundred bytes are not worth a file");
    }
}
