//! Finding the bytes of a chunk in files that this device has already, whichever dataset they belong to.
//!
//! The catalog's index names a file; the file's record says where in it the chunk is; what is read is hashed. So a file
//! that changed underneath costs a look, never a wrong byte. Local datasets are not in the index, and are refused here
//! once more: even the answer "I have that" would tell a core something.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use headwater_host::materialise::current_version;
use headwater_host::version::LocalChunks;
use headwater_protocol::id::ChunkId;
use headwater_protocol::path::RelPath;
use headwater_protocol::record::{ChunkRef, Content};
use headwater_protocol::tree::{ChunkPlace, RecordAt, Within};

use crate::agent::Agent;
use crate::catalog::{Catalog, CatalogError, ChunkHome, DatasetId, DatasetPages, DatasetRow, Role, VersionRow};

/// The files of this device as a store of chunks. Cheap to make; made anew for each transfer, because it remembers which
/// version of a dataset is the newest.
pub struct Holdings {
    agent: Arc<Agent>,
    catalog: Arc<Catalog>,
    open: Mutex<Open>,
}

/// The datasets that were looked into, under the settings in force then.
#[derive(Default)]
struct Open {
    change: u64,
    datasets: HashMap<DatasetId, Option<Arc<Held>>>,
}

struct Held(LocalChunks);

impl Holdings {
    /// All files that published and subscribed datasets have on this device.
    pub fn new(agent: Arc<Agent>, catalog: Arc<Catalog>) -> Self {
        Self { agent, catalog, open: Mutex::default() }
    }

    /// Whether a file is said to hold the chunk. Nothing is read.
    pub fn is_said(&self, id: &ChunkId) -> Result<bool, CatalogError> {
        for home in self.catalog.chunk_homes(id)? {
            if self.held(home.dataset)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The bytes of a chunk, verified, if a file has them. An entry of the index that proves wrong is dropped. A chunk of a
    /// long file is found only if its length is given.
    pub fn read(&self, id: &ChunkId, length: Option<u32>) -> Result<Option<Bytes>, CatalogError> {
        for home in self.catalog.chunk_homes(id)? {
            let Some(held) = self.held(home.dataset)? else { continue };
            if let Some(bytes) = held.read(&home, id, length) {
                return Ok(Some(bytes));
            }
            self.catalog.forget_home(id, &home)?;
        }
        Ok(None)
    }

    fn held(&self, dataset: DatasetId) -> Result<Option<Arc<Held>>, CatalogError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let change = self.agent.change();
        if open.change != change {
            *open = Open { change, ..Open::default() };
        }
        if let Some(held) = open.datasets.get(&dataset) {
            return Ok(held.clone());
        }
        let held = self.open_dataset(dataset)?.map(Arc::new);
        open.datasets.insert(dataset, held.clone());
        Ok(held)
    }

    fn open_dataset(&self, dataset: DatasetId) -> Result<Option<Held>, CatalogError> {
        let row = self.catalog.dataset_by_id(dataset)?;
        let Some(row) = row.filter(|row| self.agent.has(row)) else { return Ok(None) };
        let found = match row.role {
            Role::Local => None,
            Role::Publish => {
                let newest = match self.catalog.pending(dataset)? {
                    Some(pending) => Some(pending),
                    None => self.catalog.committed(dataset)?,
                };
                newest.map(|newest| (row.folder, newest))
            }
            Role::Subscribe => in_force(&self.catalog, &row)?,
        };
        let Some((root, newest)) = found else { return Ok(None) };
        let manifest = newest.decode_manifest()?;
        let pages = Arc::new(DatasetPages::of_passing_version(Arc::clone(&self.catalog), dataset));
        // A folder that is not there, as on a disk that isn't mounted, holds nothing for now.
        Ok(LocalChunks::new(&root, manifest, pages).ok().map(Held))
    }
}

/// The version that a subscription's folder holds, and where: what its link says, since the catalog may know a version
/// that is not written out yet.
pub(crate) fn in_force(catalog: &Catalog, row: &DatasetRow) -> Result<Option<(PathBuf, VersionRow)>, CatalogError> {
    let Some((_, id, root)) = current_version(&row.folder) else { return Ok(None) };
    Ok(catalog.version(row.id, &id)?.map(|version| (root, version)))
}

impl Held {
    fn read(&self, home: &ChunkHome, id: &ChunkId, length: Option<u32>) -> Option<Bytes> {
        let path = RelPath::new(home.path.clone()).ok()?;
        let record = self.0.tree().find(&path).ok()??;
        if let Some(index) = record.leaf.chunks.iter().position(|known| known.id == *id) {
            return self.at(&record, &record.leaf.chunks[index], Within::Table(index));
        }
        if !matches!(record.content, Content::Paged { .. }) {
            return None;
        }
        let chunk = &ChunkRef { id: *id, length: length? };
        let within = |file_offset| Within::Extent { record: record.index, file_offset };
        self.at(&record, chunk, within(home.file_offset)).or_else(|| {
            // Something was inserted before it: look where the version says that it is now.
            let mut stretches = self.0.tree().stretches(&record);
            let found =
                stretches.find(|stretch| stretch.as_ref().map_or(true, |stretch| stretch.chunk.id == chunk.id))?;
            self.at(&record, chunk, within(found.ok()?.file_offset))
        })
    }

    fn at(&self, record: &RecordAt, chunk: &ChunkRef, within: Within) -> Option<Bytes> {
        let place = ChunkPlace { ordinal: 0, chunk: *chunk, leaf: record.leaf.clone(), within };
        self.0.at(&place).ok()
    }
}
