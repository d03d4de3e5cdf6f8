//! Reading everything again: the catalog's own pages, and each chunk of each dataset in its files.
//!
//! A published file whose time and size say that it was changed is no damage: the next scan takes it. One that looks
//! untouched and holds other bytes is. A damaged file of a subscription is fetched again.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use headwater_host::error::{CodedError, codes};
use headwater_host::materialise;
use headwater_host::version::LocalChunks;
use headwater_protocol::record::FileRecord;

use crate::agent::Agent;
use crate::catalog::{DatasetPages, DatasetRow, EventLevel, Role};
use crate::request::{SkippedReport, VerifyReport};
use crate::storage::holdings::in_force;

/// Damaged files that a report names.
const DAMAGED_MAX: usize = 100;

/// Checks the catalog itself; a damaged one is begun anew.
pub fn verify_catalog(agent: &Arc<Agent>) -> Result<VerifyReport, CodedError> {
    let mut report = VerifyReport { catalog_whole: true, ..VerifyReport::default() };
    let catalog = agent.catalog();
    if let Err(error) = catalog.check() {
        if !error.is_damage() {
            return Err(error.into());
        }
        agent.rebuild_catalog(&catalog, &error.to_string())?;
        report.catalog_whole = false;
    }
    Ok(report)
}

/// Reads the files of a dataset again. The caller has the dataset, so that its version does not go meanwhile.
pub fn verify_dataset(agent: &Arc<Agent>, row: &DatasetRow, report: &mut VerifyReport) -> Result<(), CodedError> {
    let catalog = &agent.catalog();
    let found = match row.role {
        Role::Subscribe => in_force(catalog, row)?,
        Role::Publish | Role::Local => catalog.committed(row.id)?.map(|committed| (row.folder.clone(), committed)),
    };
    let Some((root, version)) = found else { return Ok(()) };
    let pages = Arc::new(DatasetPages::new(Arc::clone(catalog), row.id));
    let Ok(local) = LocalChunks::new(&root, version.decode_manifest()?, pages) else { return Ok(()) };
    let mut damaged: Option<String> = None;
    for place in local.tree().chunks() {
        let place = place.map_err(|error| CodedError::new(&codes::CATALOG_DAMAGED, error.to_string()))?;
        match local.at(&place) {
            Ok(bytes) => {
                report.chunks_good += 1;
                report.bytes_good += bytes.len() as u64;
            }
            Err(error) => {
                // A version that was fetched is whole, or damaged: nobody is to change it.
                let is_untouched = |record: &FileRecord| row.role == Role::Subscribe || is_untouched(record, &root);
                let Some(path) = local.damaged(&place, is_untouched) else { continue };
                if damaged.as_ref() == Some(&path) {
                    continue;
                }
                report.damaged_count += 1;
                if report.damaged.len() < DAMAGED_MAX {
                    let reason = error.to_string();
                    report.damaged.push(SkippedReport { dataset: row.name.clone(), path: path.clone(), reason });
                }
                damaged = Some(path);
            }
        }
    }
    if let Some(path) = damaged {
        let text = format!("`{path}` does not hold what the catalog says");
        agent.note(EventLevel::Warn, codes::HASH_MISMATCH.code, &row.name, text);
        if row.role == Role::Subscribe {
            // What is whole in it stays in use; the next fetch brings the rest and swaps the folders.
            materialise::doubt(&row.folder, version.number)?;
            agent.look_again();
        }
    }
    Ok(())
}

/// Whether a file looks as the version says it was.
fn is_untouched(record: &FileRecord, root: &Path) -> bool {
    let path = root.join(std::ffi::OsStr::from_bytes(&record.path));
    path.symlink_metadata().is_ok_and(|found| {
        let mtime_ns = found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec());
        found.len() == record.size && mtime_ns == record.mtime_ns
    })
}
