//! What gc asks, in SQLite.

use headwater_protocol::id::{ChunkId, VersionId};
use rusqlite::{Transaction, params};

use super::{Abort, SqliteCatalog, advance, counter, id_column, refuse};
use crate::catalog::{
    CatalogError, CollectorTable, DatasetId, Lease, PackNumber, PackSweep, Root, Roots, SweepError, UnixMs,
};

fn check_sequence(tx: &Transaction<'_>, sequence: u64) -> Result<(), Abort<SweepError>> {
    if counter(tx, "root_sequence")? as u64 == sequence { Ok(()) } else { refuse(SweepError::RootsChanged) }
}

impl CollectorTable for SqliteCatalog {
    fn begin_collection(&self, now: UnixMs) -> Result<u64, CatalogError> {
        self.write("begin a collection", |tx| {
            tx.execute("DELETE FROM pin WHERE expires_at <= ?1", [now.0 as i64])?;
            tx.execute("DELETE FROM lease WHERE expires_at <= ?1", [now.0 as i64])?;
            Ok(advance(tx, "epoch")? as u64)
        })
    }

    fn roots(&self, sequence: u64) -> Result<Roots, CatalogError> {
        self.read("list roots", |tx| {
            let mut statement = tx.prepare_cached(
                "SELECT dataset, root, number FROM version WHERE sequence > ?1 AND root IS NOT NULL
                 UNION ALL SELECT NULL, root, NULL FROM lease WHERE sequence > ?1 AND root IS NOT NULL",
            )?;
            let rows = statement.query_map([sequence as i64], |row| {
                let dataset = row.get::<_, Option<i64>>(0)?.map(|id| DatasetId(id as u64));
                let version = dataset.zip(row.get::<_, Option<i64>>(2)?.map(|number| number as u64));
                Ok(Root { version, page: ChunkId(id_column(row, 1)?) })
            })?;
            let roots = rows.collect::<rusqlite::Result<_>>()?;
            Ok(Roots { sequence: counter(tx, "root_sequence")? as u64, roots })
        })
    }

    fn each_pinned(&self, visit: &mut dyn FnMut(ChunkId)) -> Result<(), CatalogError> {
        self.read("list pinned chunks", |tx| {
            let mut statement = tx.prepare_cached("SELECT chunk.id FROM pin JOIN chunk ON chunk.key = pin.chunk")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                visit(ChunkId(id_column(row, 0)?));
            }
            Ok(())
        })
    }

    fn datasets_to_trim(&self) -> Result<Vec<DatasetId>, CatalogError> {
        self.read("list datasets to trim", |tx| {
            let mut statement = tx.prepare_cached("SELECT id FROM dataset WHERE trim = 1 ORDER BY id")?;
            let rows = statement.query_map([], |row| Ok(DatasetId(row.get::<_, i64>(0)? as u64)))?;
            rows.collect()
        })
    }

    fn trim_members(
        &self,
        dataset: DatasetId,
        sequence: u64,
        keep: &dyn Fn(&ChunkId) -> bool,
    ) -> Result<u64, SweepError> {
        self.write("trim a dataset's members", |tx| {
            check_sequence(tx, sequence)?;
            let mut unwanted = Vec::new();
            {
                let mut statement = tx.prepare_cached(
                    "SELECT member.chunk, chunk.id FROM member JOIN chunk ON chunk.key = member.chunk
                     WHERE member.dataset = ?1",
                )?;
                let mut rows = statement.query([dataset.0 as i64])?;
                while let Some(row) = rows.next()? {
                    if !keep(&ChunkId(id_column(row, 1)?)) {
                        unwanted.push(row.get::<_, i64>(0)?);
                    }
                }
            }
            let mut delete = tx.prepare_cached("DELETE FROM member WHERE chunk = ?1 AND dataset = ?2")?;
            for key in &unwanted {
                delete.execute(params![key, dataset.0 as i64])?;
            }
            tx.execute("UPDATE dataset SET trim = 0 WHERE id = ?1", [dataset.0 as i64])?;
            Ok(unwanted.len() as u64)
        })
    }

    fn sweep_pack(
        &self,
        pack: PackNumber,
        epoch: u64,
        sequence: u64,
        live: &dyn Fn(&ChunkId) -> bool,
        act: bool,
    ) -> Result<PackSweep, SweepError> {
        self.write("sweep a pack", |tx| {
            check_sequence(tx, sequence)?;
            let mut sweep = PackSweep::default();
            let mut dead = Vec::new();
            {
                let mut statement = tx.prepare_cached(
                    "SELECT key, id, stored_bytes, epoch, EXISTS (SELECT 1 FROM pin WHERE pin.chunk = chunk.key)
                     FROM chunk WHERE pack = ?1",
                )?;
                let mut rows = statement.query([pack.0 as i64])?;
                while let Some(row) = rows.next()? {
                    let stored_bytes = u64::from(row.get::<_, u32>(2)?);
                    let recent = row.get::<_, i64>(3)? as u64 >= epoch;
                    if recent || row.get(4)? || live(&ChunkId(id_column(row, 1)?)) {
                        sweep.live_chunks += 1;
                        sweep.live_bytes += stored_bytes;
                    } else {
                        sweep.dead_chunks += 1;
                        sweep.dead_bytes += stored_bytes;
                        dead.push(row.get::<_, i64>(0)?);
                    }
                }
            }
            if act && sweep.live_chunks == 0 {
                drop_pack(tx, pack, &dead)?;
                sweep.dropped = true;
            }
            Ok(sweep)
        })
    }

    fn put_lease(&self, lease: &Lease) -> Result<(), CatalogError> {
        self.write("take a lease", |tx| {
            let sequence = advance(tx, "root_sequence")?;
            tx.execute(
                "INSERT OR REPLACE INTO lease (id, version, root, expires_at, sequence) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    lease.id,
                    lease.version.as_bytes(),
                    lease.root.as_ref().map(ChunkId::as_bytes),
                    lease.expires_at.0 as i64,
                    sequence
                ],
            )?;
            Ok(())
        })
    }

    fn end_lease(&self, id: &str) -> Result<bool, CatalogError> {
        self.write("end a lease", |tx| Ok(tx.execute("DELETE FROM lease WHERE id = ?1", [id])? == 1))
    }

    fn leases(&self) -> Result<Vec<Lease>, CatalogError> {
        self.read("list leases", |tx| {
            let mut statement = tx.prepare_cached("SELECT id, version, root, expires_at FROM lease ORDER BY id")?;
            let rows = statement.query_map([], |row| {
                let root = match row.get_ref(2)?.as_blob_or_null()? {
                    Some(_) => Some(ChunkId(id_column(row, 2)?)),
                    None => None,
                };
                Ok(Lease {
                    id: row.get(0)?,
                    version: VersionId(id_column(row, 1)?),
                    root,
                    expires_at: UnixMs(row.get::<_, i64>(3)? as u64),
                })
            })?;
            rows.collect()
        })
    }
}

fn drop_pack(tx: &Transaction<'_>, pack: PackNumber, dead: &[i64]) -> rusqlite::Result<()> {
    let mut members = tx.prepare_cached("DELETE FROM member WHERE chunk = ?1")?;
    for key in dead {
        members.execute([key])?;
    }
    tx.execute("DELETE FROM chunk WHERE pack = ?1", [pack.0 as i64])?;
    tx.execute("UPDATE pack SET state = 2, identity = NULL WHERE number = ?1", [pack.0 as i64])?;
    Ok(())
}
