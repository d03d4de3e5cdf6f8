//! Which file on this device holds a chunk, and which chunks of a subscription wait in its staging file.
//!
//! The index is a hint: whoever follows it reads the bytes and hashes them. So it may be stale, and 16 bytes of an id do.

use headwater_protocol::id::ChunkId;
use rusqlite::{OptionalExtension, params};

use super::{Catalog, CatalogError, DatasetId};

/// Bytes of an id that the index keeps.
const KEY_BYTES: usize = 16;

/// Where a chunk is said to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkHome {
    /// The dataset that holds it.
    pub dataset: DatasetId,
    /// Path, in the dataset, of a file whose record names the chunk.
    pub path: Vec<u8>,
    /// Where it was in the file, in bytes; of no meaning where small files share the chunk.
    pub file_offset: u64,
}

/// A chunk in a staging file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagedChunk {
    /// Which.
    pub chunk: ChunkId,
    /// First byte in the staging file.
    pub file_offset: u64,
    /// Bytes.
    pub length: u32,
}

impl Catalog {
    /// Notes where chunks of `dataset` are.
    pub fn put_chunks(&self, dataset: DatasetId, homes: &[(ChunkId, Vec<u8>, u64)]) -> Result<(), CatalogError> {
        let failed = |source| CatalogError::sql("index chunks", source);
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(failed)?;
        {
            let mut statement = transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO chunks (chunk, dataset, path, file_offset) VALUES (?1, ?2, ?3, ?4)",
                )
                .map_err(failed)?;
            for (id, path, file_offset) in homes {
                statement.execute(params![key(id), dataset.0, path, *file_offset as i64]).map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)
    }

    /// Where a chunk is said to be, on this device.
    pub fn chunk_homes(&self, id: &ChunkId) -> Result<Vec<ChunkHome>, CatalogError> {
        let failed = |source| CatalogError::sql("look up a chunk", source);
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT dataset, path, file_offset FROM chunks WHERE chunk = ?1")
            .map_err(failed)?;
        let rows = statement
            .query_map([key(id)], |row| {
                Ok(ChunkHome {
                    dataset: DatasetId(row.get(0)?),
                    path: row.get(1)?,
                    file_offset: row.get::<_, i64>(2)? as u64,
                })
            })
            .map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    /// Forgets that a chunk is in a dataset: it was looked for and was not there.
    pub fn forget_chunk(&self, dataset: DatasetId, id: &ChunkId) -> Result<(), CatalogError> {
        self.lock()
            .prepare_cached("DELETE FROM chunks WHERE chunk = ?1 AND dataset = ?2")
            .and_then(|mut statement| statement.execute(params![key(id), dataset.0]))
            .map(|_| ())
            .map_err(|source| CatalogError::sql("forget a chunk", source))
    }

    /// Notes chunks that a staging file holds durably.
    pub fn put_staged(&self, dataset: DatasetId, staged: &[StagedChunk]) -> Result<(), CatalogError> {
        let failed = |source| CatalogError::sql("note staged chunks", source);
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(failed)?;
        {
            let mut statement = transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO staged (dataset, chunk, file_offset, length) VALUES (?1, ?2, ?3, ?4)",
                )
                .map_err(failed)?;
            for item in staged {
                statement
                    .execute(params![dataset.0, item.chunk.as_bytes().as_slice(), item.file_offset as i64, item.length])
                    .map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)
    }

    /// Where a chunk is in the staging file of a dataset.
    pub fn staged(&self, dataset: DatasetId, id: &ChunkId) -> Result<Option<StagedChunk>, CatalogError> {
        self.lock()
            .prepare_cached("SELECT file_offset, length FROM staged WHERE dataset = ?1 AND chunk = ?2")
            .and_then(|mut statement| {
                statement
                    .query_row(params![dataset.0, id.as_bytes().as_slice()], |row| {
                        Ok(StagedChunk { chunk: *id, file_offset: row.get::<_, i64>(0)? as u64, length: row.get(1)? })
                    })
                    .optional()
            })
            .map_err(|source| CatalogError::sql("look up a staged chunk", source))
    }

    /// Bytes that the staged chunks of a dataset reach up to in its staging file.
    pub fn staged_end(&self, dataset: DatasetId) -> Result<u64, CatalogError> {
        self.lock()
            .query_row(
                "SELECT COALESCE(MAX(file_offset + length), 0) FROM staged WHERE dataset = ?1",
                [dataset.0],
                |row| row.get::<_, i64>(0),
            )
            .map(|end| end as u64)
            .map_err(|source| CatalogError::sql("measure the staged chunks", source))
    }

    /// Forgets one staged chunk.
    pub fn forget_staged_chunk(&self, dataset: DatasetId, id: &ChunkId) -> Result<(), CatalogError> {
        self.lock()
            .execute(
                "DELETE FROM staged WHERE dataset = ?1 AND chunk = ?2",
                params![dataset.0, id.as_bytes().as_slice()],
            )
            .map(|_| ())
            .map_err(|source| CatalogError::sql("forget a staged chunk", source))
    }

    /// Forgets the staged chunks of a dataset.
    pub fn forget_staged(&self, dataset: DatasetId) -> Result<(), CatalogError> {
        self.lock()
            .execute("DELETE FROM staged WHERE dataset = ?1", [dataset.0])
            .map(|_| ())
            .map_err(|source| CatalogError::sql("forget staged chunks", source))
    }
}

fn key(id: &ChunkId) -> &[u8] {
    &id.as_bytes()[..KEY_BYTES]
}
