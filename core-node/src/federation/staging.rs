//! Files of versions as plain files, for as long as they are worked with.
//!
//! An update is copied out of the store when it arrives, and read there again when its round is combined: the store's chunks have
//! boundaries of their own, and combining reads all updates a little at a time. What lies here can always be made again, so it
//! is never synced, and all of it is removed when the core starts.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_protocol::id::VersionId;
use headwater_protocol::manifest::Manifest;

use super::{StoredFile, StoredFileError};
use crate::catalog::CatalogError;
use crate::core::Core;
use crate::serve::HeldLease;

/// The folder below the core's data folder.
const FOLDER: &str = "federation";
/// Bytes that are copied at once.
const PIECE_BYTES: u64 = 1 << 20;

/// Why a file can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    /// Its version is not kept any more.
    #[error("version {version} of `{dataset}` is not kept any more")]
    Gone {
        /// The dataset.
        dataset: String,
        /// The version.
        version: VersionId,
    },
    /// The version's manifest can't be read.
    #[error("the manifest of version {version} of `{dataset}` can't be read")]
    Manifest {
        /// The dataset.
        dataset: String,
        /// The version.
        version: VersionId,
    },
    /// The file can't be read.
    #[error(transparent)]
    Stored(#[from] StoredFileError),
    /// The copy can't be written.
    #[error("`{path}` can't be written")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// A folder of copies.
pub(crate) struct Staging {
    folder: PathBuf,
    is_temporary: bool,
}

impl Staging {
    /// The folder of a run.
    pub(crate) fn of_run(core: &Core, run: &str) -> Self {
        Self { folder: core.folder.join(FOLDER).join(run), is_temporary: false }
    }

    /// A folder that is removed when this is dropped.
    pub(crate) fn temporary(core: &Core) -> Self {
        // A run's name has no dot in front.
        Self { folder: core.folder.join(FOLDER).join(format!(".{}", core.unique())), is_temporary: true }
    }

    /// Removes all copies that an earlier process left.
    pub(crate) fn clear_all(core: &Core) -> io::Result<()> {
        match fs::remove_dir_all(core.folder.join(FOLDER)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A fresh folder in it.
    pub(crate) fn fresh_folder(&self, name: &str) -> Result<PathBuf, StageError> {
        let path = self.folder.join(name);
        let failed = |source| StageError::Io { path: path.clone(), source };
        if path.exists() {
            fs::remove_dir_all(&path).map_err(failed)?;
        }
        fs::create_dir_all(&path).map_err(failed)?;
        Ok(path)
    }

    /// Where the copy of `file` of a version is. It is made if it is not there.
    pub(crate) fn file(
        &self,
        core: &Arc<Core>,
        dataset: &str,
        version: &VersionId,
        file: &str,
    ) -> Result<PathBuf, StageError> {
        let path = self.folder.join(format!("{version}.safetensors"));
        if !path.exists() {
            self.copy(core, dataset, version, file, &path)?;
        }
        Ok(path)
    }

    /// Copies `file` of a version to `path`.
    fn copy(
        &self,
        core: &Arc<Core>,
        dataset: &str,
        version: &VersionId,
        file: &str,
        path: &Path,
    ) -> Result<(), StageError> {
        let (_lease, manifest) = held(core, dataset, version)?;
        let stored = StoredFile::open(core, &manifest, file)?;
        let failed = |source| StageError::Io { path: path.to_owned(), source };
        fs::create_dir_all(&self.folder).map_err(failed)?;
        let partial = path.with_extension("partial");
        let mut copy = File::create(&partial).map_err(failed)?;
        let mut piece = vec![0; PIECE_BYTES.min(stored.bytes()) as usize];
        let mut at = 0;
        while at < stored.bytes() {
            let count = PIECE_BYTES.min(stored.bytes() - at) as usize;
            stored.read_at(at, &mut piece[..count])?;
            copy.write_all(&piece[..count]).map_err(failed)?;
            at += count as u64;
        }
        fs::rename(&partial, path).map_err(failed)
    }

    /// Forgets the copy of a version's file.
    pub(crate) fn forget(&self, version: &VersionId) {
        let _ = fs::remove_file(self.folder.join(format!("{version}.safetensors")));
    }

    /// Removes the folder.
    pub(crate) fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %self.folder.display(), %error, "copies of updates can't be removed");
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.is_temporary {
            self.remove();
        }
    }
}

/// A version's manifest, under a lease.
pub(crate) fn held(core: &Arc<Core>, dataset: &str, version: &VersionId) -> Result<(HeldLease, Manifest), StageError> {
    let gone = || StageError::Gone { dataset: dataset.to_owned(), version: *version };
    let record = core.catalog.dataset(dataset)?.ok_or_else(gone)?;
    let known = core.catalog.version_by_id(record.id, version)?.ok_or_else(gone)?;
    let taken = HeldLease::take(core, FOLDER, record.id, known.summary.number)?;
    let (lease, known) = taken.ok_or_else(gone)?;
    let manifest = Manifest::decode(&known.manifest);
    let manifest = manifest.map_err(|_| StageError::Manifest { dataset: dataset.to_owned(), version: *version })?;
    Ok((lease, manifest))
}

/// The whole of a small file of a version; none if the version has no such file.
pub(crate) fn small_file(
    core: &Arc<Core>,
    dataset: &str,
    version: &VersionId,
    file: &str,
    bytes_max: u64,
) -> Result<Option<Vec<u8>>, StageError> {
    let (_lease, manifest) = held(core, dataset, version)?;
    let stored = match StoredFile::open(core, &manifest, file) {
        Err(StoredFileError::Missing(_)) => return Ok(None),
        stored => stored?,
    };
    if stored.bytes() > bytes_max {
        return Ok(None);
    }
    let mut bytes = vec![0; stored.bytes() as usize];
    stored.read_at(0, &mut bytes)?;
    Ok(Some(bytes))
}
