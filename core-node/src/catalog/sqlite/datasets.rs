//! Datasets and tags in SQLite, and what devices rely on.

use headwater_protocol::id::{PublicKey, VersionId};
use headwater_protocol::manifest::Totals;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{Abort, SqliteCatalog, id_column, odd, refuse, versions};
use crate::catalog::{
    CatalogError, CommitVersionError, CreateDatasetError, DatasetId, DatasetRecord, DatasetTable, Deletion, DropError,
    Head, NewDataset, NewVersion, Principal, Retention, TagError, TagRecord, UnixMs, VersionRecord, VersionSummary,
};

/// Most devices that a refusal names.
const DEVICES_NAMED_MAX: usize = 100;

const DATASET: &str = "SELECT dataset.id, dataset.name, dataset.writer, keep_last, keep_newer_than_s, created_at,
        version.number, version.id, files, samples, bytes, chunks, committed_at
     FROM dataset LEFT JOIN version ON version.dataset = dataset.id AND version.number = dataset.last_number";

pub(super) fn principal_column(row: &Row<'_>, column: usize) -> rusqlite::Result<Principal> {
    Principal::from_bytes(row.get_ref(column)?.as_blob()?).ok_or_else(|| odd(column, "no principal"))
}

pub(super) fn totals_of(row: &Row<'_>, first: usize) -> rusqlite::Result<Totals> {
    let number = |column| Ok::<_, rusqlite::Error>(row.get::<_, i64>(column)? as u64);
    Ok(Totals {
        files: number(first)?,
        samples: number(first + 1)?,
        bytes: number(first + 2)?,
        chunks: number(first + 3)?,
    })
}

fn dataset_of(row: &Row<'_>) -> rusqlite::Result<DatasetRecord> {
    let head = match row.get::<_, Option<i64>>(6)? {
        None => None,
        Some(number) => Some(Head {
            number: number as u64,
            version: VersionId(id_column(row, 7)?),
            totals: totals_of(row, 8)?,
            committed_at: UnixMs(row.get::<_, i64>(12)? as u64),
        }),
    };
    Ok(DatasetRecord {
        id: DatasetId(row.get::<_, i64>(0)? as u64),
        name: row.get(1)?,
        writer: principal_column(row, 2)?,
        retention: Retention {
            keep_last: row.get::<_, Option<i64>>(3)?.map(|value| value as u64),
            keep_newer_than_s: row.get::<_, Option<i64>>(4)?.map(|value| value as u64),
        },
        created_at: UnixMs(row.get::<_, i64>(5)? as u64),
        head,
    })
}

fn device_column(row: &Row<'_>, column: usize) -> rusqlite::Result<PublicKey> {
    Ok(PublicKey(id_column(row, column)?))
}

/// Refuses if devices have freed bytes of the versions that `filter` picks.
fn check_reliance(tx: &Transaction<'_>, filter: &str, values: &[&dyn rusqlite::ToSql]) -> Result<(), Abort<DropError>> {
    let mut statement = tx.prepare(&format!(
        "SELECT number, device FROM reliance WHERE {filter} AND freed = 1 ORDER BY number, device"
    ))?;
    let rows = statement.query_map(values, |row| Ok((row.get::<_, i64>(0)? as u64, device_column(row, 1)?)))?;
    let (mut versions, mut devices) = (Vec::new(), Vec::new());
    for row in rows {
        let (number, device) = row?;
        if versions.last() != Some(&number) {
            versions.push(number);
        }
        if devices.len() < DEVICES_NAMED_MAX && !devices.contains(&device) {
            devices.push(device);
        }
    }
    if devices.is_empty() { Ok(()) } else { refuse(DropError::LastCopy { versions, devices }) }
}

/// Refuses if a collection holds a version of the dataset. A name may have had other versions before it was deleted and
/// created again, so the version's id counts.
fn check_collected(tx: &Transaction<'_>, dataset: i64) -> Result<(), Abort<DropError>> {
    let holding = tx
        .prepare_cached(
            "SELECT collection, edition FROM edition_member JOIN version USING (number)
                 WHERE edition_member.dataset = (SELECT name FROM dataset WHERE id = ?1)
                     AND version.dataset = ?1 AND version.id = edition_member.version
                 ORDER BY collection, edition DESC LIMIT 1",
        )?
        .query_row([dataset], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))
        .optional()?;
    match holding {
        Some((collection, number)) => refuse(DropError::Collected { collection, number }),
        None => Ok(()),
    }
}

/// Refuses if something keeps the version.
fn check_drop(tx: &Transaction<'_>, dataset: DatasetId, number: u64, last_copy: bool) -> Result<(), Abort<DropError>> {
    let key = params![dataset.0 as i64, number as i64];
    if !tx.prepare_cached("SELECT 1 FROM version WHERE dataset = ?1 AND number = ?2")?.exists(key)? {
        return refuse(DropError::NotFound);
    }
    if tx.prepare_cached("SELECT 1 FROM dataset WHERE id = ?1 AND last_number = ?2")?.exists(key)? {
        return refuse(DropError::Newest { number });
    }
    let kept_by: Option<String> = tx
        .prepare_cached(
            "SELECT name FROM tag WHERE dataset = ?1 AND number = ?2
             UNION ALL SELECT collection || '@' || edition FROM edition_member
                 WHERE dataset = (SELECT name FROM dataset WHERE id = ?1) AND number = ?2
                     AND version = (SELECT id FROM version WHERE dataset = ?1 AND number = ?2) LIMIT 1",
        )?
        .query_row(key, |row| row.get(0))
        .optional()?;
    if let Some(tag) = kept_by {
        return refuse(DropError::Tagged { number, tag });
    }
    if !last_copy {
        let (dataset, number) = (dataset.0 as i64, number as i64);
        check_reliance(tx, "dataset = ?1 AND number = ?2", &[&dataset, &number])?;
    }
    Ok(())
}

fn drop_version(tx: &Transaction<'_>, dataset: DatasetId, number: u64) -> rusqlite::Result<()> {
    let key = params![dataset.0 as i64, number as i64];
    for table in ["version", "reliance"] {
        tx.prepare_cached(&format!("DELETE FROM {table} WHERE dataset = ?1 AND number = ?2"))?.execute(key)?;
    }
    Ok(())
}

impl SqliteCatalog {
    fn one_dataset(&self, filter: &str, value: &dyn rusqlite::ToSql) -> Result<Option<DatasetRecord>, CatalogError> {
        self.read("read a dataset", |tx| {
            tx.prepare_cached(&format!("{DATASET} WHERE {filter}"))?.query_row([value], dataset_of).optional()
        })
    }
}

impl DatasetTable for SqliteCatalog {
    fn create_dataset(&self, new: &NewDataset) -> Result<DatasetRecord, CreateDatasetError> {
        self.write("create a dataset", |tx| {
            let writer = tx
                .query_row("SELECT writer FROM dataset WHERE name = ?1", [&new.name], |row| principal_column(row, 0))
                .optional()?;
            if let Some(writer) = writer {
                return refuse(CreateDatasetError::Exists { name: new.name.clone(), writer });
            }
            tx.execute(
                "INSERT INTO dataset (name, writer, keep_last, keep_newer_than_s, created_at, last_number)
                 VALUES (?1, ?2, ?3, ?4, ?5, coalesce((SELECT last_number FROM ended WHERE name = ?1), 0))",
                params![
                    new.name,
                    new.writer.as_bytes(),
                    new.retention.keep_last.map(|value| value as i64),
                    new.retention.keep_newer_than_s.map(|value| value as i64),
                    new.created_at.0 as i64
                ],
            )?;
            Ok(DatasetRecord {
                id: DatasetId(tx.last_insert_rowid() as u64),
                name: new.name.clone(),
                writer: new.writer,
                retention: new.retention,
                created_at: new.created_at,
                head: None,
            })
        })
    }

    fn dataset(&self, name: &str) -> Result<Option<DatasetRecord>, CatalogError> {
        self.one_dataset("dataset.name = ?1", &name)
    }

    fn dataset_by_id(&self, id: DatasetId) -> Result<Option<DatasetRecord>, CatalogError> {
        self.one_dataset("dataset.id = ?1", &(id.0 as i64))
    }

    fn last_number(&self, name: &str) -> Result<u64, CatalogError> {
        self.read("read a dataset's last number", |tx| {
            let mut statement = tx.prepare_cached(
                "SELECT last_number FROM dataset WHERE name = ?1 UNION ALL SELECT last_number FROM ended WHERE name = ?1",
            )?;
            let number = statement.query_row([name], |row| row.get::<_, i64>(0)).optional()?;
            Ok(number.unwrap_or(0) as u64)
        })
    }

    fn datasets(&self) -> Result<Vec<DatasetRecord>, CatalogError> {
        self.read("list datasets", |tx| {
            let mut statement = tx.prepare_cached(&format!("{DATASET} ORDER BY dataset.name"))?;
            let rows = statement.query_map([], dataset_of)?;
            rows.collect()
        })
    }

    fn hand_over(&self, id: DatasetId, from: Principal, to: Principal) -> Result<bool, CatalogError> {
        self.write("hand a dataset over", |tx| {
            let changed = tx.execute(
                "UPDATE dataset SET writer = ?3 WHERE id = ?1 AND writer = ?2",
                params![id.0 as i64, from.as_bytes(), to.as_bytes()],
            )?;
            Ok(changed == 1)
        })
    }

    fn set_retention(&self, id: DatasetId, retention: Retention) -> Result<(), CatalogError> {
        self.write("set what a dataset keeps", |tx| {
            tx.execute(
                "UPDATE dataset SET keep_last = ?2, keep_newer_than_s = ?3 WHERE id = ?1",
                params![
                    id.0 as i64,
                    retention.keep_last.map(|value| value as i64),
                    retention.keep_newer_than_s.map(|value| value as i64)
                ],
            )?;
            Ok(())
        })
    }

    fn delete_dataset(&self, id: DatasetId, with: Deletion) -> Result<(), DropError> {
        let key = id.0 as i64;
        self.write("delete a dataset", |tx| {
            if let Some(expected) = with.newest {
                let number: Option<i64> =
                    tx.query_row("SELECT MAX(number) FROM version WHERE dataset = ?1", [key], |row| row.get(0))?;
                if let Some(number) = number.map(|number| number as u64).filter(|number| *number != expected) {
                    return refuse(DropError::Newest { number });
                }
            }
            if !with.last_copy {
                check_reliance(tx, "dataset = ?1", &[&key])?;
            }
            if !with.collected {
                check_collected(tx, key)?;
            }
            tx.execute(
                "INSERT OR REPLACE INTO ended (name, last_number)
                 SELECT name, last_number FROM dataset WHERE id = ?1 AND last_number > 0",
                [key],
            )?;
            if tx.execute("DELETE FROM dataset WHERE id = ?1", [key])? == 0 {
                return refuse(DropError::NotFound);
            }
            for table in ["version", "tag", "reliance", "member"] {
                tx.execute(&format!("DELETE FROM {table} WHERE dataset = ?1"), [key])?;
            }
            Ok(())
        })
    }

    fn commit_version(&self, new: &NewVersion) -> Result<(), CommitVersionError> {
        self.write("commit a version", |tx| versions::commit(tx, new))
    }

    fn version(&self, dataset: DatasetId, number: u64) -> Result<Option<VersionRecord>, CatalogError> {
        self.read("read a version", |tx| versions::by_number(tx, dataset, number))
    }

    fn version_by_id(&self, dataset: DatasetId, version: &VersionId) -> Result<Option<VersionRecord>, CatalogError> {
        self.read("read a version", |tx| versions::by_id(tx, dataset, version))
    }

    fn versions(
        &self,
        dataset: DatasetId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<VersionSummary>, CatalogError> {
        self.read("list versions", |tx| versions::list(tx, dataset, before, limit))
    }

    fn count_versions(&self, dataset: DatasetId) -> Result<u64, CatalogError> {
        self.read("count versions", |tx| {
            let mut statement = tx.prepare_cached("SELECT count(*) FROM version WHERE dataset = ?1")?;
            statement.query_row([dataset.0 as i64], |row| Ok(row.get::<_, i64>(0)? as u64))
        })
    }

    fn may_drop(&self, dataset: DatasetId, number: u64, last_copy: bool) -> Result<(), DropError> {
        self.write("ask whether a version may be dropped", |tx| check_drop(tx, dataset, number, last_copy))
    }

    fn drop_versions(&self, dataset: DatasetId, numbers: &[u64], last_copy: bool) -> Result<(), DropError> {
        self.write("drop versions", |tx| {
            for &number in numbers {
                check_drop(tx, dataset, number, last_copy)?;
                drop_version(tx, dataset, number)?;
            }
            tx.execute("UPDATE dataset SET trim = 1 WHERE id = ?1", [dataset.0 as i64])?;
            Ok(())
        })
    }

    fn note_freed(&self, device: &PublicKey, dataset: DatasetId, number: u64, since: u64) -> Result<(), CatalogError> {
        self.write("note that a device freed bytes", |tx| {
            tx.execute(
                "INSERT INTO reliance (dataset, number, device, freed) SELECT dataset, number, ?3, 1 FROM version
                     WHERE dataset = ?1 AND number = ?2
                 ON CONFLICT (dataset, number, device) DO UPDATE SET freed = 1",
                params![dataset.0 as i64, number as i64, device.0],
            )?;
            tx.execute(
                "UPDATE reliance SET freed = 0 WHERE dataset = ?1 AND number >= ?4 AND number < ?2 AND device = ?3
                     AND EXISTS (SELECT 1 FROM version WHERE dataset = ?1 AND number = ?2)",
                // A number that is too large for the column is later than any version.
                params![dataset.0 as i64, number as i64, device.0, i64::try_from(since).unwrap_or(i64::MAX)],
            )?;
            Ok(())
        })
    }

    fn tag(&self, dataset: DatasetId, tag: &TagRecord, replace: bool) -> Result<(), TagError> {
        let (key, number) = (dataset.0 as i64, tag.number as i64);
        self.write("set a tag", |tx| {
            let mut version = tx.prepare_cached("SELECT 1 FROM version WHERE dataset = ?1 AND number = ?2")?;
            if !version.exists([key, number])? {
                return refuse(TagError::NoVersion { number: tag.number });
            }
            let before: Option<i64> = tx
                .query_row("SELECT number FROM tag WHERE dataset = ?1 AND name = ?2", params![key, tag.name], |row| {
                    row.get(0)
                })
                .optional()?;
            match before {
                Some(same) if same == number => return Ok(()),
                Some(other) if !replace => {
                    return refuse(TagError::Taken { name: tag.name.clone(), number: other as u64 });
                }
                _ => {}
            }
            tx.execute(
                "INSERT OR REPLACE INTO tag (dataset, name, number, tagged_at) VALUES (?1, ?2, ?3, ?4)",
                params![key, tag.name, number, tag.tagged_at.0 as i64],
            )?;
            Ok(())
        })
    }

    fn untag(&self, dataset: DatasetId, name: &str) -> Result<bool, CatalogError> {
        self.write("remove a tag", |tx| {
            Ok(tx.execute("DELETE FROM tag WHERE dataset = ?1 AND name = ?2", params![dataset.0 as i64, name])? == 1)
        })
    }

    fn tags(&self, dataset: DatasetId) -> Result<Vec<TagRecord>, CatalogError> {
        self.read("list tags", |tx| {
            let mut statement =
                tx.prepare_cached("SELECT name, number, tagged_at FROM tag WHERE dataset = ?1 ORDER BY name")?;
            let rows = statement.query_map([dataset.0 as i64], |row| {
                Ok(TagRecord {
                    name: row.get(0)?,
                    number: row.get::<_, i64>(1)? as u64,
                    tagged_at: UnixMs(row.get::<_, i64>(2)? as u64),
                })
            })?;
            rows.collect()
        })
    }
}
