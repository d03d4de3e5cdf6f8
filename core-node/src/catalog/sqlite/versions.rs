//! Versions in SQLite: the commit, and reading back.

use headwater_protocol::id::{ChunkId, VersionId};
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::datasets::{principal_column, totals_of};
use super::{Abort, advance, chunks, id_column, refuse};
use crate::catalog::datasets::MISSING_NAMED_MAX;
use crate::catalog::{CommitVersionError, DatasetId, NewVersion, Principal, UnixMs, VersionRecord, VersionSummary};

const SUMMARY: &str = "number, id, root, files, samples, bytes, chunks, committed_at, writer";

fn summary_of(row: &Row<'_>) -> rusqlite::Result<VersionSummary> {
    let root = match row.get_ref(2)?.as_blob_or_null()? {
        Some(_) => Some(ChunkId(id_column(row, 2)?)),
        None => None,
    };
    Ok(VersionSummary {
        number: row.get::<_, i64>(0)? as u64,
        version: VersionId(id_column(row, 1)?),
        root,
        totals: totals_of(row, 3)?,
        committed_at: UnixMs(row.get::<_, i64>(7)? as u64),
        writer: principal_column(row, 8)?,
    })
}

fn record_of(row: &Row<'_>) -> rusqlite::Result<VersionRecord> {
    Ok(VersionRecord { summary: summary_of(row)?, manifest: row.get(9)?, commit: row.get(10)?, receipt: row.get(11)? })
}

pub(super) fn by_number(
    tx: &Transaction<'_>,
    dataset: DatasetId,
    number: u64,
) -> rusqlite::Result<Option<VersionRecord>> {
    tx.prepare_cached(&format!(
        "SELECT {SUMMARY}, manifest, record, receipt FROM version WHERE dataset = ?1 AND number = ?2"
    ))?
    .query_row([dataset.0 as i64, number as i64], record_of)
    .optional()
}

pub(super) fn by_id(
    tx: &Transaction<'_>,
    dataset: DatasetId,
    version: &VersionId,
) -> rusqlite::Result<Option<VersionRecord>> {
    tx.prepare_cached(&format!(
        "SELECT {SUMMARY}, manifest, record, receipt FROM version WHERE dataset = ?1 AND id = ?2"
    ))?
    .query_row(params![dataset.0 as i64, version.as_bytes()], record_of)
    .optional()
}

pub(super) fn list(
    tx: &Transaction<'_>,
    dataset: DatasetId,
    before: Option<u64>,
    limit: usize,
) -> rusqlite::Result<Vec<VersionSummary>> {
    let before = before.map_or(i64::MAX, |number| number as i64);
    let mut statement = tx.prepare_cached(&format!(
        "SELECT {SUMMARY} FROM version WHERE dataset = ?1 AND number < ?2 ORDER BY number DESC LIMIT ?3"
    ))?;
    let rows = statement.query_map([dataset.0 as i64, before, limit as i64], summary_of)?;
    rows.collect()
}

pub(super) fn commit(tx: &Transaction<'_>, new: &NewVersion) -> Result<(), Abort<CommitVersionError>> {
    let dataset = new.dataset.0 as i64;
    check_turn(tx, new)?;
    let mut incomplete = Vec::new();
    for page in &new.complete_pages {
        if !chunks::is_page_of(tx, new.dataset, page)? {
            incomplete.push(*page);
        }
    }
    if !incomplete.is_empty() {
        return refuse(CommitVersionError::Incomplete(incomplete));
    }
    enter_members(tx, new)?;
    let sequence = advance(tx, "root_sequence")?;
    tx.execute(
        "INSERT INTO version (dataset, number, id, root, files, samples, bytes, chunks, committed_at, writer, sequence,
             manifest, record, receipt)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        params![
            dataset,
            new.number as i64,
            new.version.as_bytes(),
            new.root.as_ref().map(ChunkId::as_bytes),
            new.totals.files as i64,
            new.totals.samples as i64,
            new.totals.bytes as i64,
            new.totals.chunks as i64,
            new.committed_at.0 as i64,
            new.writer.as_bytes(),
            sequence,
            new.manifest,
            new.commit,
            new.receipt
        ],
    )?;
    tx.execute("UPDATE dataset SET last_number = ?2 WHERE id = ?1", [dataset, new.number as i64])?;
    if let (Principal::Device(device), false) = (&new.writer, new.receipt.is_empty()) {
        tx.execute(
            "INSERT OR IGNORE INTO reliance (dataset, number, device, freed) VALUES (?1, ?2, ?3, 0)",
            params![dataset, new.number as i64, device.0],
        )?;
    }
    Ok(())
}

/// Whether it is this writer's turn to commit this number.
fn check_turn(tx: &Transaction<'_>, new: &NewVersion) -> Result<(), Abort<CommitVersionError>> {
    let dataset = new.dataset.0 as i64;
    let found = tx
        .prepare_cached("SELECT writer, last_number FROM dataset WHERE id = ?1")?
        .query_row([dataset], |row| Ok((principal_column(row, 0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let Some((writer, last)) = found else {
        return refuse(CommitVersionError::NoDataset);
    };
    if writer != new.writer {
        return refuse(CommitVersionError::Writer { writer });
    }
    let before: Option<i64> = tx
        .prepare_cached("SELECT number FROM version WHERE dataset = ?1 AND id = ?2")?
        .query_row(params![dataset, new.version.as_bytes()], |row| row.get(0))
        .optional()?;
    if let Some(number) = before {
        return refuse(CommitVersionError::Already { number: number as u64 });
    }
    let expected = last as u64 + 1;
    if new.number == expected { Ok(()) } else { refuse(CommitVersionError::Number { expected }) }
}

fn enter_members(tx: &Transaction<'_>, new: &NewVersion) -> Result<(), Abort<CommitVersionError>> {
    let mut key_of = tx.prepare_cached("SELECT key FROM chunk WHERE id = ?1 AND damaged = 0")?;
    let mut insert = tx.prepare_cached(
        "INSERT INTO member (chunk, dataset, page) VALUES (?1, ?2, ?3)
         ON CONFLICT (chunk, dataset) DO UPDATE SET page = 1 WHERE excluded.page = 1 AND page = 0",
    )?;
    let mut unpin = tx.prepare_cached("DELETE FROM pin WHERE chunk = ?1 AND principal = ?2")?;
    let mut missing = Vec::new();
    let pages = new.new_pages.iter().map(|id| (id, true));
    for (id, is_page) in pages.chain(new.new_chunks.iter().map(|id| (id, false))) {
        match key_of.query_row([id.as_bytes()], |row| row.get::<_, i64>(0)).optional()? {
            Some(key) => {
                insert.execute(params![key, new.dataset.0 as i64, is_page])?;
                unpin.execute(params![key, new.writer.as_bytes()])?;
            }
            None if missing.len() < MISSING_NAMED_MAX => missing.push(*id),
            None => {}
        }
    }
    if missing.is_empty() { Ok(()) } else { refuse(CommitVersionError::Missing(missing)) }
}
