//! What the catalog remembers beside versions: which files were freed, which are to leave, and small values by name.

use headwater_protocol::id::VersionId;
use rusqlite::{OptionalExtension, Transaction, params};

use super::{Catalog, CatalogError, DatasetId};

/// How far back the newest committed version has all that was freed of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreedSince {
    /// What was freed of versions from this number on is in the newest one too.
    pub since: u64,
    /// The newest version that has what was freed and is in no later one: it was deleted, or another file is there now.
    pub left: Option<VersionId>,
}

/// A table of paths.
#[derive(Clone, Copy)]
enum Marks {
    Freed,
    Deletions,
}

impl Marks {
    const fn table(self) -> &'static str {
        match self {
            Self::Freed => "freed",
            Self::Deletions => "deletions",
        }
    }
}

const FREES: &str = "frees";
pub(super) const FREES_MISSED: &str = "frees-missed";

impl Catalog {
    /// Notes that files were freed: they stay in every later version though their bytes are gone from here.
    pub fn put_freed(&self, dataset: DatasetId, paths: &[Vec<u8>]) -> Result<(), CatalogError> {
        self.put_marks(Marks::Freed, dataset, paths)
    }

    /// Takes back [`Catalog::put_freed`] of files that were not freed after all.
    pub fn withdraw_freed(&self, dataset: DatasetId, paths: &[Vec<u8>]) -> Result<(), CatalogError> {
        self.forget_marks(Marks::Freed, dataset, paths)
    }

    /// Notes that files are no longer freed: there are files at their paths. The freed bytes may be in no later version, so
    /// the newest committed one keeps them.
    pub fn forget_freed(&self, dataset: DatasetId, paths: &[Vec<u8>]) -> Result<(), CatalogError> {
        if paths.is_empty() {
            return Ok(());
        }
        self.change_freed(dataset, |transaction| {
            let mut statement = transaction.prepare_cached("DELETE FROM freed WHERE dataset = ?1 AND path = ?2")?;
            paths.iter().map(|path| statement.execute(params![dataset.0, path])).sum()
        })
    }

    /// Notes that the file `path`, or all in the folder `path`, is no longer freed. The newest committed version keeps it.
    pub fn forget_freed_at_or_below(&self, dataset: DatasetId, path: &[u8]) -> Result<(), CatalogError> {
        let (from, to) = below(path);
        self.change_freed(dataset, |transaction| {
            transaction
                .prepare_cached("DELETE FROM freed WHERE dataset = ?1 AND (path = ?2 OR (path >= ?3 AND path < ?4))")?
                .execute(params![dataset.0, path, from, to])
        })
    }

    /// Forgets freed files, and with the first of them notes that no version after the newest committed one has them.
    fn change_freed(
        &self,
        dataset: DatasetId,
        forget: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<usize>,
    ) -> Result<(), CatalogError> {
        let failed = |source| CatalogError::sql("forget freed files", source);
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(failed)?;
        if forget(&transaction).map_err(failed)? > 0 {
            let committed = transaction
                .query_row(
                    "SELECT number, version FROM versions WHERE dataset = ?1 AND state = 2 ORDER BY number DESC LIMIT 1",
                    [dataset.0],
                    |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, Vec<u8>>(1)?)),
                )
                .optional()
                .map_err(failed)?;
            if let Some((number, version)) = committed {
                let value = [&(number + 1).to_le_bytes()[..], &version].concat();
                transaction
                    .execute(
                        "INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)",
                        params![freed_since_key(dataset), value],
                    )
                    .map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)
    }

    /// Whether a file was freed.
    pub fn is_freed(&self, dataset: DatasetId, path: &[u8]) -> Result<bool, CatalogError> {
        self.is_marked(Marks::Freed, dataset, path)
    }

    /// Whether a file in the folder `path` was freed.
    pub fn has_freed_below(&self, dataset: DatasetId, path: &[u8]) -> Result<bool, CatalogError> {
        let (from, to) = below(path);
        self.lock()
            .prepare_cached("SELECT 1 FROM freed WHERE dataset = ?1 AND path >= ?2 AND path < ?3")
            .and_then(|mut statement| statement.exists(params![dataset.0, from, to]))
            .map_err(|source| CatalogError::sql("look up freed files", source))
    }

    /// How far back the newest committed version has all that was freed, if that is known.
    pub fn freed_since(&self, dataset: DatasetId) -> Result<Option<FreedSince>, CatalogError> {
        let Some(bytes) = self.meta(&freed_since_key(dataset))? else { return Ok(None) };
        Ok(bytes
            .split_first_chunk()
            .map(|(since, left)| FreedSince { since: u64::from_le_bytes(*since), left: VersionId::from_slice(left) }))
    }

    /// The same; where it is not known, as after the catalog was lost, nothing is said of versions before `number`.
    pub fn begin_freed_since(&self, dataset: DatasetId, number: u64) -> Result<FreedSince, CatalogError> {
        if let Some(known) = self.freed_since(dataset)? {
            return Ok(known);
        }
        self.put_meta(&freed_since_key(dataset), &number.to_le_bytes())?;
        Ok(FreedSince { since: number, left: None })
    }

    /// How many files of a dataset are freed.
    pub fn freed_count(&self, dataset: DatasetId) -> Result<u64, CatalogError> {
        self.lock()
            .query_row("SELECT COUNT(*) FROM freed WHERE dataset = ?1", [dataset.0], |row| row.get::<_, i64>(0))
            .map(|count| count as u64)
            .map_err(|source| CatalogError::sql("count freed files", source))
    }

    /// Notes what the next version leaves out: paths of records, not folders with all that will ever be in them.
    pub fn put_deletions(&self, dataset: DatasetId, paths: &[Vec<u8>]) -> Result<(), CatalogError> {
        self.put_marks(Marks::Deletions, dataset, paths)
    }

    /// Whether the next version leaves this path out.
    pub fn is_deleted(&self, dataset: DatasetId, path: &[u8]) -> Result<bool, CatalogError> {
        self.is_marked(Marks::Deletions, dataset, path)
    }

    /// The first `count` paths after `after` that the next version leaves out, in the order of their bytes.
    pub fn deletions_after(
        &self,
        dataset: DatasetId,
        after: &[u8],
        count: usize,
    ) -> Result<Vec<Vec<u8>>, CatalogError> {
        let failed = |source| CatalogError::sql("list deletions", source);
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT path FROM deletions WHERE dataset = ?1 AND path > ?2 ORDER BY path LIMIT ?3")
            .map_err(failed)?;
        let rows = statement.query_map(params![dataset.0, after, count as i64], |row| row.get(0)).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    /// Notes that these deletions are done, or void because the files are back.
    pub fn forget_deletions(&self, dataset: DatasetId, paths: &[Vec<u8>]) -> Result<(), CatalogError> {
        self.forget_marks(Marks::Deletions, dataset, paths)
    }

    fn put_marks(&self, marks: Marks, dataset: DatasetId, paths: &[Vec<u8>]) -> Result<(), CatalogError> {
        self.change_paths(
            &format!("INSERT OR IGNORE INTO {} (dataset, path) VALUES (?1, ?2)", marks.table()),
            dataset,
            paths,
        )
    }

    fn forget_marks(&self, marks: Marks, dataset: DatasetId, paths: &[Vec<u8>]) -> Result<(), CatalogError> {
        self.change_paths(&format!("DELETE FROM {} WHERE dataset = ?1 AND path = ?2", marks.table()), dataset, paths)
    }

    fn is_marked(&self, marks: Marks, dataset: DatasetId, path: &[u8]) -> Result<bool, CatalogError> {
        self.lock()
            .prepare_cached(&format!("SELECT 1 FROM {} WHERE dataset = ?1 AND path = ?2", marks.table()))
            .and_then(|mut statement| statement.exists(params![dataset.0, path]))
            .map_err(|source| CatalogError::sql("look up a path", source))
    }

    fn change_paths(&self, statement: &str, dataset: DatasetId, paths: &[Vec<u8>]) -> Result<(), CatalogError> {
        let failed = |source| CatalogError::sql("note paths", source);
        if paths.is_empty() {
            return Ok(());
        }
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(failed)?;
        {
            let mut statement = transaction.prepare_cached(statement).map_err(failed)?;
            for path in paths {
                statement.execute(params![dataset.0, path]).map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)
    }

    /// Notes that it is not known which of a dataset's missing files were freed.
    pub fn begin_recovering(&self, dataset: DatasetId) -> Result<(), CatalogError> {
        self.put_meta(&recovering_key(dataset), b"1")
    }

    /// Whether that is so.
    pub fn is_recovering(&self, dataset: DatasetId) -> Result<bool, CatalogError> {
        Ok(self.meta(&recovering_key(dataset))?.is_some())
    }

    /// Notes that it is known again.
    pub fn end_recovering(&self, dataset: DatasetId) -> Result<(), CatalogError> {
        self.forget_meta(&recovering_key(dataset))
    }

    /// How often files were freed, as far as this catalog knows.
    pub fn frees(&self) -> Result<u64, CatalogError> {
        Ok(self.meta(FREES)?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes))
    }

    /// Keeps that.
    pub fn put_frees(&self, count: u64) -> Result<(), CatalogError> {
        self.put_meta(FREES, &count.to_le_bytes())
    }

    /// Notes that files may have been freed that this catalog does not know of. It never learns of them.
    pub fn note_frees_missed(&self) -> Result<(), CatalogError> {
        self.put_meta(FREES_MISSED, b"1")
    }

    /// Whether that is so.
    pub fn has_missed_frees(&self) -> Result<bool, CatalogError> {
        Ok(self.meta(FREES_MISSED)?.is_some())
    }

    /// A small durable value by name.
    pub fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, CatalogError> {
        self.lock()
            .prepare_cached("SELECT value FROM meta WHERE name = ?1")
            .and_then(|mut statement| statement.query_row([name], |row| row.get(0)).optional())
            .map_err(|source| CatalogError::sql("read a value", source))
    }

    /// Keeps a small durable value.
    pub fn put_meta(&self, name: &str, value: &[u8]) -> Result<(), CatalogError> {
        self.lock()
            .execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)", params![name, value])
            .map(|_| ())
            .map_err(|source| CatalogError::sql("keep a value", source))
    }

    /// Forgets a small value.
    pub fn forget_meta(&self, name: &str) -> Result<(), CatalogError> {
        self.lock()
            .execute("DELETE FROM meta WHERE name = ?1", [name])
            .map(|_| ())
            .map_err(|source| CatalogError::sql("forget a value", source))
    }
}

/// The paths in the folder `path` are from the first of these on, and before the second.
fn below(path: &[u8]) -> (Vec<u8>, Vec<u8>) {
    const AFTER_SLASH: u8 = b'/' + 1;
    ([path, b"/"].concat(), [path, &[AFTER_SLASH]].concat())
}

fn recovering_key(dataset: DatasetId) -> String {
    format!("recovering.{}", dataset.number())
}

/// The name of the value that [`Catalog::freed_since`] gives.
pub(super) fn freed_since_key(dataset: DatasetId) -> String {
    format!("freed-since/{}", dataset.0)
}
