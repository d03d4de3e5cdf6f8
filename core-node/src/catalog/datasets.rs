//! Datasets, their versions and tags.

use headwater_protocol::id::{ChunkId, PublicKey, VersionId};
use headwater_protocol::manifest::Totals;

use super::{CatalogError, Principal, UnixMs};

/// Most chunks that [`CommitVersionError::Missing`] names.
pub const MISSING_NAMED_MAX: usize = 4096;

/// A dataset's number in the catalog. It stays when the dataset is handed over, and is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatasetId(pub u64);

/// Which old versions of a dataset are kept. The newest, tagged ones and leased ones always are; of the others, a version is
/// kept if any rule that is set says so. With no rule set all are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Retention {
    /// Keep this many of the newest.
    pub keep_last: Option<u64>,
    /// Keep what was committed within so many seconds, by the core's clock.
    pub keep_newer_than_s: Option<u64>,
}

/// A dataset to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDataset {
    /// Its name.
    pub name: String,
    /// Its one writer.
    pub writer: Principal,
    /// Which old versions are kept.
    pub retention: Retention,
    /// When, by the core's clock.
    pub created_at: UnixMs,
}

/// The newest version of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number.
    pub number: u64,
    /// Its id.
    pub version: VersionId,
    /// What it amounts to.
    pub totals: Totals,
    /// When it was committed.
    pub committed_at: UnixMs,
}

/// A dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetRecord {
    /// Its number in the catalog.
    pub id: DatasetId,
    /// Its name.
    pub name: String,
    /// Its one writer.
    pub writer: Principal,
    /// Which old versions are kept.
    pub retention: Retention,
    /// When it was created.
    pub created_at: UnixMs,
    /// Its newest version; none before the first commit.
    pub head: Option<Head>,
}

/// A version to be committed.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// Of which dataset.
    pub dataset: DatasetId,
    /// Must be one more than the last.
    pub number: u64,
    /// BLAKE3 of `manifest`.
    pub version: VersionId,
    /// Must be the dataset's writer.
    pub writer: Principal,
    /// The manifest's body.
    pub manifest: Vec<u8>,
    /// The root page; none in a version without files.
    pub root: Option<ChunkId>,
    /// The commit record, signed by author and core.
    pub commit: Vec<u8>,
    /// The receipt given for it; empty if none was.
    pub receipt: Vec<u8>,
    /// What it amounts to.
    pub totals: Totals,
    /// When, by the core's clock.
    pub committed_at: UnixMs,
    /// Every page of the version that [`pages_complete`](super::ChunkTable::pages_complete) said no to. All must be stored, and
    /// all that they name must be among `new_pages`, `new_chunks` and `complete_pages`: from now on each vouches for what is
    /// below it.
    pub new_pages: Vec<ChunkId>,
    /// Every data chunk that these name. All must be stored. A data chunk vouches for nothing, even if its bytes happen to be a
    /// page.
    pub new_chunks: Vec<ChunkId>,
    /// The topmost pages that it said yes to: relied upon, and checked again.
    pub complete_pages: Vec<ChunkId>,
}

/// A committed version without its large fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionSummary {
    /// Its number.
    pub number: u64,
    /// Its id.
    pub version: VersionId,
    /// Its root page.
    pub root: Option<ChunkId>,
    /// What it amounts to.
    pub totals: Totals,
    /// When it was committed.
    pub committed_at: UnixMs,
    /// Who wrote it.
    pub writer: Principal,
}

/// A committed version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionRecord {
    /// Number, id, root, sums.
    pub summary: VersionSummary,
    /// The manifest's body.
    pub manifest: Vec<u8>,
    /// The commit record, signed by author and core.
    pub commit: Vec<u8>,
    /// The receipt given for it; empty if none was.
    pub receipt: Vec<u8>,
}

/// A name that keeps a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    /// The name.
    pub name: String,
    /// The version's number.
    pub number: u64,
    /// When it was set.
    pub tagged_at: UnixMs,
}

/// Why a dataset was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateDatasetError {
    /// There is one of that name.
    #[error("dataset `{name}` exists and is written by {writer}")]
    Exists {
        /// The name.
        name: String,
        /// Its writer.
        writer: Principal,
    },
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Why a version was not committed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CommitVersionError {
    /// There is no such dataset.
    #[error("the dataset does not exist any more")]
    NoDataset,
    /// Someone else writes the dataset.
    #[error("the dataset is written by {writer}")]
    Writer {
        /// Who does.
        writer: Principal,
    },
    /// This very version was committed before; an acknowledgement was lost.
    #[error("the version is committed already, as number {number}")]
    Already {
        /// Its number.
        number: u64,
    },
    /// The number is not the next one.
    #[error("the next version is number {expected}")]
    Number {
        /// What it must be.
        expected: u64,
    },
    /// Chunks or pages that it needs are not stored, or damaged.
    #[error("{} chunks that it needs are not stored, the first is {}", .0.len(), .0[0].short())]
    Missing(Vec<ChunkId>),
    /// Pages that were relied upon are complete no more, because gc ran: look again.
    #[error("{} pages that it builds on have gone meanwhile", .0.len())]
    Incomplete(Vec<ChunkId>),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Why versions or a dataset were not dropped.
#[derive(Debug, thiserror::Error)]
pub enum DropError {
    /// There is no such dataset or version.
    #[error("it does not exist")]
    NotFound,
    /// Devices said that they have freed bytes of it: these would be the last copies.
    #[error("{} devices have freed bytes of it on the strength of its receipt", devices.len())]
    LastCopy {
        /// The versions.
        versions: Vec<u64>,
        /// The devices.
        devices: Vec<PublicKey>,
    },
    /// The newest version is dropped only with its dataset.
    #[error("version {number} is the newest")]
    Newest {
        /// Its number.
        number: u64,
    },
    /// Tags keep it.
    #[error("version {number} is kept by tag `{tag}`")]
    Tagged {
        /// Its number.
        number: u64,
        /// The tag.
        tag: String,
    },
    /// An edition of a collection has a version of it as a member.
    #[error("edition {number} of collection `{collection}` holds a version of it")]
    Collected {
        /// The collection.
        collection: String,
        /// The edition's number.
        number: u64,
    },
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// What the deletion of a dataset may take along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deletion {
    /// Also bytes for which devices hold receipts, and of which they may have freed their own.
    pub last_copy: bool,
    /// Also versions that are members of collections. The editions stay, without what they name.
    pub collected: bool,
    /// Only while the newest version has this number; else it is refused with [`DropError::Newest`].
    pub newest: Option<u64>,
}

/// Why a tag was not set.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// There is no such version.
    #[error("version {number} does not exist")]
    NoVersion {
        /// The number.
        number: u64,
    },
    /// The tag names another version; tags don't move unless told to.
    #[error("tag `{name}` names version {number}")]
    Taken {
        /// The tag.
        name: String,
        /// What it names.
        number: u64,
    },
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Datasets, versions and tags.
pub trait DatasetTable {
    /// Creates a dataset without versions. Where there was one of that name, its numbers go on.
    fn create_dataset(&self, new: &NewDataset) -> Result<DatasetRecord, CreateDatasetError>;
    /// The dataset of that name.
    fn dataset(&self, name: &str) -> Result<Option<DatasetRecord>, CatalogError>;
    /// The dataset of that number.
    fn dataset_by_id(&self, id: DatasetId) -> Result<Option<DatasetRecord>, CatalogError>;
    /// The last number that a version of a dataset of that name had, also of one that was deleted; 0 if there was none.
    fn last_number(&self, name: &str) -> Result<u64, CatalogError>;
    /// All datasets by name.
    fn datasets(&self) -> Result<Vec<DatasetRecord>, CatalogError>;
    /// Hands a dataset from one writer to another; whether `from` was the writer.
    fn hand_over(&self, id: DatasetId, from: Principal, to: Principal) -> Result<bool, CatalogError>;
    /// Says which old versions are kept.
    fn set_retention(&self, id: DatasetId, retention: Retention) -> Result<(), CatalogError>;
    /// Deletes a dataset with its versions and tags. Refused with [`DropError::LastCopy`] while a device has freed bytes
    /// of any of them, and with [`DropError::Collected`] while a collection holds one, unless `with` says so.
    fn delete_dataset(&self, id: DatasetId, with: Deletion) -> Result<(), DropError>;

    /// Commits a version: checks writer and number, that all pages and chunks are stored, and that the complete pages are complete;
    /// enters membership; ends the writer's pins of them; notes that the writer relies on the receipt. Costs what is
    /// new.
    fn commit_version(&self, new: &NewVersion) -> Result<(), CommitVersionError>;
    /// A version by number.
    fn version(&self, dataset: DatasetId, number: u64) -> Result<Option<VersionRecord>, CatalogError>;
    /// A version by id.
    fn version_by_id(&self, dataset: DatasetId, version: &VersionId) -> Result<Option<VersionRecord>, CatalogError>;
    /// Versions with numbers below `before` (all, if none), newest first, at most `limit`.
    fn versions(
        &self,
        dataset: DatasetId,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<VersionSummary>, CatalogError>;
    /// How many versions a dataset has.
    fn count_versions(&self, dataset: DatasetId) -> Result<u64, CatalogError>;
    /// Whether [`DatasetTable::drop_versions`] would drop this version now; changes nothing.
    fn may_drop(&self, dataset: DatasetId, number: u64, last_copy: bool) -> Result<(), DropError>;
    /// Drops versions, none of them the newest or tagged. What devices said they have freed is refused without `last_copy`.
    fn drop_versions(&self, dataset: DatasetId, numbers: &[u64], last_copy: bool) -> Result<(), DropError>;
    /// A device says that it has freed bytes, all of which this version has: it is not dropped without `last_copy`. Its word
    /// on the versions from `since` to this one is done with: what it freed of them is in this one too. Its word on those
    /// before `since` stays, for something that it freed of them is in no later one.
    fn note_freed(&self, device: &PublicKey, dataset: DatasetId, number: u64, since: u64) -> Result<(), CatalogError>;

    /// Sets a tag; `replace` moves one that exists.
    fn tag(&self, dataset: DatasetId, tag: &TagRecord, replace: bool) -> Result<(), TagError>;
    /// Removes a tag; whether there was one.
    fn untag(&self, dataset: DatasetId, name: &str) -> Result<bool, CatalogError>;
    /// All tags of a dataset by name.
    fn tags(&self, dataset: DatasetId) -> Result<Vec<TagRecord>, CatalogError>;
}
