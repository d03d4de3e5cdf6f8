//! Collections: immutable, numbered lists of dataset versions that are read as one.

use headwater_protocol::id::{CollectionId, VersionId};
use headwater_protocol::name::Labels;

use super::{CatalogError, UnixMs};

/// How a collection finds its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCollection {
    /// Its name.
    pub name: String,
    /// Pattern of dataset names.
    pub pattern: String,
    /// Labels that a dataset's writer must have.
    pub labels: Labels,
    /// Seconds between two editions; none: there is just the first.
    pub every_s: Option<u64>,
    /// Newest editions that are kept; none keeps all. What only older ones held may go.
    pub keep: Option<u64>,
    /// When, by the core's clock.
    pub created_at: UnixMs,
}

/// A collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionRecord {
    /// How it finds its members.
    pub rule: NewCollection,
    /// Its newest edition, without members.
    pub latest: Option<(u64, CollectionId, UnixMs)>,
}

/// A dataset version in an edition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CollectionMember {
    /// The dataset's name.
    pub dataset: String,
    /// The version's number.
    pub number: u64,
    /// The version.
    pub version: VersionId,
}

/// One immutable member list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edition {
    /// Numbered from 1.
    pub number: u64,
    /// BLAKE3 over the members; see [`Edition::id_of`].
    pub id: CollectionId,
    /// When, by the core's clock.
    pub made_at: UnixMs,
    /// The members by dataset name.
    pub members: Vec<CollectionMember>,
}

impl Edition {
    /// The edition that has these members, in whatever order they come; of two of one dataset the first counts.
    pub fn of(number: u64, members: &[CollectionMember], made_at: UnixMs) -> Self {
        let mut members = members.to_vec();
        members.sort();
        members.dedup_by(|left, right| left.dataset == right.dataset);
        Self { number, id: Self::id_of(&members), made_at, members }
    }

    /// The id of a member list, sorted by dataset name: BLAKE3 in key-derivation mode over, for each member, the name's
    /// length (u32, little-endian), the name, the number (u64) and the version id.
    pub fn id_of(members: &[CollectionMember]) -> CollectionId {
        let mut hasher = blake3::Hasher::new_derive_key("headwater 2025 collection members 1");
        for member in members {
            hasher.update(&(member.dataset.len() as u32).to_le_bytes());
            hasher.update(member.dataset.as_bytes());
            hasher.update(&member.number.to_le_bytes());
            hasher.update(member.version.as_bytes());
        }
        CollectionId(*hasher.finalize().as_bytes())
    }
}

/// Why a collection was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateCollectionError {
    /// There is one of that name.
    #[error("collection `{0}` exists")]
    Exists(String),
    /// A member is not a committed version of its dataset.
    #[error("`{dataset}` has no version {number} with that id")]
    NoMember {
        /// The dataset.
        dataset: String,
        /// The number.
        number: u64,
    },
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Why an edition was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddEditionError {
    /// There is no such collection.
    #[error("there is no collection `{0}`")]
    NoCollection(String),
    /// A member is not a committed version of its dataset.
    #[error("`{dataset}` has no version {number} with that id")]
    NoMember {
        /// The dataset.
        dataset: String,
        /// The number.
        number: u64,
    },
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Collections and their editions.
pub trait CollectionTable {
    /// Creates a collection with its first edition, which has these members (sorted here).
    fn create_collection(
        &self,
        new: &NewCollection,
        members: &[CollectionMember],
    ) -> Result<Edition, CreateCollectionError>;
    /// All collections by name.
    fn collections(&self) -> Result<Vec<CollectionRecord>, CatalogError>;
    /// The collection of that name.
    fn collection(&self, name: &str) -> Result<Option<CollectionRecord>, CatalogError>;
    /// Adds an edition with these members (sorted here) and gives it; if the newest edition has the same members, gives
    /// that one instead. A version that is a member of an edition is kept like a tagged one; editions beyond those that the
    /// collection keeps are dropped.
    fn add_edition(
        &self,
        name: &str,
        members: &[CollectionMember],
        made_at: UnixMs,
    ) -> Result<Edition, AddEditionError>;
    /// An edition by number; the newest, if none is named.
    fn edition(&self, name: &str, number: Option<u64>) -> Result<Option<Edition>, CatalogError>;
    /// Deletes a collection with its editions; whether there was one.
    fn delete_collection(&self, name: &str) -> Result<bool, CatalogError>;
}
