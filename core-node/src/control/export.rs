//! Export: a version's files in a folder of the core's own machine, byte for byte, with modes and times.
//!
//! Symbolic links are made last, after all files are written: a version from outside may hold a link and a file "below"
//! it, and nothing is ever written through a link. Folders get their modes and times at the very end, because writing into
//! them changes both.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use headwater_host::durable;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::id::ChunkId;
use headwater_protocol::record::{FileKind, FileRecord};
use headwater_protocol::tree::{RecordAt, Tree};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use serde_json::json;

use super::Progress;
use super::datasets::{hold, manifest_of, tree_failed};
use super::handler::{Asker, Emitter};
use crate::core::Core;
use crate::store::ReadError;

/// Files between two words of progress.
const PROGRESS_FILES: u64 = 200;
/// Mode of a folder while its files are written.
const FOLDER_MODE_WRITING: u32 = 0o755;
/// A device does not decide who a program runs as: set-user-id and set-group-id bits are left out.
const MODE_MASK: u32 = 0o1777;
/// Symbolic links and folders that are remembered until the end; their number is bounded by the version's.
type Later = Vec<FileRecord>;

pub(super) fn export(
    core: &Arc<Core>,
    asker: &Asker,
    version: &str,
    to: &Path,
    out: &Emitter,
) -> Result<(), CodedError> {
    let (dataset, version, lease) = hold(core, asker, version)?;
    let manifest = manifest_of(&version)?;
    prepare(to)?;
    let tree = Tree::new(&manifest, &core.pages);
    let totals = manifest.totals();
    let mut writer = Writer { core, tree: &tree, to, last: None };
    let mut later = Later::new();
    let (mut files, mut bytes) = (0u64, 0u64);
    for record in tree.records() {
        let record = record.map_err(tree_failed)?;
        match record.kind {
            FileKind::File => writer.file(&record)?,
            FileKind::Folder => {
                make_folder(&at(to, &record.path)).map_err(|error| write_failed(to, &record.path, error))?;
                later.push(record.record().clone());
            }
            FileKind::Symlink => later.push(record.record().clone()),
        }
        files += 1;
        bytes += record.size;
        lease.renew_if_old();
        if files.is_multiple_of(PROGRESS_FILES) {
            if out.is_closed() {
                return Err(CodedError::new(&codes::SESSION_ENDED, "the export was given up"));
            }
            let what = format!("exporting {}@{}", dataset.name, version.summary.number);
            out.progress(Progress { what, files, bytes, bytes_total: totals.bytes });
        }
    }
    finish(to, &later)?;
    durable::sync_folder(to).map_err(|error| write_failed(to, b"", error))?;
    out.done(
        format!("{files} files of {bytes} bytes are in `{}`", to.display()),
        json!({ "dataset": dataset.name, "number": version.summary.number, "files": files, "bytes": bytes }),
    )
}

/// The folder must be new or empty: an export never mixes with what is there.
fn prepare(to: &Path) -> Result<(), CodedError> {
    durable::create_folder(to, FOLDER_MODE_WRITING).map_err(|error| write_failed(to, b"", error))?;
    let mut entries = fs::read_dir(to).map_err(|error| write_failed(to, b"", error))?;
    if entries.next().is_some() {
        return Err(CodedError::new(&codes::PATH_UNSUITABLE, format!("`{}` is not empty", to.display()))
            .with_hint("name a folder that is empty or doesn't exist"));
    }
    Ok(())
}

struct Writer<'a> {
    core: &'a Core,
    tree: &'a Tree<'a>,
    to: &'a Path,
    /// The chunk read last: small files that follow each other share one.
    last: Option<(ChunkId, Bytes)>,
}

impl Writer<'_> {
    fn file(&mut self, record: &RecordAt) -> Result<(), CodedError> {
        let path = at(self.to, &record.path);
        let failed = |error| write_failed(self.to, &record.path, error);
        make_folder(durable::parent_of(&path)).map_err(failed)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        for stretch in self.tree.stretches(record) {
            let stretch = stretch.map_err(tree_failed)?;
            let bytes = match &self.last {
                Some((id, bytes)) if *id == stretch.chunk.id => bytes.clone(),
                _ => self.core.store.read(&stretch.chunk.id).map_err(read_failed)?,
            };
            self.last = Some((stretch.chunk.id, bytes.clone()));
            let (start, end) = (stretch.offset as usize, stretch.offset as usize + stretch.length as usize);
            let part = bytes.get(start..end).ok_or_else(|| {
                CodedError::new(
                    &codes::PACK_DAMAGED,
                    format!("chunk {} is shorter than its file needs", stretch.chunk.id.short()),
                )
            })?;
            file.write_all(part).map_err(failed)?;
        }
        file.set_permissions(fs::Permissions::from_mode(record.mode & MODE_MASK)).map_err(failed)?;
        set_times(&file, record.mtime_ns).map_err(failed)
    }
}

/// Makes the links, and gives folders their modes and times, deepest first.
fn finish(to: &Path, later: &[FileRecord]) -> Result<(), CodedError> {
    // What stands deeper comes first: a link is never in the way of what is made after it, it fails instead.
    for record in later.iter().rev().filter(|record| record.kind == FileKind::Symlink) {
        let path = at(to, &record.path);
        make_folder(durable::parent_of(&path))
            .and_then(|()| symlink(OsStr::from_bytes(&record.link_target), &path))
            .and_then(|()| {
                let times = times(record.mtime_ns);
                rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)
            })
            .map_err(|error| write_failed(to, &record.path, error))?;
    }
    for record in later.iter().rev().filter(|record| record.kind == FileKind::Folder) {
        let path = at(to, &record.path);
        File::open(&path)
            .and_then(|folder| {
                folder.set_permissions(fs::Permissions::from_mode(record.mode & MODE_MASK))?;
                set_times(&folder, record.mtime_ns)
            })
            .map_err(|error| write_failed(to, &record.path, error))?;
    }
    Ok(())
}

/// Makes a folder below the export's own; a link or file in its place is an error.
fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

fn at(to: &Path, path: &[u8]) -> PathBuf {
    // The page's decoder has refused paths that are absolute or climb.
    to.join(OsStr::from_bytes(path))
}

fn set_times(file: &File, mtime_ns: i64) -> io::Result<()> {
    rustix::fs::futimens(file, &times(mtime_ns)).map_err(io::Error::from)
}

fn times(mtime_ns: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime_ns.div_euclid(1_000_000_000), tv_nsec: mtime_ns.rem_euclid(1_000_000_000) };
    Timestamps { last_access: time, last_modification: time }
}

fn write_failed(to: &Path, path: &[u8], error: io::Error) -> CodedError {
    let path = at(to, path);
    CodedError::io(&codes::WRITE_FAILED, format!("can't write `{}`", path.display()), error)
}

fn read_failed(error: ReadError) -> CodedError {
    let code = match &error {
        ReadError::Missing(_) => &codes::CHUNK_MISSING,
        ReadError::Damaged { .. } => &codes::PACK_DAMAGED,
        ReadError::Packs(_) => &codes::READ_FAILED,
        ReadError::Catalog(_) => &codes::CATALOG_FAILED,
    };
    CodedError::new(code, "a chunk of the version can't be read").with_source(error)
}
