//! Datasets and their versions on this device.

use std::path::{Path, PathBuf};

use headwater_protocol::id::VersionId;
use headwater_protocol::manifest::Manifest;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::marks::{FREES_MISSED, freed_since_key};
use super::{Catalog, CatalogError, sum_of};
use crate::clock;

/// Versions of a dataset that were offered and are not wanted any more, but remembered: the core may have committed one
/// of them, and its answer was lost.
const SUPERSEDED_MAX: u32 = 64;

/// A dataset's number in the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatasetId(pub(super) i64);

impl DatasetId {
    /// The number itself, for names of files and marks.
    pub const fn number(self) -> i64 {
        self.0
    }
}

/// What this device does with a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It writes the dataset.
    Publish,
    /// It keeps a copy.
    Subscribe,
    /// It keeps the dataset to itself.
    Local,
}

impl Role {
    /// As people read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Local => "local",
        }
    }

    const fn number(self) -> i64 {
        match self {
            Self::Publish => 0,
            Self::Subscribe => 1,
            Self::Local => 2,
        }
    }

    fn from_number(number: i64) -> Result<Self, CatalogError> {
        match number {
            0 => Ok(Self::Publish),
            1 => Ok(Self::Subscribe),
            2 => Ok(Self::Local),
            other => Err(CatalogError::damaged(format!("a dataset has the role {other}"))),
        }
    }
}

/// How far a version has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionState {
    /// Built from the folder.
    Built,
    /// Offered to the core, which has not answered yet.
    Offered,
    /// Committed: by the core, or, of a local dataset, here.
    Committed,
    /// Offered to the core, which has not answered, and replaced by a newer one since.
    Superseded,
}

impl VersionState {
    const fn number(self) -> i64 {
        match self {
            Self::Built => 0,
            Self::Offered => 1,
            Self::Committed => 2,
            Self::Superseded => 3,
        }
    }
}

/// A dataset in the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetRow {
    /// Its number here.
    pub id: DatasetId,
    /// Its name, with templates filled in.
    pub name: String,
    /// What this device does with it.
    pub role: Role,
    /// The folder that is published or kept local, or the one that the subscription fills.
    pub folder: PathBuf,
}

/// A version in the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionRow {
    /// Its number in the dataset.
    pub number: u64,
    /// Its id.
    pub version: VersionId,
    /// How far it has come.
    pub state: VersionState,
    /// The manifest's body.
    pub manifest: Vec<u8>,
    /// The encoded commit record; the core's signature is in it once it is committed.
    pub record: Vec<u8>,
    /// The core's encoded receipt; empty until it is committed.
    pub receipt: Vec<u8>,
}

impl VersionRow {
    /// The manifest in it.
    pub fn decode_manifest(&self) -> Result<Manifest, CatalogError> {
        Manifest::decode(&self.manifest).map_err(|error| CatalogError::damaged(error.to_string()))
    }

    fn sum(&self, dataset: DatasetId) -> [u8; 8] {
        sum_of(&[
            &dataset.0.to_le_bytes(),
            &self.number.to_le_bytes(),
            self.version.as_bytes(),
            &self.state.number().to_le_bytes(),
            &self.manifest,
            &self.record,
            &self.receipt,
        ])
    }
}

impl Catalog {
    /// The dataset with this name, role and folder, made if it isn't there.
    pub fn dataset(&self, name: &str, role: Role, folder: &Path) -> Result<DatasetRow, CatalogError> {
        let failed = |source| CatalogError::sql("look up a dataset", source);
        let folder_bytes = path_bytes(folder);
        let connection = self.lock();
        let find = || {
            connection
                .prepare_cached("SELECT id FROM datasets WHERE name = ?1 AND role = ?2 AND folder = ?3")?
                .query_row(params![name, role.number(), folder_bytes], |row| row.get(0))
                .optional()
        };
        let id: i64 = if let Some(id) = find().map_err(failed)? {
            id
        } else {
            connection
                .execute(
                    "INSERT INTO datasets (name, role, folder) VALUES (?1, ?2, ?3)",
                    params![name, role.number(), folder_bytes],
                )
                .map_err(failed)?;
            connection.last_insert_rowid()
        };
        Ok(DatasetRow { id: DatasetId(id), name: name.to_owned(), role, folder: folder.to_owned() })
    }

    /// All datasets.
    pub fn datasets(&self) -> Result<Vec<DatasetRow>, CatalogError> {
        let failed = |source| CatalogError::sql("list its datasets", source);
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT id, name, role, folder FROM datasets ORDER BY name, role, folder")
            .map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut datasets = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            datasets.push(dataset_row(row)?);
        }
        Ok(datasets)
    }

    /// The dataset with this number.
    pub fn dataset_by_id(&self, id: DatasetId) -> Result<Option<DatasetRow>, CatalogError> {
        let failed = |source| CatalogError::sql("look up a dataset", source);
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT id, name, role, folder FROM datasets WHERE id = ?1").map_err(failed)?;
        let mut rows = statement.query([id.0]).map_err(failed)?;
        rows.next().map_err(failed)?.map(dataset_row).transpose()
    }

    /// Forgets a dataset with everything of it.
    pub fn forget_dataset(&self, dataset: DatasetId) -> Result<(), CatalogError> {
        let failed = |source| CatalogError::sql("forget a dataset", source);
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(failed)?;
        for table in ["versions", "pages", "stamps", "chunks", "staged", "freed", "deletions"] {
            let forgotten =
                transaction.execute(&format!("DELETE FROM {table} WHERE dataset = ?1"), [dataset.0]).map_err(failed)?;
            if table == "freed" && forgotten > 0 {
                // Should the dataset come back, nobody knows any more what was.
                transaction
                    .execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, x'01')", [FREES_MISSED])
                    .map_err(failed)?;
            }
        }
        transaction.execute("DELETE FROM meta WHERE name = ?1", [freed_since_key(dataset)]).map_err(failed)?;
        transaction.execute("DELETE FROM datasets WHERE id = ?1", [dataset.0]).map_err(failed)?;
        transaction.commit().map_err(failed)
    }

    /// Keeps a version, replacing what was known of it.
    pub fn put_version(&self, dataset: DatasetId, version: &VersionRow) -> Result<(), CatalogError> {
        let failed = |source| CatalogError::sql("keep a version", source);
        put_row(&self.lock(), dataset, version).map_err(failed)
    }

    /// The version with this id.
    pub fn version(&self, dataset: DatasetId, version: &VersionId) -> Result<Option<VersionRow>, CatalogError> {
        self.one_version(dataset, "version = ?2", params![dataset.0, version.as_bytes().as_slice()])
    }

    /// The newest committed version.
    pub fn committed(&self, dataset: DatasetId) -> Result<Option<VersionRow>, CatalogError> {
        self.one_version(dataset, "state = 2", params![dataset.0])
    }

    /// The newest version that isn't committed, if it is newer than the newest that is.
    pub fn pending(&self, dataset: DatasetId) -> Result<Option<VersionRow>, CatalogError> {
        let condition =
            "state < 2 AND number > (SELECT COALESCE(MAX(number), 0) FROM versions WHERE dataset = ?1 AND state = 2)";
        self.one_version(dataset, condition, params![dataset.0])
    }

    fn one_version(
        &self,
        dataset: DatasetId,
        condition: &str,
        values: &[&dyn rusqlite::ToSql],
    ) -> Result<Option<VersionRow>, CatalogError> {
        let failed = |source| CatalogError::sql("look up a version", source);
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(&format!(
                "SELECT number, version, state, manifest, record, receipt, sum FROM versions
                 WHERE dataset = ?1 AND {condition} ORDER BY number DESC, id DESC LIMIT 1"
            ))
            .map_err(failed)?;
        let mut rows = statement.query(values).map_err(failed)?;
        rows.next().map_err(failed)?.map(|row| version_row(dataset, row)).transpose()
    }

    /// All versions, newest first.
    pub fn versions(&self, dataset: DatasetId) -> Result<Vec<VersionRow>, CatalogError> {
        let failed = |source| CatalogError::sql("list versions", source);
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(
                "SELECT number, version, state, manifest, record, receipt, sum FROM versions
                 WHERE dataset = ?1 ORDER BY number DESC, id DESC",
            )
            .map_err(failed)?;
        let mut rows = statement.query([dataset.0]).map_err(failed)?;
        let mut versions = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            versions.push(version_row(dataset, row)?);
        }
        Ok(versions)
    }

    /// Notes that the core committed a version: its record with both signatures and the receipt. What is older than the
    /// newest `keep` committed versions, and every uncommitted one up to this number, is forgotten.
    pub fn commit_version(&self, dataset: DatasetId, version: &VersionRow, keep: u32) -> Result<(), CatalogError> {
        let failed = |source| CatalogError::sql("note a commit", source);
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(failed)?;
        transaction
            .execute(
                "DELETE FROM versions WHERE dataset = ?1 AND (version = ?2 OR (state <> 2 AND number <= ?3))",
                params![dataset.0, version.version.as_bytes().as_slice(), version.number as i64],
            )
            .map_err(failed)?;
        let committed = VersionRow { state: VersionState::Committed, ..version.clone() };
        put_row(&transaction, dataset, &committed).map_err(failed)?;
        transaction
            .execute(
                "DELETE FROM meta WHERE name = ?1
                 AND NOT EXISTS (SELECT 1 FROM versions WHERE dataset = ?2 AND state < 2)",
                params![unsent_since_key(dataset), dataset.0],
            )
            .map_err(failed)?;
        transaction
            .execute(
                "DELETE FROM versions WHERE dataset = ?1 AND state = 2 AND id NOT IN
                 (SELECT id FROM versions WHERE dataset = ?1 AND state = 2 ORDER BY number DESC, id DESC LIMIT ?2)",
                params![dataset.0, keep],
            )
            .map_err(failed)?;
        transaction.commit().map_err(failed)
    }

    /// Keeps a version that was just built, as the one that waits to be sent from now on.
    pub fn put_built(
        &self,
        dataset: DatasetId,
        number: u64,
        version: VersionId,
        manifest: Vec<u8>,
    ) -> Result<(), CatalogError> {
        let known = self.version(dataset, &version)?.filter(|known| known.number == number);
        let since_s = self.unsent_since_s(dataset)?.unwrap_or_else(clock::now_s);
        self.supersede(dataset)?;
        self.put_meta(&unsent_since_key(dataset), &since_s.to_le_bytes())?;
        // The same as was offered before: its record is what the core may have committed.
        let record = known.map(|known| known.record).unwrap_or_default();
        let state = if record.is_empty() { VersionState::Built } else { VersionState::Offered };
        self.put_version(dataset, &VersionRow { number, version, state, manifest, record, receipt: Vec::new() })
    }

    /// Since when versions of the dataset wait to be sent, in seconds since the Unix epoch; none: no one waits.
    pub fn unsent_since_s(&self, dataset: DatasetId) -> Result<Option<i64>, CatalogError> {
        let bytes = self.meta(&unsent_since_key(dataset))?;
        Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map(i64::from_le_bytes))
    }

    /// No version waits to be sent any more. Those that were offered are remembered, the newest of them.
    pub fn supersede(&self, dataset: DatasetId) -> Result<(), CatalogError> {
        let failed = |source| CatalogError::sql("forget versions", source);
        for version in self.versions(dataset)?.into_iter().rev() {
            if version.state == VersionState::Offered {
                self.put_version(dataset, &VersionRow { state: VersionState::Superseded, ..version })?;
            }
        }
        let connection = self.lock();
        connection.execute("DELETE FROM meta WHERE name = ?1", [unsent_since_key(dataset)]).map_err(failed)?;
        connection.execute("DELETE FROM versions WHERE dataset = ?1 AND state = 0", [dataset.0]).map_err(failed)?;
        connection
            .execute(
                "DELETE FROM versions WHERE dataset = ?1 AND state = 3 AND id NOT IN
                 (SELECT id FROM versions WHERE dataset = ?1 AND state = 3 ORDER BY id DESC LIMIT ?2)",
                params![dataset.0, SUPERSEDED_MAX],
            )
            .map(|_| ())
            .map_err(failed)
    }

    /// The first version of this dataset has the number after this one: the core counted so far before it was deleted there.
    pub fn begin_after(&self, dataset: DatasetId, last_number: u64) -> Result<(), CatalogError> {
        if self.begins_after(dataset)? == last_number {
            return Ok(());
        }
        self.put_meta(&begins_after_key(dataset), &last_number.to_le_bytes())
    }

    /// The number before that of the dataset's first version.
    pub fn begins_after(&self, dataset: DatasetId) -> Result<u64, CatalogError> {
        let bytes = self.meta(&begins_after_key(dataset))?;
        Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes))
    }

    /// Forgets every version of a dataset; its pages and stamps stay until they are pruned.
    pub fn forget_versions(&self, dataset: DatasetId) -> Result<(), CatalogError> {
        let failed = |source| CatalogError::sql("forget versions", source);
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(failed)?;
        transaction.execute("DELETE FROM versions WHERE dataset = ?1", [dataset.0]).map_err(failed)?;
        transaction.execute("DELETE FROM meta WHERE name = ?1", [unsent_since_key(dataset)]).map_err(failed)?;
        // Whoever gets the next versions has noted nothing of them yet.
        transaction.execute("DELETE FROM meta WHERE name = ?1", [freed_since_key(dataset)]).map_err(failed)?;
        transaction.commit().map_err(failed)
    }
}

fn begins_after_key(dataset: DatasetId) -> String {
    format!("begins-after/{}", dataset.0)
}

fn unsent_since_key(dataset: DatasetId) -> String {
    format!("unsent-since/{}", dataset.0)
}

fn put_row(connection: &Connection, dataset: DatasetId, version: &VersionRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO versions (dataset, number, version, state, manifest, record, receipt, sum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            dataset.0,
            version.number as i64,
            version.version.as_bytes().as_slice(),
            version.state.number(),
            version.manifest,
            version.record,
            version.receipt,
            version.sum(dataset).as_slice(),
        ])
        .map(|_| ())
}

fn dataset_row(row: &Row<'_>) -> Result<DatasetRow, CatalogError> {
    let failed = |source| CatalogError::sql("read a dataset", source);
    let folder: Vec<u8> = row.get(3).map_err(failed)?;
    Ok(DatasetRow {
        id: DatasetId(row.get(0).map_err(failed)?),
        name: row.get(1).map_err(failed)?,
        role: Role::from_number(row.get(2).map_err(failed)?)?,
        folder: bytes_path(folder),
    })
}

fn version_row(dataset: DatasetId, row: &Row<'_>) -> Result<VersionRow, CatalogError> {
    let failed = |source| CatalogError::sql("read a version", source);
    let id: Vec<u8> = row.get(1).map_err(failed)?;
    let state: i64 = row.get(2).map_err(failed)?;
    let sum: Vec<u8> = row.get(6).map_err(failed)?;
    let version = VersionRow {
        number: row.get::<_, i64>(0).map_err(failed)? as u64,
        version: VersionId::from_slice(&id).ok_or_else(|| CatalogError::damaged("a version id is cut short"))?,
        state: match state {
            0 => VersionState::Built,
            1 => VersionState::Offered,
            2 => VersionState::Committed,
            3 => VersionState::Superseded,
            other => return Err(CatalogError::damaged(format!("a version has the state {other}"))),
        },
        manifest: row.get(3).map_err(failed)?,
        record: row.get(4).map_err(failed)?,
        receipt: row.get(5).map_err(failed)?,
    };
    if version.sum(dataset).as_slice() != sum {
        return Err(CatalogError::damaged(format!("the row of version {} does not match its sum", version.number)));
    }
    Ok(version)
}

fn path_bytes(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}

fn bytes_path(bytes: Vec<u8>) -> PathBuf {
    <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes).into()
}
