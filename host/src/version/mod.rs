//! A folder as a version: what changed since the last one becomes pages and a manifest; and back, a version's chunks
//! read from the folder.
//!
//! [`build`] joins three streams in path order: the folder as it is, the earlier version's records, and their stamps.
//! A file whose stamp is unchanged is not read. Only leaves with a change are built anew; if nothing changed there is no new
//! version and nothing is written.

mod build;
mod guard;
mod local;
mod merge;
mod published;
mod report;
pub mod stamp_file;
mod stamps;
mod streams;
#[cfg(test)]
mod tests;

pub(crate) use build::is_disk_full;
pub use build::{
    BuildContext, BuildOptions, BuildVersionError, BuiltVersion, ChunkSink, Earlier, FolderShared, NoChunks, build,
};
pub use guard::{Standing, StandingError, Suspicion, standing};
pub use local::{LocalChunks, LocalError};
pub use published::{EncodedPages, PublishedFolder};
pub use report::{BuildReport, Deferred, DeferredReason, NOTES_MAX, Progress};
pub use stamps::{MemoryStamps, NoStamps, StatCache, StatCacheError};

use std::str::FromStr;

use headwater_protocol::path::RelPath;
use headwater_protocol::record::FileRecord;
use serde::{Deserialize, Serialize};

/// What a file that is gone from the folder means for the next version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// It stays in the version.
    #[default]
    Append,
    /// It leaves the version, unless it was freed.
    Mirror,
}

impl PublishMode {
    /// How the modes are spelled.
    pub const NAMES: [&str; 2] = ["append", "mirror"];
}

/// No mode is spelled like this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mode: it is `append` or `mirror`")]
pub struct UnknownMode(pub String);

impl FromStr for PublishMode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        match text {
            "append" => Ok(Self::Append),
            "mirror" => Ok(Self::Mirror),
            other => Err(UnknownMode(other.to_owned())),
        }
    }
}

/// What the publisher says of records whose paths are gone from the folder. A bare [`PublishMode`] says the same of all.
pub trait Absent {
    /// Whether this record stays in the next version. A file that stays can be read again only where its bytes went.
    fn stays(&self, record: &FileRecord) -> bool;

    /// Whether records below the folder `path` have to stay though the folder has a file or link there now. A version
    /// can't have both, so that one is left out.
    fn holds(&self, _path: &RelPath) -> bool {
        false
    }

    /// Told of what is in the folder and isn't as it was recorded: new, changed, or back.
    fn is_back(&self, _path: &RelPath) {}
}

impl Absent for PublishMode {
    fn stays(&self, _record: &FileRecord) -> bool {
        *self == Self::Append
    }
}
