//! Federated runs and their logs.

use headwater_protocol::federated::ModelVersion;
use headwater_protocol::id::VersionId;
use rusqlite::{OptionalExtension, params};

use super::{SqliteCatalog, refuse};
use crate::catalog::{AppendRunError, BeginRunError, CatalogError, RunEntry, RunRecord, RunTable, UnixMs};

impl RunTable for SqliteCatalog {
    fn begin_run(&self, run: &RunRecord) -> Result<(), BeginRunError> {
        self.write("begin a run", |tx| {
            let added = tx.execute(
                "INSERT OR IGNORE INTO run (name, plan, model_number, model_version, began_at, is_over)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    run.name,
                    run.plan,
                    run.model.number as i64,
                    run.model.id.0,
                    run.began_at.0 as i64,
                    run.is_over
                ],
            )?;
            if added == 0 { refuse(BeginRunError::Exists(run.name.clone())) } else { Ok(()) }
        })
    }

    fn runs(&self) -> Result<Vec<RunRecord>, CatalogError> {
        self.read("list runs", |tx| {
            let mut statement = tx.prepare_cached(
                "SELECT name, plan, model_number, model_version, began_at, is_over FROM run ORDER BY name",
            )?;
            let runs = statement.query_map([], |row| {
                Ok(RunRecord {
                    name: row.get(0)?,
                    plan: row.get(1)?,
                    model: ModelVersion { number: row.get::<_, i64>(2)? as u64, id: VersionId(row.get(3)?) },
                    began_at: UnixMs(row.get::<_, i64>(4)? as u64),
                    is_over: row.get(5)?,
                })
            })?;
            runs.collect()
        })
    }

    fn append_run(&self, run: &str, known: u64, entries: &[RunEntry], is_over: bool) -> Result<(), AppendRunError> {
        self.write("write the log of a run", |tx| {
            let found: Option<i64> = tx
                .query_row(
                    "SELECT (SELECT count(*) FROM run_entry WHERE run = ?1) FROM run WHERE name = ?1",
                    [run],
                    |row| row.get(0),
                )
                .optional()?;
            let found = found.unwrap_or(-1);
            if found != known as i64 {
                let found = u64::try_from(found).unwrap_or(0);
                return refuse(AppendRunError::Moved { run: run.to_owned(), found, expected: known });
            }
            for (number, entry) in (known..).zip(entries) {
                tx.prepare_cached(
                    "INSERT INTO run_entry (run, number, at, elapsed_ms, body) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    run,
                    number as i64,
                    entry.at.0 as i64,
                    entry.elapsed_ms as i64,
                    entry.body
                ])?;
            }
            if is_over {
                tx.execute("UPDATE run SET is_over = 1 WHERE name = ?1", [run])?;
            }
            Ok(())
        })
    }

    fn run_entries(&self, run: &str, from: u64, limit: u64) -> Result<Vec<RunEntry>, CatalogError> {
        self.read("read the log of a run", |tx| {
            let mut statement = tx.prepare_cached(
                "SELECT at, elapsed_ms, body FROM run_entry WHERE run = ?1 AND number >= ?2 ORDER BY number LIMIT ?3",
            )?;
            let bounded = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            let entries = statement.query_map(params![run, bounded(from), bounded(limit)], |row| {
                Ok(RunEntry {
                    at: UnixMs(row.get::<_, i64>(0)? as u64),
                    elapsed_ms: row.get::<_, i64>(1)? as u64,
                    body: row.get(2)?,
                })
            })?;
            entries.collect()
        })
    }
}
