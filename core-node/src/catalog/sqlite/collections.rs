//! Collections and their editions in SQLite.

use headwater_protocol::id::{CollectionId, VersionId};
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{SqliteCatalog, id_column, json, json_column, refuse};
use crate::catalog::{
    AddEditionError, CatalogError, CollectionMember, CollectionRecord, CollectionTable, CreateCollectionError, Edition,
    NewCollection, UnixMs,
};

const COLLECTION: &str = "SELECT name, pattern, labels, every_s, created_at, number, id, made_at, keep
     FROM collection LEFT JOIN edition ON edition.collection = name AND edition.number = last_edition";

fn collection_of(row: &Row<'_>) -> rusqlite::Result<CollectionRecord> {
    let rule = NewCollection {
        name: row.get(0)?,
        pattern: row.get(1)?,
        labels: json_column(row, 2)?,
        every_s: row.get::<_, Option<i64>>(3)?.map(|value| value as u64),
        created_at: UnixMs(row.get::<_, i64>(4)? as u64),
        keep: row.get::<_, Option<i64>>(8)?.map(|value| value as u64),
    };
    let latest = match row.get::<_, Option<i64>>(5)? {
        None => None,
        Some(number) => Some((number as u64, CollectionId(id_column(row, 6)?), UnixMs(row.get::<_, i64>(7)? as u64))),
    };
    Ok(CollectionRecord { rule, latest })
}

fn find_edition(tx: &Transaction<'_>, name: &str, number: i64) -> rusqlite::Result<Option<Edition>> {
    let head = tx
        .prepare_cached("SELECT id, made_at FROM edition WHERE collection = ?1 AND number = ?2")?
        .query_row(params![name, number], |row| Ok((id_column(row, 0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let Some((id, made_at)) = head else { return Ok(None) };
    let mut statement = tx.prepare_cached(
        "SELECT dataset, number, version FROM edition_member WHERE collection = ?1 AND edition = ?2 ORDER BY dataset",
    )?;
    let rows = statement.query_map(params![name, number], |row| {
        Ok(CollectionMember {
            dataset: row.get(0)?,
            number: row.get::<_, i64>(1)? as u64,
            version: VersionId(id_column(row, 2)?),
        })
    })?;
    let members = rows.collect::<rusqlite::Result<_>>()?;
    Ok(Some(Edition { number: number as u64, id: CollectionId(id), made_at: UnixMs(made_at as u64), members }))
}

fn last_edition(tx: &Transaction<'_>, name: &str) -> rusqlite::Result<Option<i64>> {
    tx.prepare_cached("SELECT last_edition FROM collection WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

/// A member that is not a committed version of its dataset.
struct NoMember {
    dataset: String,
    number: u64,
}

/// Enters edition `number`, or names the member that doesn't exist.
fn enter_edition(
    tx: &Transaction<'_>,
    name: &str,
    edition: &Edition,
    keep: Option<u64>,
) -> rusqlite::Result<Result<(), NoMember>> {
    let mut version = tx.prepare_cached(
        "SELECT 1 FROM version JOIN dataset ON dataset.id = version.dataset
         WHERE dataset.name = ?1 AND version.number = ?2 AND version.id = ?3",
    )?;
    let mut insert = tx.prepare_cached(
        "INSERT INTO edition_member (collection, edition, dataset, number, version) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let number = edition.number as i64;
    for member in &edition.members {
        let (of, id) = (member.number as i64, member.version.as_bytes());
        if !version.exists(params![member.dataset, of, id])? {
            return Ok(Err(NoMember { dataset: member.dataset.clone(), number: member.number }));
        }
        insert.execute(params![name, number, member.dataset, of, id])?;
    }
    tx.execute(
        "INSERT INTO edition (collection, number, id, made_at) VALUES (?1, ?2, ?3, ?4)",
        params![name, number, edition.id.as_bytes(), edition.made_at.0 as i64],
    )?;
    tx.execute("UPDATE collection SET last_edition = ?2 WHERE name = ?1", params![name, number])?;
    if let Some(keep) = keep {
        let newest_dropped = number.saturating_sub_unsigned(keep.max(1));
        tx.execute(
            "DELETE FROM edition_member WHERE collection = ?1 AND edition <= ?2",
            params![name, newest_dropped],
        )?;
        tx.execute("DELETE FROM edition WHERE collection = ?1 AND number <= ?2", params![name, newest_dropped])?;
    }
    Ok(Ok(()))
}

impl CollectionTable for SqliteCatalog {
    fn create_collection(
        &self,
        new: &NewCollection,
        members: &[CollectionMember],
    ) -> Result<Edition, CreateCollectionError> {
        let first = Edition::of(1, members, new.created_at);
        self.write("create a collection", |tx| {
            let inserted = tx.execute(
                "INSERT OR IGNORE INTO collection (name, pattern, labels, every_s, keep, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    new.name,
                    new.pattern,
                    json(&new.labels),
                    new.every_s.map(|value| value as i64),
                    new.keep.map(|value| value as i64),
                    new.created_at.0 as i64
                ],
            )?;
            if inserted == 0 {
                return refuse(CreateCollectionError::Exists(new.name.clone()));
            }
            match enter_edition(tx, &new.name, &first, new.keep)? {
                Ok(()) => Ok(()),
                Err(NoMember { dataset, number }) => refuse(CreateCollectionError::NoMember { dataset, number }),
            }
        })?;
        Ok(first)
    }

    fn collections(&self) -> Result<Vec<CollectionRecord>, CatalogError> {
        self.read("list collections", |tx| {
            let mut statement = tx.prepare_cached(&format!("{COLLECTION} ORDER BY name"))?;
            let rows = statement.query_map([], collection_of)?;
            rows.collect()
        })
    }

    fn collection(&self, name: &str) -> Result<Option<CollectionRecord>, CatalogError> {
        self.read("read a collection", |tx| {
            tx.prepare_cached(&format!("{COLLECTION} WHERE name = ?1"))?.query_row([name], collection_of).optional()
        })
    }

    fn add_edition(
        &self,
        name: &str,
        members: &[CollectionMember],
        made_at: UnixMs,
    ) -> Result<Edition, AddEditionError> {
        self.write("add an edition of a collection", |tx| {
            let found = tx
                .prepare_cached(&format!("{COLLECTION} WHERE name = ?1"))?
                .query_row([name], collection_of)
                .optional()?;
            let Some(collection) = found else { return refuse(AddEditionError::NoCollection(name.to_owned())) };
            let last = last_edition(tx, name)?.unwrap_or_default();
            let edition = Edition::of(last as u64 + 1, members, made_at);
            if let Some(same) = find_edition(tx, name, last)?.filter(|newest| newest.id == edition.id) {
                return Ok(same);
            }
            match enter_edition(tx, name, &edition, collection.rule.keep)? {
                Ok(()) => Ok(edition),
                Err(NoMember { dataset, number }) => refuse(AddEditionError::NoMember { dataset, number }),
            }
        })
    }

    fn edition(&self, name: &str, number: Option<u64>) -> Result<Option<Edition>, CatalogError> {
        self.read("read an edition", |tx| {
            let number = match number {
                Some(number) => Some(number as i64),
                None => last_edition(tx, name)?,
            };
            number.map_or(Ok(None), |number| find_edition(tx, name, number))
        })
    }

    fn delete_collection(&self, name: &str) -> Result<bool, CatalogError> {
        self.write("delete a collection", |tx| {
            for table in ["edition_member", "edition"] {
                tx.execute(&format!("DELETE FROM {table} WHERE collection = ?1"), [name])?;
            }
            Ok(tx.execute("DELETE FROM collection WHERE name = ?1", [name])? == 1)
        })
    }
}
