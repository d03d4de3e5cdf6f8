//! The catalog in one SQLite file: write-ahead log, every commit synced.
//!
//! One connection writes, behind a lock; a few others read, each on its own snapshot. The layout's number is SQLite's
//! `user_version`; a file with a higher one is refused before anything in it is touched.

mod chunks;
mod collect;
mod collections;
mod datasets;
mod devices;
mod runs;
mod upkeep;
mod versions;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use rusqlite_migration::{M, Migrations};

use super::CatalogError;

/// The newest layout that is known here.
pub const LAYOUT_KNOWN: u64 = 1;

const LAYOUTS: &[M<'static>] = &[M::up(include_str!("layout_1.sql"))];
const _: () = assert!(LAYOUTS.len() as u64 == LAYOUT_KNOWN);

/// Idle connections that are kept for readers; more are opened when they are needed.
const READERS_KEPT_MAX: usize = 4;
/// The write-ahead log is cut back to this after a checkpoint, in bytes.
const JOURNAL_BYTES_MAX: i64 = 64 << 20;
/// Pages in the log that bring about a checkpoint.
const CHECKPOINT_PAGES: u32 = 4_000;
/// Cache of the writing connection, in KiB.
const WRITER_CACHE_KIB: u32 = 16 * 1024;
/// Cache of a reading connection, in KiB.
const READER_CACHE_KIB: u32 = 4 * 1024;
/// How long a connection waits for another's lock: only checkpoints ever hold one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// Prepared statements that a connection keeps.
const STATEMENTS_KEPT_MAX: usize = 128;

/// The catalog in a SQLite file.
pub struct SqliteCatalog {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
}

impl SqliteCatalog {
    /// Opens the catalog at `path`, creates it if there is none, and brings an older layout up to date. Only one process may
    /// have it open; the data folder's lock sees to that.
    pub fn open(path: &Path) -> Result<Self, CatalogError> {
        const ACTION: &str = "open";
        let mut connection = Connection::open(path).map_err(failed(ACTION))?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed(ACTION))?;
        let found: i64 =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed(ACTION))?;
        if found < 0 || found as u64 > LAYOUT_KNOWN {
            return Err(CatalogError::Newer { found: found as u64, known: LAYOUT_KNOWN });
        }
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(failed(ACTION))?;
        prepare(&connection, WRITER_CACHE_KIB).map_err(failed(ACTION))?;
        connection.pragma_update(None, "journal_size_limit", JOURNAL_BYTES_MAX).map_err(failed(ACTION))?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(failed(ACTION))?;
        Migrations::from_slice(LAYOUTS)
            .to_latest(&mut connection)
            .map_err(|error| CatalogError::Failed { action: "bring its layout up to date", source: Box::new(error) })?;
        Ok(Self { path: path.to_owned(), writer: Mutex::new(connection), readers: Mutex::new(Vec::new()) })
    }

    fn writer(&self) -> MutexGuard<'_, Connection> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `body` in a transaction that is durable when this returns `Ok`, and never happened when it returns `Err`.
    fn write<T, E: From<CatalogError>>(
        &self,
        action: &'static str,
        body: impl FnOnce(&Transaction<'_>) -> Result<T, Abort<E>>,
    ) -> Result<T, E> {
        let mut connection = self.writer();
        let settle = |abort| match abort {
            Abort::Sql(error) => E::from(failed(action)(error)),
            Abort::Refused(error) => error,
        };
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| E::from(failed(action)(error)))?;
        let value = body(&transaction).map_err(settle)?;
        transaction.commit().map_err(|error| E::from(failed(action)(error)))?;
        Ok(value)
    }

    /// Runs `body` on one snapshot.
    fn read<T>(
        &self,
        action: &'static str,
        body: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, CatalogError> {
        let kept = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.reader().map_err(failed(action))?,
        };
        let value = {
            let transaction = connection.transaction().map_err(failed(action))?;
            body(&transaction).map_err(failed(action))?
        };
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < READERS_KEPT_MAX {
            readers.push(connection);
        }
        Ok(value)
    }

    fn reader(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        prepare(&connection, READER_CACHE_KIB)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    }
}

/// Why the body of a transaction ends without a commit.
enum Abort<E> {
    Sql(rusqlite::Error),
    Refused(E),
}

impl<E> From<rusqlite::Error> for Abort<E> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

fn refuse<T, E>(error: E) -> Result<T, Abort<E>> {
    Err(Abort::Refused(error))
}

fn prepare(connection: &Connection, cache_kib: u32) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT_MAX);
    Ok(())
}

fn failed(action: &'static str) -> impl Fn(rusqlite::Error) -> CatalogError {
    move |error| match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => CatalogError::Full { action },
        Some(ErrorCode::SystemIoFailure) if is_shared_memory_growth(&error) => CatalogError::Full { action },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            CatalogError::Damaged { action, detail: error.to_string() }
        }
        _ => match error {
            rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..) => {
                CatalogError::Damaged { action, detail: error.to_string() }
            }
            other => CatalogError::Failed { action, source: Box::new(other) },
        },
    }
}

/// A full disk also shows as a log index that can't grow.
fn is_shared_memory_growth(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(failure, _)
        if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
}

/// The next value of a counter.
fn advance(tx: &Transaction<'_>, name: &str) -> rusqlite::Result<i64> {
    tx.prepare_cached("UPDATE counter SET value = value + 1 WHERE name = ?1 RETURNING value")?
        .query_row([name], |row| row.get(0))
}

fn counter(tx: &Transaction<'_>, name: &str) -> rusqlite::Result<i64> {
    tx.prepare_cached("SELECT value FROM counter WHERE name = ?1")?.query_row([name], |row| row.get(0))
}

/// A column that should hold something else.
fn odd(column: usize, what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, what.into())
}

fn id_column(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<[u8; 32]> {
    row.get_ref(column)?.as_blob()?.try_into().map_err(|_| odd(column, "no id of 32 bytes"))
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("lists of strings and numbers are JSON")
}

fn json_column<T: serde::de::DeserializeOwned>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

#[cfg(test)]
mod tests;
