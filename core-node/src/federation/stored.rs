//! A file of a committed version, read in pieces from the chunk store.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use headwater_aggregate::{ReadError as SourceError, Source};
use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::path::{PathError, RelPath};
use headwater_protocol::record::FileKind;
use headwater_protocol::tree::{Tree, TreeError};

use crate::core::Core;
use crate::store::ReadError;

/// Why a file can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoredFileError {
    /// The version has none of this path.
    #[error("the version has no file `{0}`")]
    Missing(String),
    /// The path can't be.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A page of the version can't be read.
    #[error("a page of the version can't be read")]
    Tree(#[from] TreeError),
    /// A chunk of the file can't be read.
    #[error("a chunk of `{path}` can't be read")]
    Chunk {
        /// The file.
        path: String,
        /// Why.
        source: ReadError,
    },
    /// A stretch lies outside of its chunk, or of the file.
    #[error("`{path}` has no bytes {from} to {to}")]
    Range {
        /// The file.
        path: String,
        /// From.
        from: u64,
        /// To.
        to: u64,
    },
}

/// Where a part of the file lies.
#[derive(Clone, Copy, Debug)]
struct Part {
    file_offset: u64,
    chunk: ChunkId,
    offset: usize,
    length: usize,
}

/// A file of a version. Reading blocks.
pub(crate) struct StoredFile<'a> {
    core: &'a Core,
    path: String,
    parts: Vec<Part>,
    bytes: u64,
    /// The chunk that was read last: pieces follow each other.
    last: Mutex<Option<(ChunkId, Bytes)>>,
}

impl<'a> StoredFile<'a> {
    /// The file at `path` of a version.
    pub(crate) fn open(core: &'a Core, manifest: &Manifest, path: &str) -> Result<Self, StoredFileError> {
        let tree = Tree::new(manifest, &core.pages);
        let found = tree.find(&RelPath::new(path)?)?;
        let Some(record) = found.filter(|record| record.kind == FileKind::File) else {
            return Err(StoredFileError::Missing(path.to_owned()));
        };
        let mut parts = Vec::new();
        for stretch in tree.stretches(&record) {
            let stretch = stretch?;
            parts.push(Part {
                file_offset: stretch.file_offset,
                chunk: stretch.chunk.id,
                offset: stretch.offset as usize,
                length: stretch.length as usize,
            });
        }
        Ok(Self { core, path: path.to_owned(), parts, bytes: record.size, last: Mutex::default() })
    }

    /// Its length.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fills `into` with the bytes from `from` on.
    pub(crate) fn read_at(&self, from: u64, into: &mut [u8]) -> Result<(), StoredFileError> {
        let range = || StoredFileError::Range { path: self.path.clone(), from, to: from + into.len() as u64 };
        if from.checked_add(into.len() as u64).is_none_or(|end| end > self.bytes) {
            return Err(range());
        }
        let mut index = self.parts.partition_point(|part| part.file_offset + part.length as u64 <= from);
        let (mut at, mut rest) = (from, into);
        while !rest.is_empty() {
            let lacking = StoredFileError::Range { path: self.path.clone(), from: at, to: at + rest.len() as u64 };
            let Some(part) = self.parts.get(index).filter(|part| part.file_offset <= at) else { return Err(lacking) };
            let skip = (at - part.file_offset) as usize;
            let count = (part.length - skip).min(rest.len());
            let chunk = self.chunk(&part.chunk)?;
            let Some(bytes) = chunk.get(part.offset + skip..part.offset + skip + count) else { return Err(lacking) };
            let (here, later) = rest.split_at_mut(count);
            here.copy_from_slice(bytes);
            (at, rest, index) = (at + count as u64, later, index + 1);
        }
        Ok(())
    }

    fn chunk(&self, id: &ChunkId) -> Result<Bytes, StoredFileError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, bytes)) = &*last
            && known == id
        {
            return Ok(bytes.clone());
        }
        let read = self.core.store.read(id);
        let bytes = read.map_err(|source| StoredFileError::Chunk { path: self.path.clone(), source })?;
        *last = Some((*id, bytes.clone()));
        Ok(bytes)
    }
}

impl Source for StoredFile<'_> {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, from: u64, into: &mut [u8]) -> Result<(), SourceError> {
        StoredFile::read_at(self, from, into).map_err(|error| SourceError(error.into()))
    }
}
