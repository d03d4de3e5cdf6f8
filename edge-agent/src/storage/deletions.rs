//! Deletions by command, outside the catalog: nothing else says which files of a dataset the user wants gone, so a
//! damaged catalog must not take them with it.
//!
//! `DIR/deletions/HASH` holds, for one dataset, the paths that were named since the last version without pending
//! deletions was committed, each with a NUL behind it. It is written before the catalog's marks and read only when the
//! dataset is taken over from the core because the catalog was lost.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use headwater_host::durable;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::path::RelPath;

use crate::catalog::DatasetRow;

const FOLDER: &str = "deletions";

/// Adds paths; durable when it returns.
pub(crate) fn remember(data: &Path, row: &DatasetRow, paths: &[RelPath]) -> Result<(), CodedError> {
    let file = file_of(data, row);
    let mut bytes = read(&file)?;
    for path in paths {
        bytes.extend_from_slice(path.as_bytes());
        bytes.push(0);
    }
    durable::create_folder(durable::parent_of(&file), durable::PRIVATE_FOLDER_MODE)
        .and_then(|()| durable::write_atomic(&file, &bytes, durable::PRIVATE_FILE_MODE))
        .map_err(|error| CodedError::io(&codes::WRITE_FAILED, format!("can't write `{}`", file.display()), error))
}

/// The paths that were named and may be in the core's newest version still.
pub(crate) fn remembered(data: &Path, row: &DatasetRow) -> Result<Vec<RelPath>, CodedError> {
    let bytes = read(&file_of(data, row))?;
    Ok(bytes.split(|&byte| byte == 0).filter_map(|path| RelPath::new(path.to_vec()).ok()).collect())
}

/// Forgets them: a version without those files is committed.
pub(crate) fn forget(data: &Path, row: &DatasetRow) -> Result<(), CodedError> {
    let file = file_of(data, row);
    if !file.exists() {
        return Ok(());
    }
    durable::remove_file(&file)
        .map_err(|error| CodedError::io(&codes::WRITE_FAILED, format!("can't remove `{}`", file.display()), error))
}

fn read(file: &Path) -> Result<Vec<u8>, CodedError> {
    match std::fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other
            .map_err(|error| CodedError::io(&codes::READ_FAILED, format!("can't read `{}`", file.display()), error)),
    }
}

fn file_of(data: &Path, row: &DatasetRow) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    hasher.update(row.name.as_bytes()).update(&[0]).update(row.folder.as_os_str().as_bytes());
    data.join(FOLDER).join(&hasher.finalize().to_hex().as_str()[..32])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Catalog, Role};

    #[test]
    fn what_was_named_stays_until_it_is_done() {
        let data = tempfile::tempdir().expect("a folder");
        let catalog = Catalog::in_memory();
        let row = |name: &str| catalog.dataset(name, Role::Publish, Path::new("/files")).expect("a dataset");
        let path = |text: &str| RelPath::new(text).expect("a path");
        remember(data.path(), &row("cam"), &[path("a"), path("b/c")]).expect("kept");
        remember(data.path(), &row("cam"), &[path("d")]).expect("kept");
        assert_eq!(remembered(data.path(), &row("cam")).expect("read"), [path("a"), path("b/c"), path("d")]);
        assert!(remembered(data.path(), &row("other")).expect("read").is_empty());
        forget(data.path(), &row("cam")).expect("forgotten");
        forget(data.path(), &row("cam")).expect("nothing to do");
        assert!(remembered(data.path(), &row("cam")).expect("read").is_empty());
    }
}
