//! Chunks, packs, pins and membership in SQLite.

use std::collections::HashSet;

use headwater_protocol::id::ChunkId;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{Abort, SqliteCatalog, counter, id_column, odd, refuse};
use crate::catalog::{
    AdoptGroup, AdoptedChunk, CatalogError, ChunkCodec, ChunkEntry, ChunkLocation, ChunkMove, ChunkTable, DatasetId,
    PackNumber, PackRecord, PackState, Pin, Scope, UnixMs,
};

/// Up to so many datasets are asked about one by one; with more, those that hold the chunk are gone through instead.
const SCOPE_POINT_LOOKUPS_MAX: usize = 16;

const ENTRY: &str = "SELECT key, id, pack, offset, stored_bytes, plain_bytes, codec, damaged FROM chunk";

pub(super) fn entry_of(row: &Row<'_>) -> rusqlite::Result<(i64, ChunkEntry)> {
    let location = ChunkLocation {
        pack: PackNumber(row.get::<_, i64>(2)? as u64),
        offset: row.get::<_, i64>(3)? as u64,
        stored_bytes: row.get(4)?,
        plain_bytes: row.get(5)?,
        codec: ChunkCodec::from_byte(row.get(6)?).ok_or_else(|| odd(6, "no codec"))?,
    };
    Ok((row.get(0)?, ChunkEntry { id: ChunkId(id_column(row, 1)?), location, damaged: row.get(7)? }))
}

fn find(tx: &Transaction<'_>, id: &ChunkId) -> rusqlite::Result<Option<(i64, ChunkEntry)>> {
    tx.prepare_cached(&format!("{ENTRY} WHERE id = ?1"))?.query_row([id.as_bytes()], entry_of).optional()
}

fn is_visible(
    tx: &Transaction<'_>,
    scope: &Scope,
    wide: Option<&HashSet<i64>>,
    key: i64,
    now: UnixMs,
) -> rusqlite::Result<bool> {
    if scope.everything {
        return Ok(true);
    }
    if let Some(uploader) = &scope.uploader {
        let mut pinned =
            tx.prepare_cached("SELECT 1 FROM pin WHERE chunk = ?1 AND principal = ?2 AND expires_at > ?3")?;
        if pinned.exists(params![key, uploader.as_bytes(), now.0 as i64])? {
            return Ok(true);
        }
    }
    if let Some(wide) = wide {
        let mut holding = tx.prepare_cached("SELECT dataset FROM member WHERE chunk = ?1")?;
        let mut rows = holding.query([key])?;
        while let Some(row) = rows.next()? {
            if wide.contains(&row.get(0)?) {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    let mut member = tx.prepare_cached("SELECT 1 FROM member WHERE chunk = ?1 AND dataset = ?2")?;
    for dataset in &scope.datasets {
        if member.exists(params![key, dataset.0 as i64])? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn adopt_chunk(tx: &Transaction<'_>, chunk: &AdoptedChunk, epoch: i64) -> rusqlite::Result<()> {
    let at = &chunk.location;
    tx.prepare_cached(
        "INSERT INTO chunk (id, pack, offset, stored_bytes, plain_bytes, codec, damaged, epoch)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7)
         ON CONFLICT (id) DO UPDATE SET pack = excluded.pack, offset = excluded.offset,
             stored_bytes = excluded.stored_bytes, plain_bytes = excluded.plain_bytes, codec = excluded.codec,
             damaged = 0, epoch = excluded.epoch
         WHERE damaged = 1",
    )?
    .execute(params![
        chunk.id.as_bytes(),
        at.pack.0 as i64,
        at.offset as i64,
        at.stored_bytes,
        at.plain_bytes,
        at.codec as u8,
        epoch
    ])?;
    Ok(())
}

fn add_pin(tx: &Transaction<'_>, pin: &Pin, epoch: i64) -> Result<(), Abort<CatalogError>> {
    let mut touch = tx.prepare_cached("UPDATE chunk SET epoch = ?2 WHERE key = ?1 AND epoch < ?2")?;
    let mut key_of = tx.prepare_cached("SELECT key FROM chunk WHERE id = ?1")?;
    let mut insert = tx.prepare_cached(
        "INSERT INTO pin (chunk, principal, expires_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (chunk, principal) DO UPDATE SET expires_at = max(expires_at, excluded.expires_at)",
    )?;
    for id in &pin.chunks {
        let Some(key) = key_of.query_row([id.as_bytes()], |row| row.get::<_, i64>(0)).optional()? else {
            let detail = format!("chunk {} was pinned before it was entered", id.short());
            return refuse(CatalogError::Damaged { action: "pin chunks", detail });
        };
        insert.execute(params![key, pin.principal.as_bytes(), pin.expires_at.0 as i64])?;
        touch.execute(params![key, epoch])?;
    }
    Ok(())
}

fn set_pack_end(tx: &Transaction<'_>, pack: PackNumber, end_bytes: u64) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO pack (number, state, end_bytes) VALUES (?1, 0, ?2)
         ON CONFLICT (number) DO UPDATE SET end_bytes = max(end_bytes, excluded.end_bytes)",
    )?
    .execute(params![pack.0 as i64, end_bytes as i64])?;
    Ok(())
}

fn any_member_damaged(tx: &Transaction<'_>, dataset: DatasetId) -> rusqlite::Result<bool> {
    tx.prepare_cached(
        "SELECT 1 FROM chunk INDEXED BY chunk_damaged CROSS JOIN member ON member.chunk = chunk.key
         WHERE chunk.damaged = 1 AND member.dataset = ?1 LIMIT 1",
    )?
    .exists([dataset.0 as i64])
}

/// Whether `id` is a stored, undamaged page of `dataset`.
pub(super) fn is_page_of(tx: &Transaction<'_>, dataset: DatasetId, id: &ChunkId) -> rusqlite::Result<bool> {
    tx.prepare_cached(
        "SELECT 1 FROM chunk JOIN member ON member.chunk = chunk.key
         WHERE chunk.id = ?1 AND member.dataset = ?2 AND member.page = 1 AND chunk.damaged = 0",
    )?
    .exists(params![id.as_bytes(), dataset.0 as i64])
}

impl ChunkTable for SqliteCatalog {
    fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkEntry>>, CatalogError> {
        self.read("locate chunks", |tx| ids.iter().map(|id| Ok(find(tx, id)?.map(|(_, entry)| entry))).collect())
    }

    fn locate_visible(
        &self,
        scope: &Scope,
        ids: &[ChunkId],
        now: UnixMs,
    ) -> Result<Vec<Option<ChunkEntry>>, CatalogError> {
        let wide: Option<HashSet<i64>> = (scope.datasets.len() > SCOPE_POINT_LOOKUPS_MAX)
            .then(|| scope.datasets.iter().map(|dataset| dataset.0 as i64).collect());
        self.read("look for visible chunks", |tx| {
            let look = |id| match find(tx, id)? {
                Some((key, entry)) if is_visible(tx, scope, wide.as_ref(), key, now)? => Ok(Some(entry)),
                _ => Ok(None),
            };
            ids.iter().map(look).collect()
        })
    }

    fn pages_complete(&self, dataset: DatasetId, ids: &[ChunkId]) -> Result<Vec<bool>, CatalogError> {
        self.read("look for complete pages", |tx| {
            if any_member_damaged(tx, dataset)? {
                return Ok(vec![false; ids.len()]);
            }
            ids.iter().map(|id| is_page_of(tx, dataset, id)).collect()
        })
    }

    fn adopt(&self, group: &AdoptGroup) -> Result<(), CatalogError> {
        self.write("enter chunks", |tx| {
            let epoch = counter(tx, "epoch")?;
            for chunk in &group.chunks {
                adopt_chunk(tx, chunk, epoch)?;
            }
            for pin in &group.pins {
                add_pin(tx, pin, epoch)?;
            }
            for &(pack, end_bytes) in &group.pack_ends {
                set_pack_end(tx, pack, end_bytes)?;
            }
            Ok(())
        })
    }

    fn relocate(&self, moves: &[ChunkMove], pack_end: (PackNumber, u64)) -> Result<u64, CatalogError> {
        self.write("move chunks", |tx| {
            let mut update = tx.prepare_cached(
                "UPDATE chunk SET pack = ?4, offset = ?5, stored_bytes = ?6, plain_bytes = ?7, codec = ?8, damaged = 0
                 WHERE id = ?1 AND pack = ?2 AND offset = ?3",
            )?;
            let mut moved = 0;
            for step in moves {
                moved += update.execute(params![
                    step.id.as_bytes(),
                    step.from.pack.0 as i64,
                    step.from.offset as i64,
                    step.to.pack.0 as i64,
                    step.to.offset as i64,
                    step.to.stored_bytes,
                    step.to.plain_bytes,
                    step.to.codec as u8
                ])? as u64;
            }
            set_pack_end(tx, pack_end.0, pack_end.1)?;
            Ok(moved)
        })
    }

    fn mark_damaged(&self, id: &ChunkId, location: &ChunkLocation) -> Result<bool, CatalogError> {
        self.write("set a damaged chunk aside", |tx| {
            let changed = tx.execute(
                "UPDATE chunk SET damaged = 1 WHERE id = ?1 AND pack = ?2 AND offset = ?3 AND damaged = 0",
                params![id.as_bytes(), location.pack.0 as i64, location.offset as i64],
            )?;
            Ok(changed == 1)
        })
    }

    fn damaged(&self) -> Result<Vec<ChunkEntry>, CatalogError> {
        self.read("list damaged chunks", |tx| {
            let mut statement = tx.prepare_cached(&format!("{ENTRY} WHERE damaged = 1 ORDER BY pack, offset"))?;
            let rows = statement.query_map([], |row| Ok(entry_of(row)?.1))?;
            rows.collect()
        })
    }

    fn datasets_holding(&self, id: &ChunkId) -> Result<Vec<DatasetId>, CatalogError> {
        self.read("look for the datasets of a chunk", |tx| {
            let mut statement = tx.prepare_cached(
                "SELECT dataset FROM member JOIN chunk ON chunk.key = member.chunk WHERE chunk.id = ?1 ORDER BY dataset",
            )?;
            let rows = statement.query_map([id.as_bytes()], |row| Ok(DatasetId(row.get::<_, i64>(0)? as u64)))?;
            rows.collect()
        })
    }

    fn packs(&self) -> Result<Vec<PackRecord>, CatalogError> {
        self.read("list packs", |tx| {
            let mut statement =
                tx.prepare_cached("SELECT number, state, identity, end_bytes FROM pack ORDER BY number")?;
            let rows = statement.query_map([], |row| {
                let state = match row.get::<_, i64>(1)? {
                    0 => PackState::Open,
                    1 => PackState::Sealed(id_column(row, 2)?),
                    2 => PackState::Dropped,
                    _ => return Err(odd(1, "no state of a pack")),
                };
                let number = PackNumber(row.get::<_, i64>(0)? as u64);
                Ok(PackRecord { number, state, end_bytes: row.get::<_, i64>(3)? as u64 })
            })?;
            rows.collect()
        })
    }

    fn put_pack(&self, pack: &PackRecord) -> Result<(), CatalogError> {
        let (state, identity) = match &pack.state {
            PackState::Open => (0, None),
            PackState::Sealed(identity) => (1, Some(identity)),
            PackState::Dropped => (2, None),
        };
        self.write("enter a pack", |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO pack (number, state, identity, end_bytes) VALUES (?1, ?2, ?3, ?4)",
                params![pack.number.0 as i64, state, identity, pack.end_bytes as i64],
            )?;
            Ok(())
        })
    }

    fn forget_pack(&self, pack: PackNumber) -> Result<(), CatalogError> {
        self.write("forget a pack", |tx| {
            tx.execute("DELETE FROM pack WHERE number = ?1", [pack.0 as i64])?;
            Ok(())
        })
    }

    fn chunks_in_pack(
        &self,
        pack: PackNumber,
        from_offset: u64,
        limit: usize,
    ) -> Result<Vec<ChunkEntry>, CatalogError> {
        self.read("list the chunks of a pack", |tx| {
            let mut statement =
                tx.prepare_cached(&format!("{ENTRY} WHERE pack = ?1 AND offset >= ?2 ORDER BY offset LIMIT ?3"))?;
            let rows = statement
                .query_map(params![pack.0 as i64, from_offset as i64, limit as i64], |row| Ok(entry_of(row)?.1))?;
            rows.collect()
        })
    }
}
