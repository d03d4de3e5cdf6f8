//! Collections and their editions in SQLite.

use headwater_protocol::id::{CollectionId, VersionId};
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{SqliteCatalog, id_column, json, json_column, refuse};
use crate::catalog::{
    AddEditionError, CatalogError, CollectionMember, CollectionRecord, CollectionTable, CreateCollectionError, Edition,
    NewCollection, UnixMs,
};

const COLLECTION: &str = "SELECT name, pattern, labels, every_s, created_at, number, id, made_at
     FROM collection LEFT JOIN edition ON edition.collection = name AND edition.number = last_edition";

fn collection_of(row: &Row<'_>) -> rusqlite::Result<CollectionRecord> {
    let rule = NewCollection {
        name: row.get(0)?,
        pattern: row.get(1)?,
        labels: json_column(row, 2)?,
        every_s: row.get::<_, Option<i64>>(3)?.map(|value| value as u64),
        created_at: UnixMs(row.get::<_, i64>(4)? as u64),
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

impl CollectionTable for SqliteCatalog {
    fn create_collection(&self, new: &NewCollection) -> Result<(), CreateCollectionError> {
        self.write("create a collection", |tx| {
            let inserted = tx.execute(
                "INSERT OR IGNORE INTO collection (name, pattern, labels, every_s, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    new.name,
                    new.pattern,
                    json(&new.labels),
                    new.every_s.map(|value| value as i64),
                    new.created_at.0 as i64
                ],
            )?;
            if inserted == 1 { Ok(()) } else { refuse(CreateCollectionError::Exists(new.name.clone())) }
        })
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
        let mut members = members.to_vec();
        members.sort();
        members.dedup_by(|left, right| left.dataset == right.dataset);
        self.write("add an edition of a collection", |tx| {
            let Some(last) = last_edition(tx, name)? else {
                return refuse(AddEditionError::NoCollection(name.to_owned()));
            };
            let id = Edition::id_of(&members);
            if let Some(same) = find_edition(tx, name, last)?.filter(|edition| edition.id == id) {
                return Ok(same);
            }
            let number = last + 1;
            let mut version = tx.prepare_cached(
                "SELECT 1 FROM version JOIN dataset ON dataset.id = version.dataset
                 WHERE dataset.name = ?1 AND version.number = ?2 AND version.id = ?3",
            )?;
            let mut insert = tx.prepare_cached(
                "INSERT INTO edition_member (collection, edition, dataset, number, version) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for member in &members {
                let of = params![member.dataset, member.number as i64, member.version.as_bytes()];
                if !version.exists(of)? {
                    let (dataset, number) = (member.dataset.clone(), member.number);
                    return refuse(AddEditionError::NoMember { dataset, number });
                }
                insert.execute(params![
                    name,
                    number,
                    member.dataset,
                    member.number as i64,
                    member.version.as_bytes()
                ])?;
            }
            tx.execute(
                "INSERT INTO edition (collection, number, id, made_at) VALUES (?1, ?2, ?3, ?4)",
                params![name, number, id.as_bytes(), made_at.0 as i64],
            )?;
            tx.execute("UPDATE collection SET last_edition = ?2 WHERE name = ?1", params![name, number])?;
            Ok(Edition { number: number as u64, id, made_at, members })
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

    fn drop_editions(&self, name: &str, keep: u64) -> Result<u64, CatalogError> {
        self.write("drop editions", |tx| {
            let Some(last) = last_edition(tx, name)? else { return Ok(0) };
            let newest_dropped = last.saturating_sub_unsigned(keep.max(1));
            tx.execute(
                "DELETE FROM edition_member WHERE collection = ?1 AND edition <= ?2",
                params![name, newest_dropped],
            )?;
            let dropped = tx
                .execute("DELETE FROM edition WHERE collection = ?1 AND number <= ?2", params![name, newest_dropped])?;
            Ok(dropped as u64)
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
