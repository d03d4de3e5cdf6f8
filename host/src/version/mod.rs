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
mod report;
mod stamps;
mod streams;
#[cfg(test)]
mod tests;

pub(crate) use build::is_disk_full;
pub use build::{BuildContext, BuildOptions, BuildVersionError, BuiltVersion, ChunkSink, Earlier, NoChunks, build};
pub use guard::{Standing, StandingError, Suspicion, standing};
pub use local::{LocalChunks, LocalError};
pub use report::{BuildReport, Deferred, DeferredReason, NOTES_MAX, Progress};
pub use stamps::{MemoryStamps, NoStamps, StatCache, StatCacheError};

use std::collections::BTreeSet;

use headwater_protocol::path::RelPath;
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

/// Files that were freed: gone from the folder, but not from the versions.
pub trait Freed {
    /// Whether the file at `path` was freed.
    fn is_freed(&self, path: &RelPath) -> bool;
}

impl Freed for BTreeSet<RelPath> {
    fn is_freed(&self, path: &RelPath) -> bool {
        self.contains(path)
    }
}

impl<F: Fn(&RelPath) -> bool> Freed for F {
    fn is_freed(&self, path: &RelPath) -> bool {
        self(path)
    }
}
