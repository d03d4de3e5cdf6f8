//! A version as a folder: `DIR/versions/<number>` complete and synced, then `DIR/current` swapped to it atomically.
//!
//! ```text
//! DIR/current            -> versions/12        a link; swapped by rename
//! DIR/versions/11/…                            complete, files read-only
//! DIR/versions/12/…
//! DIR/versions/.12.version                     the version id of 12
//! DIR/versions/.13.partial/…                   being written, or left by a kill: the next attempt goes on with it
//! DIR/versions/.12.again                       12 is to be written again, or is being: its files proved damaged
//! ```
//!
//! A file that is the same as in the version before (content, mode and time) is hashed again and then linked, not copied.
//! Modes are kept but for write and set-id bits, times of files and links are kept, empty folders exist. Links are made
//! last; one that leads out of the folder is left out with a note. What a hostile version could try (files below a link or
//! a file) is refused before anything is written there. After a kill at any point the next attempt completes the work.

mod folder;
mod links;
#[cfg(test)]
mod tests;
mod write;

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use headwater_protocol::id::VersionId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::record::ChunkRef;
use headwater_protocol::tree::{PageSource, TreeError};
use serde::Serialize;

use crate::error::{CodedError, codes};
use crate::scan::{Cancel, Cancelled};
use crate::version::NOTES_MAX;

/// The link to the newest complete version.
pub const CURRENT_LINK: &str = "current";
/// The folder with the versions.
pub const VERSIONS_FOLDER: &str = "versions";

/// Gives chunks by id. Called from one thread; what it gives is verified.
pub trait ChunkProvider {
    /// The plain bytes of `chunk`.
    fn chunk(&mut self, chunk: &ChunkRef) -> Result<Bytes, ProviderError>;
}

/// Why a chunk can't be had.
#[derive(Debug, thiserror::Error)]
#[error("chunk {} can't be had: {source}", .chunk.id.short())]
pub struct ProviderError {
    /// The chunk.
    pub chunk: ChunkRef,
    /// Why.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A version and where its pages are.
#[derive(Clone, Copy)]
pub struct Version<'a> {
    /// Its number.
    pub number: u64,
    /// Its id.
    pub id: VersionId,
    /// Its manifest.
    pub manifest: &'a Manifest,
    /// Its pages.
    pub pages: &'a dyn PageSource,
}

/// How to materialise.
#[derive(Clone, Debug)]
pub struct MaterialiseOptions {
    /// Versions to keep, this one included; at least 1.
    pub keep: usize,
    /// Stops the work; what is done stays for the next attempt.
    pub cancel: Cancel,
}

impl Default for MaterialiseOptions {
    fn default() -> Self {
        Self { keep: 3, cancel: Cancel::default() }
    }
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MaterialiseReport {
    /// The version was complete before.
    pub was_complete: bool,
    /// Files written.
    pub files_written: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Files linked from the version before.
    pub files_linked: u64,
    /// Files found complete from an earlier attempt.
    pub files_resumed: u64,
    /// Links and folders made.
    pub others: u64,
    /// Links that were left out because they lead out of the folder, and other remarks; at most [`NOTES_MAX`].
    pub notes: Vec<String>,
    /// Old versions removed.
    pub versions_removed: Vec<u64>,
}

impl MaterialiseReport {
    fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        }
    }
}

/// How far the work is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MaterialiseProgress {
    /// Files done.
    pub files: u64,
    /// Files of the version.
    pub files_total: u64,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes of the version.
    pub bytes_total: u64,
}

/// Why a version can't be materialised. What was written stays for the next attempt.
#[derive(Debug, thiserror::Error)]
pub enum MaterialiseError {
    /// A file or folder can't be written.
    #[error("can't write `{}`: {source}", .path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The version holds what could do harm.
    #[error("the version can't be written out safely: {0}")]
    Unsafe(String),
    /// Its pages can't be read.
    #[error("the version's pages can't be read: {0}")]
    Pages(#[from] TreeError),
    /// A chunk can't be had.
    #[error(transparent)]
    Chunk(#[from] ProviderError),
    /// A chunk is not what its id names.
    #[error("the bytes for chunk {} of `{path}` are not what the id names", .chunk.id.short())]
    Mismatch {
        /// The chunk.
        chunk: ChunkRef,
        /// The file, as text for people.
        path: String,
    },
    /// It was stopped.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl MaterialiseError {
    fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }
}

impl From<MaterialiseError> for CodedError {
    fn from(error: MaterialiseError) -> Self {
        let code = match &error {
            _ if crate::version::is_disk_full(&error) => &codes::DISK_FULL,
            MaterialiseError::Write { .. } => &codes::WRITE_FAILED,
            MaterialiseError::Unsafe(_) => &codes::UNSAFE_MANIFEST,
            MaterialiseError::Pages(_) => &codes::CATALOG_DAMAGED,
            MaterialiseError::Chunk(_) => &codes::CHUNK_MISSING,
            MaterialiseError::Mismatch { .. } => &codes::HASH_MISMATCH,
            MaterialiseError::Cancelled(_) => &codes::SESSION_ENDED,
        };
        Self::new(code, error.to_string())
    }
}

/// The version that `DIR/current` leads to, and its folder. Its files were complete once; who reads them verifies.
pub fn current_version(folder: &Path) -> Option<(u64, VersionId, PathBuf)> {
    let layout = folder::Layout::of(folder);
    let number = layout.current()?;
    Some((number, layout.holds(number)?, layout.version_path(number)))
}

/// Whether version `number` is complete below `folder`, with nothing that proved damaged, and is the version `id`.
pub fn is_complete(folder: &Path, number: u64, id: VersionId) -> bool {
    folder::Layout::of(folder).is_complete(number, id)
}

/// Notes that files of version `number` proved damaged: the next [`materialise`] of it writes it again. Until that is
/// done its folder stays, and so does the link to it.
pub fn doubt(folder: &Path, number: u64) -> Result<(), MaterialiseError> {
    folder::Layout::of(folder).doubt(number)
}

/// Makes `DIR/current` be `version`, with chunks from `provider`. `previous` is the version that unchanged files may be
/// linked from, if its folder is still there.
pub fn materialise(
    folder: &Path,
    version: Version<'_>,
    previous: Option<Version<'_>>,
    provider: &mut dyn ChunkProvider,
    options: &MaterialiseOptions,
    progress: &mut dyn FnMut(MaterialiseProgress),
) -> Result<MaterialiseReport, MaterialiseError> {
    let mut report = MaterialiseReport::default();
    let layout = folder::Layout::open(folder)?;
    let was_there = layout.current();
    if layout.is_complete(version.number, version.id) {
        report.was_complete = true;
    } else {
        let partial = layout.begin(version.number, version.id)?;
        // What is written again takes from what is there: each file is hashed before it is linked.
        let usable = if layout.holds(version.number) == Some(version.id) {
            Some(version)
        } else {
            previous.filter(|old| old.number != version.number && layout.is_complete(old.number, old.id))
        };
        let old = usable.map(|old| (layout.version_path(old.number), old));
        write::write_tree(&partial, version, old, provider, options, progress, &mut report)?;
        links::make_links(&partial, version, options, &mut report)?;
        write::finish_folders(&partial, version)?;
        layout.complete(version.number, version.id, &partial)?;
    }
    if was_there != Some(version.number) {
        layout.swap_current(version.number)?;
    }
    report.versions_removed = layout.prune(options.keep.max(1), version.number)?;
    Ok(report)
}
