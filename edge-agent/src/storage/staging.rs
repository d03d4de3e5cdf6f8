//! Chunks of a subscription that have come but are in no finished version yet: one append-only file per dataset.
//!
//! A batch is written and synced before the catalog names its places, so what the catalog says is staged is on disk. What
//! lies behind the last named place was cut by a crash and is overwritten. When the version is complete its files hold
//! the bytes, and the staging file goes. Beside it lie the first bytes of chunks that a cut link interrupted; these are
//! unverified, bounded, and may be lost.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use headwater_host::{disk, durable};
use headwater_protocol::id::ChunkId;

use crate::catalog::{Catalog, CatalogError, DatasetId, StagedChunk};

/// The folder of staging files in the data folder.
pub const STAGING_FOLDER: &str = "staging";
/// Most interrupted chunks whose first bytes are kept for one dataset.
const PREFIXES_MAX: usize = 64;

/// Staging failed.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The staging file or folder.
    #[error("can't {action} `{path}`")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl StagingError {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Catalog(error) => matches!(error, CatalogError::Full),
        }
    }
}

/// The staging file of one dataset.
pub struct Staging {
    catalog: Arc<Catalog>,
    dataset: DatasetId,
    path: PathBuf,
    prefixes: PathBuf,
    write: Mutex<Writer>,
}

struct Writer {
    file: Option<File>,
    end: u64,
}

impl Staging {
    /// The staging file of `dataset` below the data folder; nothing is created before something is staged.
    pub fn new(data: &Path, catalog: Arc<Catalog>, dataset: DatasetId) -> Result<Self, StagingError> {
        let folder = data.join(STAGING_FOLDER);
        let path = folder.join(format!("{}.chunks", dataset.number()));
        let end = catalog.staged_end(dataset)?;
        let on_disk = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if on_disk < end {
            // The file was lost or cut; nothing that it was said to hold can be relied upon.
            catalog.forget_staged(dataset)?;
        }
        let end = if on_disk < end { 0 } else { end };
        let prefixes = folder.join(format!("{}.prefixes", dataset.number()));
        Ok(Self { catalog, dataset, path, prefixes, write: Mutex::new(Writer { file: None, end }) })
    }

    /// Writes chunks, syncs, and notes where they are. Durable when it returns.
    pub fn store(&self, chunks: &[(ChunkId, Bytes)]) -> Result<(), StagingError> {
        let mut writer = self.write.lock().unwrap_or_else(PoisonError::into_inner);
        let first = writer.file.is_none();
        if first {
            let folder = durable::parent_of(&self.path);
            durable::create_folder(folder, durable::PRIVATE_FOLDER_MODE).map_err(|source| self.io("create", source))?;
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(durable::PRIVATE_FILE_MODE)
                .open(&self.path)
                .map_err(|source| self.io("open", source))?;
            file.set_len(writer.end).map_err(|source| self.io("cut", source))?;
            writer.file = Some(file);
        }
        let mut end = writer.end;
        let file = writer.file.as_ref().expect("opened above");
        let mut staged = Vec::with_capacity(chunks.len());
        for (chunk, bytes) in chunks {
            disk::before_write(&self.path, bytes.len())
                .and_then(|()| file.write_all_at(bytes, end))
                .map_err(|source| self.io("write", source))?;
            staged.push(StagedChunk { chunk: *chunk, file_offset: end, length: bytes.len() as u32 });
            end += bytes.len() as u64;
        }
        durable::sync_file(file, &self.path).map_err(|source| self.io("sync", source))?;
        if first {
            durable::sync_folder(durable::parent_of(&self.path)).map_err(|source| self.io("sync", source))?;
        }
        self.catalog.put_staged(self.dataset, &staged)?;
        writer.end = end;
        drop(writer);
        for (chunk, _) in chunks {
            self.forget_prefix(chunk);
        }
        Ok(())
    }

    /// Whether a chunk is staged.
    pub fn holds(&self, id: &ChunkId) -> Result<bool, StagingError> {
        Ok(self.catalog.staged(self.dataset, id)?.is_some())
    }

    /// The bytes of a staged chunk, verified.
    pub fn read(&self, id: &ChunkId) -> Result<Option<Bytes>, StagingError> {
        let Some(staged) = self.catalog.staged(self.dataset, id)? else { return Ok(None) };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.io("open", source)),
        };
        let mut bytes = vec![0; staged.length as usize];
        match file.read_exact_at(&mut bytes, staged.file_offset) {
            Ok(()) if ChunkId::of(&bytes) == *id => Ok(Some(bytes.into())),
            Ok(()) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(source) => Err(self.io("read", source)),
        }
    }

    /// Forgets a staged chunk whose bytes proved wrong.
    pub fn forget(&self, id: &ChunkId) -> Result<(), StagingError> {
        Ok(self.catalog.forget_staged_chunk(self.dataset, id)?)
    }

    /// Drops everything that is staged: the files hold it now, or nobody wants it.
    pub fn clear(&self) -> Result<(), StagingError> {
        let mut writer = self.write.lock().unwrap_or_else(PoisonError::into_inner);
        self.catalog.forget_staged(self.dataset)?;
        *writer = Writer { file: None, end: 0 };
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(self.io("remove", source)),
            _ => {}
        }
        let _ = fs::remove_dir_all(&self.prefixes);
        Ok(())
    }

    /// The first bytes of an interrupted chunk.
    pub fn prefix(&self, id: &ChunkId) -> Option<Bytes> {
        fs::read(self.prefix_path(id)).ok().filter(|bytes| !bytes.is_empty()).map(Bytes::from)
    }

    /// Bytes that are kept of an interrupted chunk.
    pub fn prefix_bytes(&self, id: &ChunkId) -> u32 {
        fs::metadata(self.prefix_path(id)).map_or(0, |metadata| metadata.len() as u32)
    }

    /// Keeps the first bytes of an interrupted chunk, unless there are many already.
    pub fn keep_prefix(&self, id: &ChunkId, bytes: &[u8]) -> Result<(), StagingError> {
        fs::create_dir_all(&self.prefixes).map_err(|source| self.io("create", source))?;
        let path = self.prefix_path(id);
        let kept = fs::read_dir(&self.prefixes).map_or(0, Iterator::count);
        if kept >= PREFIXES_MAX && !path.exists() {
            return Ok(());
        }
        let temporary = path.with_extension("tmp");
        disk::before_write(&temporary, bytes.len())
            .and_then(|()| fs::write(&temporary, bytes))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|source| self.io("write", source))
    }

    fn forget_prefix(&self, id: &ChunkId) {
        let _ = fs::remove_file(self.prefix_path(id));
    }

    fn prefix_path(&self, id: &ChunkId) -> PathBuf {
        self.prefixes.join(id.to_string())
    }

    fn io(&self, action: &'static str, source: io::Error) -> StagingError {
        StagingError::Io { action, path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Role;

    fn staging(data: &Path, catalog: &Arc<Catalog>) -> Staging {
        let dataset = catalog.dataset("cam", Role::Subscribe, Path::new("/to")).expect("a dataset").id;
        Staging::new(data, Arc::clone(catalog), dataset).expect("staging")
    }

    #[test]
    fn what_was_stored_survives_a_restart_and_a_torn_tail() {
        let data = tempfile::tempdir().expect("a folder");
        let catalog = Arc::new(Catalog::in_memory());
        let bytes = Bytes::from_static(b"some bytes of a chunk");
        let id = ChunkId::of(&bytes);
        let first = staging(data.path(), &catalog);
        first.keep_prefix(&id, &bytes[..4]).expect("kept");
        assert_eq!(first.prefix(&id).as_deref(), Some(&bytes[..4]));
        first.store(&[(id, bytes.clone())]).expect("stored");
        assert_eq!(first.prefix(&id), None, "a whole chunk needs no prefix");
        let path = first.path.clone();
        drop(first);
        let torn = [fs::read(&path).expect("read"), b"torn".to_vec()].concat();
        fs::write(&path, torn).expect("written");

        let second = staging(data.path(), &catalog);
        assert_eq!(second.read(&id).expect("read"), Some(bytes));
        let more = Bytes::from_static(b"more");
        second.store(&[(ChunkId::of(&more), more.clone())]).expect("stored");
        assert_eq!(second.read(&ChunkId::of(&more)).expect("read"), Some(more));
        second.clear().expect("cleared");
        assert!(!second.holds(&id).expect("asked"));
        assert!(!path.exists());
    }

    #[test]
    fn a_lost_file_is_noticed() {
        let data = tempfile::tempdir().expect("a folder");
        let catalog = Arc::new(Catalog::in_memory());
        let bytes = Bytes::from_static(b"bytes");
        let id = ChunkId::of(&bytes);
        let first = staging(data.path(), &catalog);
        first.store(&[(id, bytes)]).expect("stored");
        fs::remove_file(&first.path).expect("removed");
        assert!(!staging(data.path(), &catalog).holds(&id).expect("asked"));
    }
}
