//! Freeing files: their bytes go from this device, they stay in every later version. Only under the core's receipt, only
//! after the file was read again and is what the receipt covers, and the note that it was freed is durable before the file
//! goes; with a session, the core's own note as well, and without one the core is told at the next. And deleting files: they
//! leave later versions too.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_host::error::{CodedError, codes};
use headwater_host::scan::Stamp;
use headwater_protocol::codec::decode_stored;
use headwater_protocol::commit::{CommitRecord, Durability, Receipt};
use headwater_protocol::id::ChunkId;
use headwater_protocol::path::RelPath;
use headwater_protocol::record::{Content, FileKind};
use headwater_protocol::tree::{RecordAt, Tree, TreeError};

use super::{deletions, frees, local_path};
use crate::agent::{Agent, Folder};
use crate::catalog::{Catalog, DatasetPages, DatasetRow, EventLevel, Role, VersionRow};
use crate::request::{FreeReport, SkippedReport};
use crate::settings::is_in;

/// Files whose freeing is noted in one step.
const BATCH: usize = 512;
/// Files that stayed, named in the report.
const KEPT_MAX: usize = 100;
/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// A dataset's newest committed version, when its files can be freed: what the core is told of and what is removed must be
/// the same one.
pub struct Covered {
    data: PathBuf,
    pub(super) catalog: Arc<Catalog>,
    /// The dataset.
    pub row: DatasetRow,
    /// The version; the core's receipt for it is good.
    pub committed: VersionRow,
    /// How well the core keeps it, by that receipt.
    pub durability: Durability,
    /// Other published folders that have files of this one, and where in it they begin.
    shared: Vec<(String, PathBuf)>,
}

/// Removes the local bytes of files that the core has a receipt for. The caller has the dataset since the version was taken.
pub fn free(agent: &Arc<Agent>, covered: &Covered, paths: &[String]) -> Result<FreeReport, CodedError> {
    let report = covered.free(|freeing| paths.iter().try_for_each(|path| freeing.below(&rel_path(path)?)))?;
    if report.files > 0 {
        let text = format!("{} files were freed, {} bytes; the core keeps them", report.files, report.bytes);
        agent.note(EventLevel::Info, "", &covered.row.name, text);
    }
    Ok(report)
}

/// The same for files that were chosen to make room, by their paths in the dataset.
pub(super) fn free_files(agent: &Agent, covered: &Covered, paths: &[Vec<u8>]) -> Result<FreeReport, CodedError> {
    let report = covered.free(|freeing| paths.iter().try_for_each(|path| freeing.file(path)))?;
    if report.files > 0 {
        let text =
            format!("{} files were freed to make room, {} bytes; the core keeps them", report.files, report.bytes);
        agent.note(EventLevel::Info, "", &covered.row.name, text);
    }
    Ok(report)
}

/// With a session, the core notes that it may hold the only copy before a byte goes. Without one the receipt does, and the
/// next session tells.
pub(crate) async fn announce(agent: &Arc<Agent>, covered: &Covered) -> Result<(), CodedError> {
    let Some(access) = agent.current_access() else { return Ok(()) };
    let _at_work = agent.begin_work();
    let connected = access.connected().await?;
    crate::session::publish::announce_freed(agent, &connected, &covered.row, &covered.committed).await
}

impl Covered {
    /// The dataset of another published folder that a file lies in as well. Freed here, it would be deleted there.
    pub(super) fn sharing(&self, path: &[u8]) -> Option<&str> {
        sharing(&self.shared, path)
    }

    fn free(&self, choose: impl FnOnce(&mut Freeing<'_>) -> Result<(), CodedError>) -> Result<FreeReport, CodedError> {
        let manifest = self.committed.decode_manifest()?;
        let pages = DatasetPages::new(Arc::clone(&self.catalog), self.row.id);
        let tree = Tree::new(&manifest, &pages);
        let report = FreeReport::default();
        let mut freeing = Freeing {
            data: &self.data,
            catalog: &self.catalog,
            row: &self.row,
            shared: &self.shared,
            tree,
            batch: Vec::new(),
            report,
        };
        choose(&mut freeing)?;
        freeing.flush()?;
        Ok(freeing.report)
    }
}

/// Leaves files out of later versions, and removes them here. Gives how many paths were named.
pub fn delete(agent: &Arc<Agent>, folder: &Folder, paths: &[String]) -> Result<usize, CodedError> {
    let dataset = folder.dataset.as_str();
    let catalog = agent.catalog();
    let row = catalog.dataset(dataset, folder.role, &folder.path)?;
    let pages = DatasetPages::new(Arc::clone(&catalog), row.id);
    let mut manifests = Vec::new();
    for version in [catalog.committed(row.id)?, catalog.pending(row.id)?].iter().flatten() {
        manifests.push(version.decode_manifest()?);
    }
    let trees: Vec<_> = manifests.iter().map(|manifest| Tree::new(manifest, &pages)).collect();
    let deleted = paths.iter().map(|path| rel_path(path)).collect::<Result<Vec<_>, _>>()?;
    for path in &deleted {
        let is_here = local_path(&folder.path, path.as_bytes()).is_some_and(|path| path.symlink_metadata().is_ok());
        if !is_here && !trees.iter().any(|tree| tree.records_at_or_below(path).next().is_some()) {
            return Err(CodedError::new(&codes::PATH_NOT_IN_DATASET, format!("`{dataset}` has no file `{path}`")));
        }
    }
    if folder.role == Role::Publish {
        deletions::remember(agent.data(), &row, &deleted)?;
        for path in &deleted {
            for tree in &trees {
                note_deletions(&catalog, &row, *tree, path)?;
            }
            catalog.forget_freed_at_or_below(row.id, path.as_bytes())?;
        }
    }
    for path in &deleted {
        remove(folder, path)?;
    }
    agent.note(EventLevel::Info, "", dataset, format!("{} paths were deleted by command", deleted.len()));
    Ok(deleted.len())
}

/// The newest committed version, if files of it can be freed.
pub fn covered_version(agent: &Agent, folder: &Folder) -> Result<Covered, CodedError> {
    let dataset = folder.dataset.as_str();
    if folder.role != Role::Publish {
        let message = format!("`{dataset}` is local: no core has its files, so none can be freed");
        return Err(CodedError::new(&codes::LOCAL_DATASET, message));
    }
    let catalog = agent.catalog();
    let row = catalog.dataset(dataset, folder.role, &folder.path)?;
    let (committed, durability) = covered(agent, &catalog, &row)?;
    let others = agent.folders().0.into_iter().filter(|other| {
        let is_same = other.path == folder.path && other.dataset == folder.dataset;
        other.role == Role::Publish && !is_same
    });
    let shared =
        others.filter_map(|other| Some((other.dataset.as_str().to_owned(), common(&folder.path, &other.path)?)));
    Ok(Covered { data: agent.data().to_owned(), shared: shared.collect(), catalog, row, committed, durability })
}

fn sharing<'a>(shared: &'a [(String, PathBuf)], path: &[u8]) -> Option<&'a str> {
    let path = Path::new(OsStr::from_bytes(path));
    shared.iter().find(|(_, begin)| path.starts_with(begin)).map(|(dataset, _)| dataset.as_str())
}

/// Where in `folder` begins what lies in `other` as well, whichever links lead to them.
fn common(folder: &Path, other: &Path) -> Option<PathBuf> {
    if is_in(folder, other) {
        return Some(PathBuf::new());
    }
    let (folder, other) = (folder.canonicalize().ok()?, other.canonicalize().ok()?);
    other.strip_prefix(folder).ok().map(Path::to_owned)
}

/// The newest committed version, if its receipt is good.
fn covered(agent: &Agent, catalog: &Catalog, row: &DatasetRow) -> Result<(VersionRow, Durability), CodedError> {
    let without = |reason: &str| {
        CodedError::new(&codes::LAST_COPY, format!("no file of `{}` can be freed: {reason}", row.name))
            .with_hint("wait until the dataset is in sync (`edge-agent status`), then try again")
    };
    let device = agent.joined()?;
    let committed = catalog.committed(row.id)?.ok_or_else(|| without("no version of it is committed"))?;
    let record = decode_stored::<CommitRecord>(&committed.record).ok();
    let receipt = decode_stored::<Receipt>(&committed.receipt).ok();
    let (Some(record), Some(receipt)) = (record, receipt) else {
        return Err(without("the core has not given a receipt for its newest version yet"));
    };
    if record.version != committed.version || receipt.verify(&record, device.identity.authority()).is_err() {
        return Err(without("the receipt for its newest version is not good"));
    }
    Ok((committed, receipt.durability))
}

struct Freeing<'a> {
    data: &'a Path,
    catalog: &'a Catalog,
    row: &'a DatasetRow,
    shared: &'a [(String, PathBuf)],
    tree: Tree<'a>,
    /// Files that were read and are what the core has, with the stamp at that time.
    batch: Vec<(Vec<u8>, PathBuf, Stamp)>,
    report: FreeReport,
}

impl Freeing<'_> {
    /// Frees the file at `path` or all files in the folder `path`.
    fn below(&mut self, path: &RelPath) -> Result<(), CodedError> {
        let mut found = false;
        for record in self.tree.records_at_or_below(path) {
            let record = record.map_err(|error| CodedError::new(&codes::CATALOG_DAMAGED, error.to_string()))?;
            found = true;
            if record.kind == FileKind::File && record.size > 0 {
                self.one(&record)?;
            }
        }
        if found {
            return Ok(());
        }
        let message = format!("`{}` has no committed file `{path}`", self.row.name);
        Err(CodedError::new(&codes::PATH_NOT_IN_DATASET, message))
    }

    /// Frees one file, if the version has it.
    fn file(&mut self, path: &[u8]) -> Result<(), CodedError> {
        let Ok(path) = RelPath::new(path) else { return Ok(()) };
        let damaged = |error: TreeError| CodedError::new(&codes::CATALOG_DAMAGED, error.to_string());
        let found = self.tree.find(&path).map_err(damaged)?;
        found.map_or(Ok(()), |record| self.one(&record))
    }

    fn one(&mut self, record: &RecordAt) -> Result<(), CodedError> {
        let Some(path) = local_path(&self.row.folder, &record.path) else { return Ok(()) };
        // What is not here is freed already, or was deleted.
        let Some(before) = Stamp::of_file(&path) else { return Ok(()) };
        if let Some(other) = sharing(self.shared, &record.path) {
            self.keep(record, &format!("it lies in the folder of `{other}` as well, which would lose it"));
            return Ok(());
        }
        match self.holds(&path, record) {
            Ok(true) => {
                self.batch.push((record.path.clone(), path, before));
                if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
            }
            Ok(false) => {
                self.keep(record, "it has changed since it was committed");
                Ok(())
            }
            Err(error) => {
                self.keep(record, &format!("it can't be read: {error}"));
                Ok(())
            }
        }
    }

    /// Whether the file holds exactly what the record says.
    fn holds(&self, path: &Path, record: &RecordAt) -> std::io::Result<bool> {
        let file = File::open(path)?;
        if file.metadata()?.len() != record.size {
            return Ok(false);
        }
        let mut buffer = vec![0; READ_BYTES];
        if let Content::Shared { hash, extent } = &record.content {
            let bytes = &mut buffer[..extent.length as usize];
            file.read_exact_at(bytes, 0)?;
            return Ok(ChunkId::of(bytes) == *hash);
        }
        for stretch in self.tree.stretches(record) {
            let stretch = stretch.map_err(std::io::Error::other)?;
            let bytes = &mut buffer[..stretch.length as usize];
            file.read_exact_at(bytes, stretch.file_offset)?;
            if ChunkId::of(bytes) != stretch.chunk.id {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn flush(&mut self) -> Result<(), CodedError> {
        let mut batch = std::mem::take(&mut self.batch);
        // A file that was named twice, as by itself and by its folder, is removed once; the second time it would seem to stay.
        batch.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        batch.dedup_by(|a, b| a.0 == b.0);
        let paths: Vec<_> = batch.iter().map(|(path, ..)| path.clone()).collect();
        // What is here to be freed is not deleted, whatever an earlier command could not finish.
        self.catalog.forget_deletions(self.row.id, &paths)?;
        // What was freed before and is here again may be another file by the next version.
        self.catalog.forget_freed(self.row.id, &paths)?;
        self.catalog.put_freed(self.row.id, &paths)?;
        frees::count(self.data, self.catalog)?;
        let mut stayed = Vec::new();
        for (path, local, before) in batch {
            // Somebody may have written to it since it was read.
            let removed = Stamp::of_file(&local) == Some(before) && fs::remove_file(&local).is_ok();
            if removed {
                self.report.files += 1;
                self.report.bytes += before.size;
            } else {
                stayed.push(path);
            }
        }
        Ok(self.catalog.withdraw_freed(self.row.id, &stayed)?)
    }

    fn keep(&mut self, record: &RecordAt, reason: &str) {
        if self.report.kept.len() < KEPT_MAX {
            self.report.kept.push(SkippedReport {
                dataset: self.row.name.clone(),
                path: String::from_utf8_lossy(&record.path).into_owned(),
                reason: reason.to_owned(),
            });
        }
    }
}

/// Notes that what a version has at or below `path` leaves the next one: not what will be there later.
pub(crate) fn note_deletions(
    catalog: &Catalog,
    row: &DatasetRow,
    tree: Tree<'_>,
    path: &RelPath,
) -> Result<(), CodedError> {
    let mut batch = Vec::new();
    for record in tree.records_at_or_below(path) {
        let record = record.map_err(|error| CodedError::new(&codes::CATALOG_DAMAGED, error.to_string()))?;
        batch.push(record.path.clone());
        if batch.len() >= BATCH {
            catalog.put_deletions(row.id, &std::mem::take(&mut batch))?;
        }
    }
    Ok(catalog.put_deletions(row.id, &batch)?)
}

fn remove(folder: &Folder, path: &RelPath) -> Result<(), CodedError> {
    let Some(local) = local_path(&folder.path, path.as_bytes()) else { return Ok(()) };
    let removed = match local.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(&local),
        Ok(_) => fs::remove_file(&local),
        Err(_) => return Ok(()),
    };
    removed.map_err(|error| CodedError::io(&codes::WRITE_FAILED, format!("can't remove `{}`", local.display()), error))
}

fn rel_path(path: &str) -> Result<RelPath, CodedError> {
    RelPath::new(path.trim_end_matches('/'))
        .map_err(|error| CodedError::new(&codes::PATH_NOT_IN_DATASET, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::DatasetPages;

    #[test]
    fn a_file_that_is_named_twice_stays_freed() {
        let (data, folder) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (catalog, local) = (Arc::new(Catalog::in_memory()), folder.path().join("a"));
        let row = catalog.dataset("cam", Role::Publish, folder.path()).expect("a dataset");
        fs::write(&local, "bytes").expect("written");
        let pages = DatasetPages::new(Arc::clone(&catalog), row.id);
        let tree = Tree::from_root(None, 0, &pages);
        let named = || (b"a".to_vec(), local.clone(), Stamp::of_file(&local).expect("a file"));
        let batch = vec![named(), named()];
        let mut freeing = Freeing {
            data: data.path(),
            catalog: &catalog,
            row: &row,
            shared: &[],
            tree,
            batch,
            report: FreeReport::default(),
        };
        freeing.flush().expect("freed");
        assert_eq!((freeing.report.files, local.exists()), (1, false));
        assert!(catalog.is_freed(row.id, b"a").expect("asked"));
    }
}
