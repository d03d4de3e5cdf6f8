//! Which records stay in the next version though their paths are gone from the folder.
//!
//! - `append`: all that the core has, unless the user deleted them by command.
//! - `mirror`: files that were freed; and everything while the folder is suspect.
//!
//! After the catalog was lost, nobody knows any more which files were freed, so all that are missing count as freed: a
//! command can still delete them, but nothing brings a version back. That is found out by the first scan that sees the
//! whole folder; until then the dataset stays marked as recovering.
//!
//! A mark ends where the file is back: what happens to it then is an ordinary change.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use headwater_host::version::{Absent, BuildReport};
use headwater_protocol::manifest::Manifest;
use headwater_protocol::path::RelPath;
use headwater_protocol::record::{FileKind, FileRecord};
use headwater_protocol::tree::Tree;

use crate::catalog::{Catalog, CatalogError, DatasetId, DatasetPages, DatasetRow, VersionRow};
use crate::settings::Mode;
use crate::storage::local_path;

/// Paths that are noted in one step.
const BATCH: usize = 1000;

/// What is known of a folder's missing files.
pub(super) struct Keep<'a> {
    catalog: &'a Catalog,
    dataset: DatasetId,
    mode: Mode,
    suspect: bool,
    recovering: bool,
    has_freed: bool,
    has_deletions: bool,
    committed: Option<(Manifest, DatasetPages)>,
    committed_is_base: bool,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    freed: Vec<Vec<u8>>,
    back: Vec<Vec<u8>>,
    error: Option<CatalogError>,
}

impl<'a> Keep<'a> {
    /// Reads the marks. Those of deleted files that are in the folder again are void from now on.
    pub(super) fn new(
        catalog: &'a Arc<Catalog>,
        row: &DatasetRow,
        mode: Mode,
        suspect: bool,
        committed: Option<&VersionRow>,
        base: Option<&VersionRow>,
    ) -> Result<Self, CatalogError> {
        forget_deletions_of(catalog, row.id, |path| is_there(&row.folder, path))?;
        let manifest = committed.map(VersionRow::decode_manifest).transpose()?;
        Ok(Self {
            catalog,
            dataset: row.id,
            mode,
            suspect,
            recovering: catalog.is_recovering(row.id)?,
            has_freed: catalog.freed_count(row.id)? > 0,
            has_deletions: !catalog.deletions_after(row.id, b"", 1)?.is_empty(),
            committed_is_base: committed.map(|row| row.version) == base.map(|row| row.version),
            committed: manifest.map(|manifest| (manifest, DatasetPages::new(Arc::clone(catalog), row.id))),
            found: Mutex::default(),
        })
    }

    /// Notes what the scan found. Only one that saw the whole folder ends the recovery.
    pub(super) fn finish(self, report: &BuildReport) -> Result<(), CatalogError> {
        let found = self.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = found.error {
            return Err(error);
        }
        self.catalog.put_freed(self.dataset, &found.freed)?;
        self.catalog.forget_freed(self.dataset, &found.back)?;
        if self.recovering && !self.suspect && report.unseen == 0 {
            self.catalog.end_recovering(self.dataset)?;
        }
        Ok(())
    }

    /// What the catalog says of a path. Not knowing keeps the record; the error comes up when the scan is over.
    fn ask(&self, answer: Result<bool, CatalogError>, unknown: bool) -> bool {
        answer.unwrap_or_else(|error| {
            self.found.lock().unwrap_or_else(PoisonError::into_inner).error.get_or_insert(error);
            unknown
        })
    }

    fn is_committed(&self, path: &[u8]) -> bool {
        if self.committed_is_base {
            return true;
        }
        let Some((manifest, pages)) = &self.committed else { return false };
        let Ok(path) = RelPath::new(path) else { return false };
        !matches!(Tree::new(manifest, pages).find(&path), Ok(None))
    }

    /// Puts a path on a list of the scan's findings, which are noted in batches.
    fn note(
        &self,
        path: &[u8],
        list: impl FnOnce(&mut Found) -> &mut Vec<Vec<u8>>,
        write: impl FnOnce(&[Vec<u8>]) -> Result<(), CatalogError>,
    ) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let list = list(&mut found);
        list.push(path.to_vec());
        if list.len() >= BATCH {
            let batch = std::mem::take(list);
            if let Err(error) = write(&batch) {
                found.error.get_or_insert(error);
            }
        }
    }
}

impl Absent for Keep<'_> {
    fn stays(&self, record: &FileRecord) -> bool {
        let path = record.path.as_slice();
        if self.has_deletions && self.ask(self.catalog.is_deleted(self.dataset, path), false) {
            return false;
        }
        if !self.is_committed(path) {
            return false;
        }
        if self.suspect {
            return true;
        }
        if record.kind == FileKind::File && self.recovering {
            self.note(path, |found| &mut found.freed, |paths| self.catalog.put_freed(self.dataset, paths));
            return true;
        }
        match self.mode {
            Mode::Append => true,
            Mode::Mirror => {
                record.kind == FileKind::File
                    && self.has_freed
                    && self.ask(self.catalog.is_freed(self.dataset, path), true)
            }
        }
    }

    fn holds(&self, path: &RelPath) -> bool {
        self.suspect
            || self.recovering
            || (self.has_freed && self.ask(self.catalog.has_freed_below(self.dataset, path.as_bytes()), true))
    }

    fn is_back(&self, path: &RelPath) {
        if self.has_freed {
            let write = |paths: &[Vec<u8>]| self.catalog.forget_freed(self.dataset, paths);
            self.note(path.as_bytes(), |found| &mut found.back, write);
        }
    }
}

/// Forgets deletions for which `is_over` holds.
pub(super) fn forget_deletions_of(
    catalog: &Catalog,
    dataset: DatasetId,
    is_over: impl Fn(&[u8]) -> bool,
) -> Result<(), CatalogError> {
    let mut after = Vec::new();
    loop {
        let mut paths = catalog.deletions_after(dataset, &after, BATCH)?;
        let Some(last) = paths.last() else { return Ok(()) };
        after.clone_from(last);
        paths.retain(|path| is_over(path));
        catalog.forget_deletions(dataset, &paths)?;
    }
}

fn is_there(folder: &Path, path: &[u8]) -> bool {
    local_path(folder, path).is_some_and(|path| path.symlink_metadata().is_ok())
}
