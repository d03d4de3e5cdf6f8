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
use headwater_protocol::record::{Content, FileRecord};
use headwater_protocol::tree::{ChunkPlace, Within};

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
                let Some(path) = suspects(&place, &root, row.role) else { continue };
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

/// The file that makes a chunk unreadable though nobody changed it; none if all is explained by changes and deletions.
fn suspects(place: &ChunkPlace, root: &Path, role: Role) -> Option<String> {
    let in_chunk = |record: &FileRecord| match (&record.content, place.within) {
        (Content::Shared { extent, .. }, Within::Table(index)) => extent.chunk as usize == index,
        (Content::Whole(extents), Within::Table(index)) => extents.iter().any(|extent| extent.chunk as usize == index),
        _ => false,
    };
    let records: Vec<&FileRecord> = match place.within {
        Within::Extent { record, .. } => vec![&place.leaf.records[record]],
        Within::Table(_) => place.leaf.records.iter().filter(|record| in_chunk(record)).collect(),
    };
    let untouched = |record: &&FileRecord| {
        let path = root.join(std::ffi::OsStr::from_bytes(&record.path));
        path.symlink_metadata().is_ok_and(|found| {
            let mtime_ns = found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec());
            found.len() == record.size && mtime_ns == record.mtime_ns
        })
    };
    let shown = |record: &FileRecord| String::from_utf8_lossy(&record.path).into_owned();
    if role == Role::Subscribe {
        return records.first().map(|record| shown(record));
    }
    // All members look untouched, yet the chunk is not theirs: one of them holds other bytes.
    if records.iter().all(untouched) { records.first().map(|record| shown(record)) } else { None }
}
