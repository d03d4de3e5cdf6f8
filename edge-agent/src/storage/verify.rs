//! Reading everything again: the catalog's own pages, and each chunk of each dataset in its files.
//!
//! A published file whose time and size say that it was changed is no damage: the next scan takes it. One that looks
//! untouched and holds other bytes is. A damaged file of a subscription is fetched again.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use headwater_host::error::{CodedError, codes};
use headwater_host::materialise::{CURRENT_LINK, VERSIONS_FOLDER};
use headwater_host::version::LocalChunks;
use headwater_protocol::record::{Content, FileRecord};
use headwater_protocol::tree::{ChunkPlace, Within};

use crate::agent::Agent;
use crate::catalog::{Catalog, DatasetPages, DatasetRow, EventLevel, Role};
use crate::request::{SkippedReport, VerifyReport};

/// Damaged files that a report names.
const DAMAGED_MAX: usize = 100;

/// Reads everything again.
pub fn verify(agent: &Arc<Agent>) -> Result<VerifyReport, CodedError> {
    let mut report = VerifyReport { catalog_whole: true, ..VerifyReport::default() };
    let catalog = agent.catalog();
    if let Err(error) = catalog.check() {
        if !error.is_damage() {
            return Err(error.into());
        }
        agent.rebuild_catalog(&catalog, &error.to_string())?;
        report.catalog_whole = false;
    }
    let catalog = agent.catalog();
    for row in catalog.datasets()? {
        verify_dataset(agent, &catalog, &row, &mut report)?;
    }
    Ok(report)
}

fn verify_dataset(
    agent: &Arc<Agent>,
    catalog: &Arc<Catalog>,
    row: &DatasetRow,
    report: &mut VerifyReport,
) -> Result<(), CodedError> {
    let Some(committed) = catalog.committed(row.id)? else { return Ok(()) };
    let root = if row.role == Role::Subscribe { row.folder.join(CURRENT_LINK) } else { row.folder.clone() };
    let pages = Arc::new(DatasetPages::new(Arc::clone(catalog), row.id));
    let Ok(local) = LocalChunks::new(&root, committed.decode_manifest()?, pages) else { return Ok(()) };
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
            // With another record the folder counts as one that was begun for something else: the next fetch writes it anew.
            let record = row.folder.join(VERSIONS_FOLDER).join(format!(".{}.version", committed.number));
            std::fs::write(&record, "damaged\n").map_err(|error| {
                CodedError::io(&codes::WRITE_FAILED, format!("can't write `{}`", record.display()), error)
            })?;
            catalog.forget_versions(row.id)?;
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
