//! The catalog: what this device knows of its datasets, in one SQLite file that can be rebuilt.
//!
//! It holds versions and their pages, stat stamps, an index from chunks to the files that hold them, acknowledgements and
//! events; never file contents, never configuration. What is acknowledged is in it durably (WAL, `synchronous=FULL`)
//! before anything relies on it. All of it can be rebuilt: pages, stamps and chunks from the folders, version numbers,
//! acknowledgements and freed files from the core, subscriptions from their folders; and deletions by command have a file
//! of their own. So a damaged file is set aside and not mourned. All SQL of the agent is in this module.

mod chunks;
mod datasets;
mod error;
mod events;
mod marks;
mod pages;
mod schema;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

pub use chunks::{ChunkHome, NewHome, StagedChunk};
pub use datasets::{DatasetId, DatasetRow, Role, VersionRow, VersionState};
pub use error::CatalogError;
pub use events::{Event, EventLevel};
pub use pages::DatasetPages;
pub(crate) use pages::{pages_below, refers_to_pages};

/// File name of the catalog in the data folder.
pub const CATALOG_FILE: &str = "catalog.db";
/// Cache of SQLite pages, in KiB: small, because the agent's own caches know better what is needed again.
const CACHE_KIB: i64 = 2048;
/// Size to which a checkpointed write-ahead log is cut, in bytes.
const JOURNAL_BYTES_MAX: i64 = 8 << 20;
/// Pages of write-ahead log after which SQLite checkpoints by itself.
const CHECKPOINT_PAGES: i64 = 1000;
/// Freed pages given back to the file system at once.
const VACUUM_PAGES: i64 = 2000;
/// The most pages that SQLite allows a file.
const PAGES_MAX: u32 = 4_294_967_294;
/// How long an operation waits for another process (a person with `sqlite3`) that holds the file.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// Damaged catalogs that are kept for inspection.
const SET_ASIDE_MAX: usize = 3;

/// The open catalog. Operations block; callers in async code use a blocking thread.
pub struct Catalog {
    path: PathBuf,
    connection: Mutex<Connection>,
    suspect: AtomicBool,
}

impl Catalog {
    /// Opens the catalog in `folder`, making it if there is none.
    pub fn open(folder: &Path) -> Result<Self, CatalogError> {
        let path = folder.join(CATALOG_FILE);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection =
            Connection::open_with_flags(&path, flags).map_err(|source| CatalogError::sql("open", source))?;
        prepare(&mut connection)?;
        Ok(Self { path, connection: Mutex::new(connection), suspect: AtomicBool::new(false) })
    }

    /// A catalog in memory, for tests.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Self {
        let mut connection = Connection::open_in_memory().expect("memory");
        prepare(&mut connection).expect("a fresh catalog");
        Self { path: PathBuf::new(), connection: Mutex::new(connection), suspect: AtomicBool::new(false) }
    }

    /// Checks every page of the file: what opening does not, because it reads all of it. Others can use the catalog meanwhile.
    pub fn check(&self) -> Result<(), CatalogError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(&self.path, flags).map_err(|source| CatalogError::sql("be opened", source))?;
        let verdict: String = connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|source| CatalogError::sql("be checked", source))?;
        if verdict == "ok" { Ok(()) } else { Err(CatalogError::damaged(verdict)) }
    }

    /// Bounds the file at so many pages more than it has, as a full disk does in a simulation; none lifts that.
    pub fn limit(&self, more_pages: Option<u32>) -> Result<(), CatalogError> {
        let connection = self.lock();
        let pages: u32 = connection
            .query_row("PRAGMA page_count", [], |row| row.get(0))
            .map_err(|source| CatalogError::sql("say how long it is", source))?;
        let most = more_pages.map_or(PAGES_MAX, |more| pages.saturating_add(more).min(PAGES_MAX));
        run_pragma(&connection, &format!("PRAGMA max_page_count = {most}"))
    }

    /// Gives freed pages back to the file system, and folds the write-ahead log into the file and cuts it.
    pub fn tidy(&self) -> Result<(), CatalogError> {
        let connection = self.lock();
        run_pragma(&connection, &format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
        run_pragma(&connection, "PRAGMA wal_checkpoint(TRUNCATE)")
    }

    /// Whether a page or stamp that should be here was missing or wrong when somebody deep in other code wanted it.
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// Notes such a finding, where the error itself gets lost in another's.
    pub fn suspect(&self) {
        self.suspect.store(true, Ordering::Relaxed);
    }

    /// Keeps others from the catalog, as a long step of work does, until told to stop. False if nobody told it for `longest`.
    #[cfg(test)]
    pub(crate) fn occupy(
        &self,
        begun: &std::sync::mpsc::Sender<()>,
        stop: &std::sync::mpsc::Receiver<()>,
        longest: Duration,
    ) -> bool {
        let _busy = self.lock();
        begun.send(()).expect("heard");
        stop.recv_timeout(longest).is_ok()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere while the lock was held leaves no half-done work: SQLite rolls the transaction back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prepare(connection: &mut Connection) -> Result<(), CatalogError> {
    let failed = |source| CatalogError::sql("open", source);
    connection.busy_timeout(BUSY_WAIT).map_err(failed)?;
    let layout: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if layout > schema::LAYOUT {
        return Err(CatalogError::Newer { found: layout, known: schema::LAYOUT });
    }
    if layout < 0 {
        return Err(CatalogError::damaged(format!("its layout number is {layout}")));
    }
    if layout == 0 {
        run_pragma(connection, "PRAGMA auto_vacuum = INCREMENTAL")?;
    }
    for pragma in [
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA foreign_keys = ON",
        "PRAGMA temp_store = MEMORY",
        &format!("PRAGMA cache_size = -{CACHE_KIB}"),
        &format!("PRAGMA journal_size_limit = {JOURNAL_BYTES_MAX}"),
        &format!("PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}"),
    ] {
        run_pragma(connection, pragma)?;
    }
    if layout < schema::LAYOUT {
        schema::migrations().to_latest(connection).map_err(|error| match error {
            rusqlite_migration::Error::RusqliteError { err, .. } => CatalogError::sql("be brought up to date", err),
            other => CatalogError::damaged(other.to_string()),
        })?;
    }
    check_tables(connection)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn check_tables(connection: &Connection) -> Result<(), CatalogError> {
    let failed = |source| CatalogError::sql("list its tables", source);
    let mut statement = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").map_err(failed)?;
    let names: Vec<String> =
        statement.query_map([], |row| row.get(0)).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    match schema::TABLES.iter().find(|table| !names.iter().any(|name| name == *table)) {
        Some(missing) => Err(CatalogError::damaged(format!("its table `{missing}` is gone"))),
        None => Ok(()),
    }
}

fn run_pragma(connection: &Connection, pragma: &str) -> Result<(), CatalogError> {
    let failed = |source| CatalogError::sql("be set up", source);
    let mut statement = connection.prepare(pragma).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    while rows.next().map_err(failed)?.is_some() {}
    Ok(())
}

/// Moves a damaged catalog and its log out of the way, under a name that tells, and keeps only the newest few.
pub fn set_aside(folder: &Path, stamp: u64) -> Result<PathBuf, CatalogError> {
    let failed = |source| CatalogError::Io { action: "be set aside", source };
    let target = folder.join(format!("{CATALOG_FILE}.damaged-{stamp}"));
    let path = folder.join(CATALOG_FILE);
    if path.exists() {
        std::fs::rename(&path, &target).map_err(failed)?;
    }
    for suffix in ["-wal", "-shm"] {
        let beside = folder.join(format!("{CATALOG_FILE}{suffix}"));
        if beside.exists() {
            std::fs::remove_file(&beside).map_err(failed)?;
        }
    }
    let mut kept: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(failed)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("catalog.db.damaged-")))
        .collect();
    kept.sort();
    while kept.len() > SET_ASIDE_MAX {
        std::fs::remove_file(kept.remove(0)).map_err(failed)?;
    }
    Ok(target)
}

/// Eight bytes that change when any of `parts` does.
pub(super) fn sum_of(parts: &[&[u8]]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut sum = [0; 8];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    sum
}
