//! Whether the catalog knows of every file that was freed: how often files were freed is counted in the catalog and in a file
//! beside it, and a catalog that counts fewer is an older one, or a new one after the last was lost.
//!
//! `DIR/frees` holds the count, eight bytes, little endian. The catalog counts first, then the file, then the files go: a
//! catalog behind the file has missed some, one before it has not. Without a file nothing is known, and the catalog counts as
//! an old one.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use headwater_host::durable;
use headwater_host::error::{CodedError, codes};

use super::reserve;
use crate::catalog::{Catalog, CatalogError};

const FILE: &str = "frees";

/// Counts once more: before files go whose freeing the catalog has just noted. Durable when it returns.
pub(super) fn count(data: &Path, catalog: &Catalog) -> Result<(), CodedError> {
    let count = catalog.frees()?.saturating_add(1);
    catalog.put_frees(count)?;
    match write(data, count) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull && reserve::release(data) => write(data, count),
        other => other,
    }
    .map_err(|error| {
        CodedError::io(&codes::WRITE_FAILED, format!("can't write `{}`", data.join(FILE).display()), error)
    })
}

/// Compares a catalog that was just opened with the file. One that missed something is marked, and so are its datasets; a
/// data folder that `is_new` has never freed anything.
pub(crate) fn compare(data: &Path, catalog: &Catalog, is_new: bool) -> Result<(), CatalogError> {
    let counted = catalog.frees()?;
    match read(data) {
        Some(count) if count <= counted => return Ok(()),
        None if is_new && counted == 0 => {}
        found => {
            for row in catalog.datasets()? {
                if catalog.committed(row.id)?.is_some() {
                    catalog.begin_recovering(row.id)?;
                }
            }
            catalog.note_frees_missed()?;
            catalog.put_frees(found.unwrap_or_default().max(counted))?;
        }
    }
    if read(data).is_none()
        && let Err(error) = write(data, counted)
    {
        tracing::debug!(%error, "the count of what was freed can't be kept");
    }
    Ok(())
}

/// In place, which needs no room on a disk that is full.
fn write(data: &Path, count: u64) -> io::Result<()> {
    let path = data.join(FILE);
    let is_new = !path.exists();
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(durable::PRIVATE_FILE_MODE).open(&path)?;
    file.write_all_at(&count.to_le_bytes(), 0)?;
    durable::sync_file(&file, &path)?;
    if is_new { durable::sync_folder(data) } else { Ok(()) }
}

fn read(data: &Path) -> Option<u64> {
    std::fs::read(data.join(FILE)).ok()?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Role;

    fn missed(data: &Path, catalog: &Catalog, is_new: bool) -> bool {
        compare(data, catalog, is_new).expect("compared");
        catalog.has_missed_frees().expect("asked")
    }

    #[test]
    fn only_a_catalog_that_counts_fewer_has_missed_something() {
        let folder = tempfile::tempdir().expect("a folder");
        let (data, catalog) = (folder.path(), Catalog::in_memory());
        assert!(!missed(data, &catalog, true), "a new data folder has nothing to miss");
        count(data, &catalog).expect("counted");
        count(data, &catalog).expect("counted");
        assert!(!missed(data, &catalog, false));

        let lost = Catalog::in_memory();
        assert!(missed(data, &lost, false));
        count(data, &lost).expect("counted");
        assert!(missed(data, &lost, false), "what it missed it has missed for good");

        // Killed between the two counts: nothing had gone yet.
        catalog.put_frees(9).expect("kept");
        assert!(!missed(data, &catalog, false));
    }

    #[test]
    fn without_a_count_that_can_be_read_a_catalog_may_have_missed_anything() {
        for damage in [None, Some(&b"cut"[..])] {
            let folder = tempfile::tempdir().expect("a folder");
            if let Some(bytes) = damage {
                std::fs::write(folder.path().join(FILE), bytes).expect("written");
            }
            let catalog = Catalog::in_memory();
            catalog.dataset("cam", Role::Publish, Path::new("/files")).expect("a dataset");
            assert!(missed(folder.path(), &catalog, false));
            assert_eq!(read(folder.path()), Some(0), "it is counted from here on");
        }
    }
}
