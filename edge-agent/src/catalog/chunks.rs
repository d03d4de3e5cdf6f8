//! Which file on this device holds a chunk, and which chunks of a subscription wait in its staging file.
//!
//! The index is a hint: whoever follows it reads the bytes and hashes them. So it may be stale, and a part of an id does.
//! Its entries go with the pages that they were made of, so it grows no further than the versions that are kept.

use headwater_protocol::id::ChunkId;
use headwater_protocol::page::Page;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Catalog, CatalogError, DatasetId};

/// Bytes of a chunk's id that the index keeps.
const KEY_BYTES: usize = 16;
/// Bytes of a page's id that it keeps: enough to tell the pages of one dataset that share a chunk.
const PAGE_KEY_BYTES: usize = 8;

/// Where a chunk is said to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkHome {
    /// The dataset that holds it.
    pub dataset: DatasetId,
    /// The start of the id of the page that says so.
    page: Vec<u8>,
    /// Path, in the dataset, of a file whose record names the chunk.
    pub path: Vec<u8>,
    /// Where it was in the file, in bytes; of no meaning where small files share the chunk.
    pub file_offset: u64,
}

/// An entry of the index that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHome {
    /// The chunk.
    pub chunk: ChunkId,
    /// The page that names it; it is in the catalog already, so that no entry outlives it.
    pub page: ChunkId,
    /// As in [`ChunkHome`].
    pub path: Vec<u8>,
    /// Likewise.
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
    pub fn put_chunks(&self, dataset: DatasetId, homes: &[NewHome]) -> Result<(), CatalogError> {
        let failed = |source| CatalogError::sql("index chunks", source);
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(failed)?;
        {
            let mut statement = transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO chunks (chunk, dataset, page, path, file_offset) VALUES (?1, ?2, ?3, ?4, ?5)",
                )
                .map_err(failed)?;
            for NewHome { chunk, page, path, file_offset } in homes {
                statement
                    .execute(params![key(chunk), dataset.0, page_key(page), path, *file_offset as i64])
                    .map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)
    }

    /// Where a chunk is said to be, on this device.
    pub fn chunk_homes(&self, id: &ChunkId) -> Result<Vec<ChunkHome>, CatalogError> {
        let failed = |source| CatalogError::sql("look up a chunk", source);
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT dataset, page, path, file_offset FROM chunks WHERE chunk = ?1")
            .map_err(failed)?;
        let rows = statement
            .query_map([key(id)], |row| {
                Ok(ChunkHome {
                    dataset: DatasetId(row.get(0)?),
                    page: row.get(1)?,
                    path: row.get(2)?,
                    file_offset: row.get::<_, i64>(3)? as u64,
                })
            })
            .map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    /// How many entries the index has.
    #[cfg(test)]
    pub(crate) fn home_count(&self) -> u64 {
        let count = self.lock().query_row("SELECT COUNT(*) FROM chunks", [], |row| row.get::<_, i64>(0));
        count.expect("counted") as u64
    }

    /// Forgets that a chunk is there: it was looked for and was not.
    pub fn forget_home(&self, id: &ChunkId, home: &ChunkHome) -> Result<(), CatalogError> {
        self.lock()
            .prepare_cached(DELETE_HOME)
            .and_then(|mut statement| statement.execute(params![key(id), home.dataset.0, home.page]))
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

const DELETE_HOME: &str = "DELETE FROM chunks WHERE chunk = ?1 AND dataset = ?2 AND page = ?3";

/// Drops the entries that were made of a page which is dropped.
pub(super) fn drop_homes_of_page(
    connection: &Connection,
    dataset: DatasetId,
    id: &ChunkId,
    page: &Page,
) -> rusqlite::Result<()> {
    let chunks = match page {
        Page::Leaf(leaf) => &leaf.chunks,
        Page::ExtentLeaf(chunks) => chunks,
        Page::Inner { .. } | Page::ExtentInner { .. } => return Ok(()),
    };
    let mut statement = connection.prepare_cached(DELETE_HOME)?;
    for chunk in chunks {
        statement.execute(params![key(&chunk.id), dataset.0, page_key(id)])?;
    }
    Ok(())
}

fn key(id: &ChunkId) -> &[u8] {
    &id.as_bytes()[..KEY_BYTES]
}

fn page_key(id: &ChunkId) -> &[u8] {
    &id.as_bytes()[..PAGE_KEY_BYTES]
}
