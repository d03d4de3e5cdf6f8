//! A version's chunks, read back from the folder's files and verified: nothing is stored twice on a device.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::record::{ChunkRef, Content, FileRecord};
use headwater_protocol::tree::{ChunkPlace, PageSource, Tree, TreeError, Within};

use crate::beneath;

/// Why a chunk can't be had from the folder.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The file that held it is not what it was.
    #[error("`{path}` {reason}")]
    Unavailable {
        /// The file, as text for people.
        path: String,
        /// What happened to it, to be read after its name.
        reason: String,
    },
    /// The version has no chunk of this number.
    #[error("the version has no chunk number {0}")]
    NoSuchChunk(u64),
    /// The version's pages can't be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Reads chunks of one version from its folder.
pub struct LocalChunks {
    root: OwnedFd,
    manifest: Manifest,
    pages: Arc<dyn PageSource + Send + Sync>,
}

impl LocalChunks {
    /// The chunks of the version of `manifest` in `folder`.
    pub fn new(folder: &Path, manifest: Manifest, pages: Arc<dyn PageSource + Send + Sync>) -> io::Result<Self> {
        Ok(Self { root: beneath::root(folder)?, manifest, pages })
    }

    /// The version's tree.
    pub fn tree(&self) -> Tree<'_> {
        Tree::new(&self.manifest, &*self.pages)
    }

    /// The bytes of the chunk at `ordinal` in manifest order.
    pub fn chunk(&self, ordinal: u64) -> Result<Bytes, LocalError> {
        let place = self.tree().chunk_at(ordinal)?.ok_or(LocalError::NoSuchChunk(ordinal))?;
        self.at(&place)
    }

    /// The bytes of the chunk at `place`. Any file that has the chunk serves.
    pub fn at(&self, place: &ChunkPlace) -> Result<Bytes, LocalError> {
        let records = &place.leaf.records;
        match place.within {
            Within::Extent { record, file_offset } => self.range(&records[record], file_offset, place.chunk),
            Within::Table(index) => {
                let mut failed = None;
                for record in records {
                    let Content::Whole(extents) = &record.content else { continue };
                    let mut offset = 0;
                    for extent in extents {
                        if extent.chunk as usize == index {
                            match self.range(record, offset, place.chunk) {
                                Ok(bytes) => return Ok(bytes),
                                Err(error) => failed = Some(error),
                            }
                            break;
                        }
                        offset += u64::from(extent.length);
                    }
                }
                self.shared(records, index, place.chunk, failed)
            }
        }
    }

    /// The file that holds other bytes in the chunk at `place`, which could not be read, though `untouched` says of it that
    /// nobody changed it. None if changes and deletions explain it all: a chunk that small files share may well be whole in
    /// the folder no more, with every file of the version as it should be.
    pub fn damaged(&self, place: &ChunkPlace, untouched: impl Fn(&FileRecord) -> bool) -> Option<String> {
        let index = match place.within {
            Within::Extent { record, .. } => {
                let record = &place.leaf.records[record];
                return untouched(record).then(|| shown(record));
            }
            Within::Table(index) => index,
        };
        let is_damaged = |record: &&FileRecord| match &record.content {
            Content::Shared { extent, hash } if extent.chunk as usize == index => {
                let mut bytes = vec![0; extent.length as usize];
                untouched(record) && !(self.small(record, &mut bytes).is_ok() && ChunkId::of(&bytes) == *hash)
            }
            Content::Whole(extents) => extents.iter().any(|extent| extent.chunk as usize == index) && untouched(record),
            _ => false,
        };
        place.leaf.records.iter().find(is_damaged).map(shown)
    }

    /// A chunk that is a range of one file.
    fn range(&self, record: &FileRecord, offset: u64, chunk: ChunkRef) -> Result<Bytes, LocalError> {
        let mut bytes = vec![0; chunk.length as usize];
        let read = beneath::open_file(self.root.as_fd(), &record.path)
            .map_err(io::Error::from)
            .and_then(|file| file.read_exact_at(&mut bytes, offset));
        read.map_err(|error| unavailable(record, &error))?;
        verified(bytes, chunk).ok_or_else(|| changed(record))
    }

    /// A chunk that small files share: put together from those of them that cover it.
    fn shared(
        &self,
        records: &[FileRecord],
        index: usize,
        chunk: ChunkRef,
        mut failed: Option<LocalError>,
    ) -> Result<Bytes, LocalError> {
        let mut bytes = vec![0; chunk.length as usize];
        let mut members: Vec<_> = records
            .iter()
            .filter_map(|record| match &record.content {
                Content::Shared { extent, hash } if extent.chunk as usize == index => Some((extent, hash, record)),
                _ => None,
            })
            .collect();
        members.sort_by_key(|(extent, ..)| extent.offset);
        let mut covered = 0;
        for (extent, hash, record) in members {
            let (start, end) = (extent.offset as usize, extent.offset as usize + extent.length as usize);
            if start > covered || end <= covered {
                continue;
            }
            let into = &mut bytes[start..end];
            match self.small(record, into) {
                Ok(()) if ChunkId::of(into) == *hash => covered = end,
                Ok(()) => failed = Some(changed(record)),
                Err(error) => failed = Some(unavailable(record, &error)),
            }
        }
        if covered < bytes.len() {
            let gap = LocalError::Unavailable {
                path: records.first().map(shown).unwrap_or_default(),
                reason: "is on a page with a shared chunk that is no longer whole in this folder".into(),
            };
            return Err(failed.unwrap_or(gap));
        }
        verified(bytes, chunk).ok_or_else(|| changed(&records[0]))
    }

    fn small(&self, record: &FileRecord, into: &mut [u8]) -> io::Result<()> {
        beneath::open_file(self.root.as_fd(), &record.path)?.read_exact_at(into, 0)
    }
}

fn verified(bytes: Vec<u8>, chunk: ChunkRef) -> Option<Bytes> {
    (ChunkId::of(&bytes) == chunk.id).then(|| Bytes::from(bytes))
}

fn unavailable(record: &FileRecord, error: &io::Error) -> LocalError {
    let reason = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "has vanished".to_owned(),
        io::ErrorKind::UnexpectedEof => "has shrunk".to_owned(),
        _ => format!("can't be read: {error}"),
    };
    LocalError::Unavailable { path: shown(record), reason }
}

fn changed(record: &FileRecord) -> LocalError {
    LocalError::Unavailable { path: shown(record), reason: "has changed".into() }
}

fn shown(record: &FileRecord) -> String {
    String::from_utf8_lossy(&record.path).into_owned()
}
