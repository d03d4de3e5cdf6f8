//! Notes, counts, and SQLite's own upkeep.

use rusqlite::{OptionalExtension, params};

use super::{SqliteCatalog, failed};
use crate::catalog::{CatalogCounts, CatalogError, ChunkTotals, NoteTable, Upkeep};

/// Free pages that are given back before others may write again.
const VACUUM_PAGES: u32 = 2_000;

impl NoteTable for SqliteCatalog {
    fn note(&self, key: &str) -> Result<Option<Vec<u8>>, CatalogError> {
        self.read("read a note", |tx| {
            tx.query_row("SELECT value FROM note WHERE key = ?1", [key], |row| row.get(0)).optional()
        })
    }

    fn set_note(&self, key: &str, value: &[u8]) -> Result<(), CatalogError> {
        self.write("write a note", |tx| {
            tx.execute("INSERT OR REPLACE INTO note (key, value) VALUES (?1, ?2)", params![key, value])?;
            Ok(())
        })
    }
}

impl Upkeep for SqliteCatalog {
    fn counts(&self) -> Result<CatalogCounts, CatalogError> {
        self.read("count what it knows", |tx| {
            let mut statement = tx.prepare_cached(
                "SELECT (SELECT count(*) FROM device WHERE revoked_at IS NULL), (SELECT count(*) FROM dataset),
                        (SELECT count(*) FROM version), (SELECT count(*) FROM pack),
                        (SELECT coalesce(sum(end_bytes), 0) FROM pack),
                        chunks, stored_bytes, plain_bytes, damaged FROM chunk_total",
            )?;
            statement.query_row([], |row| {
                let number = |column| Ok::<_, rusqlite::Error>(row.get::<_, i64>(column)? as u64);
                Ok(CatalogCounts {
                    devices: number(0)?,
                    datasets: number(1)?,
                    versions: number(2)?,
                    packs: number(3)?,
                    pack_bytes: number(4)?,
                    chunks: ChunkTotals {
                        chunks: number(5)?,
                        stored_bytes: number(6)?,
                        plain_bytes: number(7)?,
                        damaged: number(8)?,
                    },
                })
            })
        })
    }

    /// Gives free pages back to the file system, a few at a time, then writes the log back into the file and cuts it.
    fn tidy(&self) -> Result<(), CatalogError> {
        const ACTION: &str = "tidy itself";
        loop {
            let connection = self.writer();
            let free: i64 =
                connection.pragma_query_value(None, "freelist_count", |row| row.get(0)).map_err(failed(ACTION))?;
            if free == 0 {
                break;
            }
            // Each step frees a page.
            let vacuum = format!("PRAGMA incremental_vacuum({VACUUM_PAGES})");
            let mut statement = connection.prepare(&vacuum).map_err(failed(ACTION))?;
            let mut rows = statement.query([]).map_err(failed(ACTION))?;
            while rows.next().map_err(failed(ACTION))?.is_some() {}
        }
        self.writer().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").map_err(failed(ACTION))
    }

    fn check(&self) -> Result<Option<String>, CatalogError> {
        self.read("check itself", |tx| {
            let found: String = tx.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            Ok((found != "ok").then_some(found))
        })
    }
}
