//! A file's stamp: what its metadata said when it was read. As long as it says the same, the file is not read again.

use std::path::Path;

use rustix::fs::{FileType, Stat};

/// Bytes of an encoded stamp.
pub const STAMP_BYTES: usize = 40;
const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// What `stat` says of a file. Its change time guards against tools that put a modification time back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// Modification time, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Time of the last change of contents or metadata, likewise.
    pub ctime_ns: i64,
    /// Inode; 0 in no real file's stamp.
    pub inode: u64,
    /// Permission bits.
    pub mode: u32,
}

impl Stamp {
    /// The stamp that no file has: it will be read again.
    pub const NONE: Self = Self { size: 0, mtime_ns: 0, ctime_ns: 0, inode: 0, mode: 0 };

    /// The stamp in a `stat`.
    pub fn of(stat: &Stat) -> Self {
        Self {
            size: stat.st_size as u64,
            mtime_ns: nanos(stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime_ns: nanos(stat.st_ctime, stat.st_ctime_nsec as i64),
            inode: stat.st_ino,
            mode: stat.st_mode & 0o7777,
        }
    }

    /// The stamp of a regular file; none of anything else, and of what can't be looked at.
    pub fn of_file(path: &Path) -> Option<Self> {
        let stat = rustix::fs::lstat(path).ok()?;
        (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then(|| Self::of(&stat))
    }

    /// Whether it is [`Self::NONE`].
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// The stamps of a leaf page's records as a catalog keeps them, [`STAMP_BYTES`] each.
    pub fn encode_all(stamps: &[Self]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(stamps.len() * STAMP_BYTES);
        for stamp in stamps {
            bytes.extend_from_slice(&stamp.size.to_le_bytes());
            bytes.extend_from_slice(&stamp.mtime_ns.to_le_bytes());
            bytes.extend_from_slice(&stamp.ctime_ns.to_le_bytes());
            bytes.extend_from_slice(&stamp.inode.to_le_bytes());
            bytes.extend_from_slice(&stamp.mode.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
        }
        bytes
    }

    /// What [`encode_all`](Self::encode_all) encoded; none if the length can't be.
    pub fn decode_all(bytes: &[u8]) -> Option<Vec<Self>> {
        if !bytes.len().is_multiple_of(STAMP_BYTES) {
            return None;
        }
        bytes.chunks_exact(STAMP_BYTES).map(Self::decode).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            size: number(0)?,
            mtime_ns: number(8)? as i64,
            ctime_ns: number(16)? as i64,
            inode: number(24)?,
            mode: number(32)? as u32,
        })
    }
}

fn nanos(seconds: i64, nanos: i64) -> i64 {
    seconds.saturating_mul(NANOS_PER_SECOND).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rest_and_come_back() {
        let stamps = [Stamp { size: u64::MAX, mtime_ns: -5, ctime_ns: i64::MAX, inode: 7, mode: 0o644 }, Stamp::NONE];
        let bytes = Stamp::encode_all(&stamps);
        assert_eq!(Stamp::decode_all(&bytes).unwrap(), stamps);
        assert_eq!(Stamp::decode_all(&bytes[1..]), None);
    }
}
