//! Files and folders of a version, written in path order.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater_protocol::id::ChunkId;
use headwater_protocol::path;
use headwater_protocol::record::{ChunkRef, Content, FileKind, FileRecord};
use headwater_protocol::tree::{RecordAt, Tree, TreeError};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::{ChunkProvider, MaterialiseError, MaterialiseOptions, MaterialiseProgress, MaterialiseReport, Version};
use crate::beneath;
use crate::disk;
use crate::scan::Stamp;

const NANOS_PER_SECOND: i64 = 1_000_000_000;
/// Mode bits that files get: no write bits, since versions don't change, and no set-id bits from afar.
const FILE_MODE_MASK: u32 = 0o555;
/// Folders stay usable and removable for their owner.
const FOLDER_MODE_MASK: u32 = 0o777;
const FOLDER_MODE_LEAST: u32 = 0o700;
const FOLDER_MODE_USUAL: u32 = 0o755;
/// Shared chunks at hand while their files are written.
const CHUNKS_HELD_MAX: usize = 4;
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Writes what is no link, linking from `old` what is unchanged there.
pub(super) fn write_tree(
    partial: &Path,
    version: Version<'_>,
    old: Option<(PathBuf, Version<'_>)>,
    provider: &mut dyn ChunkProvider,
    options: &MaterialiseOptions,
    progress: &mut dyn FnMut(MaterialiseProgress),
    report: &mut MaterialiseReport,
) -> Result<(), MaterialiseError> {
    let root = beneath::root(partial).map_err(|error| MaterialiseError::write(partial)(error.into()))?;
    let tree = Tree::new(version.manifest, version.pages);
    let totals = version.manifest.totals();
    let mut done = MaterialiseProgress { files_total: totals.files, bytes_total: totals.bytes, ..Default::default() };
    let old = old.and_then(|(path, old)| Some((beneath::root(&path).ok()?, old)));
    let mut writer = Writer {
        partial,
        root,
        tree,
        old: old.map(|(root, old)| OldFiles::new(root, Tree::new(old.manifest, old.pages))),
        provider,
        held: Vec::new(),
        folder: None,
        report,
    };
    let mut last_leafy: Option<Vec<u8>> = None;
    let mut told = Instant::now();
    for record in tree.records() {
        let record = record?;
        options.cancel.check()?;
        if let Some(last) = last_leafy.as_ref().filter(|last| path::is_below(&record.path, last)) {
            let (path, last) = (String::from_utf8_lossy(&record.path), String::from_utf8_lossy(last));
            return Err(MaterialiseError::Unsafe(format!("`{path}` lies below `{last}`, which is no folder")));
        }
        if record.kind != FileKind::Folder {
            last_leafy = Some(record.path.clone());
        }
        match record.kind {
            FileKind::File => writer.file(&record)?,
            FileKind::Folder => {
                writer.make_folder(&record.path).map_err(|error| writer.failed(&record)(error.into()))?;
                writer.report.others += 1;
            }
            FileKind::Symlink => {}
        }
        done.files += 1;
        done.bytes += record.size;
        if told.elapsed() >= PROGRESS_INTERVAL {
            told = Instant::now();
            progress(done);
        }
    }
    progress(done);
    Ok(())
}

/// Gives folders their recorded modes, when nothing has to be written into them any more.
pub(super) fn finish_folders(partial: &Path, version: Version<'_>) -> Result<(), MaterialiseError> {
    let root = beneath::root(partial).map_err(|error| MaterialiseError::write(partial)(error.into()))?;
    for record in Tree::new(version.manifest, version.pages).records() {
        let record = record?;
        if record.kind != FileKind::Folder {
            continue;
        }
        let mode = Mode::from_raw_mode(record.mode & FOLDER_MODE_MASK | FOLDER_MODE_LEAST);
        beneath::open(root.as_fd(), &record.path, beneath::FOLDER, Mode::empty())
            .and_then(|folder| rustix::fs::fchmod(&folder, mode))
            .map_err(|error| MaterialiseError::write(partial.join(beneath::as_path(&record.path)))(error.into()))?;
    }
    Ok(())
}

struct Writer<'w> {
    partial: &'w Path,
    root: OwnedFd,
    tree: Tree<'w>,
    old: Option<OldFiles<'w>>,
    provider: &'w mut dyn ChunkProvider,
    held: Vec<(ChunkId, Bytes)>,
    /// The folder that was written into last, and its path.
    folder: Option<(Vec<u8>, OwnedFd)>,
    report: &'w mut MaterialiseReport,
}

impl Writer<'_> {
    fn file(&mut self, record: &RecordAt) -> Result<(), MaterialiseError> {
        let (parent, name) = split(&record.path);
        self.enter(parent).map_err(|error| self.failed(record)(error.into()))?;
        let (_, folder) = self.folder.as_ref().expect("it was entered");
        let found = rustix::fs::openat(folder, name, beneath::READ | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let is_there = !matches!(found, Err(Errno::NOENT));
        if let Ok(found) = found
            && is_finished(&found, record)
            && holds(self.tree, &mut File::from(found), record)?
        {
            self.report.files_resumed += 1;
            return Ok(());
        }
        if is_there {
            rustix::fs::unlinkat(folder, name, AtFlags::empty()).map_err(|error| self.failed(record)(error.into()))?;
        }
        if let Some(old) = &mut self.old
            && old.holds(record)?
            && rustix::fs::linkat(&old.root, &record.path[..], folder, name, AtFlags::empty()).is_ok()
        {
            self.report.files_linked += 1;
            return Ok(());
        }
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = match rustix::fs::openat(folder, name, create, Mode::RUSR | Mode::WUSR) {
            Ok(file) => File::from(file),
            Err(error) => return Err(self.failed(record)(error.into())),
        };
        self.contents(record, &mut file)?;
        finish_file(&file, record).map_err(|error| self.failed(record)(error.into()))?;
        self.report.files_written += 1;
        self.report.bytes_written += record.size;
        Ok(())
    }

    fn contents(&mut self, record: &RecordAt, file: &mut File) -> Result<(), MaterialiseError> {
        match &record.content {
            Content::Empty => Ok(()),
            Content::Shared { extent, hash } => {
                let chunk = record.leaf.chunks[extent.chunk as usize];
                let bytes = self.shared(&chunk, record)?;
                let range = extent.offset as usize..extent.offset as usize + extent.length as usize;
                let stretch = &bytes[range];
                if ChunkId::of(stretch) != *hash {
                    let why = "the hash of a file contradicts the chunk that holds it".to_owned();
                    return Err(MaterialiseError::Unsafe(why));
                }
                self.write(record, file, stretch)
            }
            Content::Whole(_) | Content::Paged { .. } => {
                for stretch in self.tree.stretches(record) {
                    let chunk = stretch?.chunk;
                    let bytes = self.chunk(&chunk, record)?;
                    self.write(record, file, &bytes)?;
                }
                Ok(())
            }
        }
    }

    fn write(&self, record: &RecordAt, file: &mut File, bytes: &[u8]) -> Result<(), MaterialiseError> {
        disk::before_write(self.partial, bytes.len()).and_then(|()| file.write_all(bytes)).map_err(self.failed(record))
    }

    fn shared(&mut self, chunk: &ChunkRef, record: &FileRecord) -> Result<Bytes, MaterialiseError> {
        if let Some((_, bytes)) = self.held.iter().find(|(id, _)| *id == chunk.id) {
            return Ok(bytes.clone());
        }
        let bytes = self.chunk(chunk, record)?;
        if self.held.len() == CHUNKS_HELD_MAX {
            self.held.remove(0);
        }
        self.held.push((chunk.id, bytes.clone()));
        Ok(bytes)
    }

    fn chunk(&mut self, chunk: &ChunkRef, record: &FileRecord) -> Result<Bytes, MaterialiseError> {
        let bytes = self.provider.chunk(chunk)?;
        if bytes.len() != chunk.length as usize || ChunkId::of(&bytes) != chunk.id {
            let path = String::from_utf8_lossy(&record.path).into_owned();
            return Err(MaterialiseError::Mismatch { chunk: *chunk, path });
        }
        Ok(bytes)
    }

    /// Makes `folder` the one that is written into, creating what is missing on the way.
    fn enter(&mut self, parent: &[u8]) -> rustix::io::Result<()> {
        if self.folder.as_ref().is_some_and(|(path, _)| path == parent) {
            return Ok(());
        }
        let opened = self.make_folder(parent)?;
        self.folder = Some((parent.to_vec(), opened));
        Ok(())
    }

    fn make_folder(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        make_folder(self.root.as_fd(), path)
    }

    fn failed(&self, record: &FileRecord) -> impl FnOnce(io::Error) -> MaterialiseError + use<> {
        MaterialiseError::write(self.partial.join(beneath::as_path(&record.path)))
    }
}

/// The files of the version before, looked up in path order.
struct OldFiles<'t> {
    root: OwnedFd,
    tree: Tree<'t>,
    records: Box<dyn Iterator<Item = Result<RecordAt, TreeError>> + 't>,
    at: Option<RecordAt>,
}

impl<'t> OldFiles<'t> {
    fn new(root: OwnedFd, tree: Tree<'t>) -> Self {
        Self { root, tree, records: Box::new(tree.records()), at: None }
    }

    /// Whether the file is there with the same record, and its bytes are still the right ones.
    fn holds(&mut self, record: &RecordAt) -> Result<bool, MaterialiseError> {
        loop {
            let order = self.at.as_ref().map(|at| path::compare(&at.path, &record.path));
            match order {
                Some(std::cmp::Ordering::Equal) => break,
                Some(std::cmp::Ordering::Greater) => return Ok(false),
                Some(std::cmp::Ordering::Less) | None => match self.records.next() {
                    // An old version that can't be read is no reason to fail: its files are just not used.
                    Some(next) => match next {
                        Ok(next) => self.at = Some(next),
                        Err(_) => return Ok(false),
                    },
                    None => return Ok(false),
                },
            }
        }
        let Some(old) = &self.at else { return Ok(false) };
        let same = old.kind == record.kind && old.mode == record.mode && old.mtime_ns == record.mtime_ns;
        if !same || old.size != record.size || !same_content(old, record) {
            return Ok(false);
        }
        let Ok(mut file) = beneath::open_file(self.root.as_fd(), &record.path) else { return Ok(false) };
        Ok(is_finished(&file, record) && holds(self.tree, &mut file, old)?)
    }
}

fn same_content(old: &RecordAt, new: &RecordAt) -> bool {
    match (&old.content, &new.content) {
        (Content::Shared { hash: old, .. }, Content::Shared { hash: new, .. }) => old == new,
        (Content::Whole(old_extents), Content::Whole(new_extents)) => {
            let olds = old_extents.iter().map(|extent| old.leaf.chunks[extent.chunk as usize]);
            olds.eq(new_extents.iter().map(|extent| new.leaf.chunks[extent.chunk as usize]))
        }
        (old, new) => old == new,
    }
}

/// Whether a file has the size, mode and time that are given to it when it is complete.
fn is_finished(file: &impl AsFd, record: &FileRecord) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| {
        let stamp = Stamp::of(&stat);
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile
            && stamp.size == record.size
            && stamp.mtime_ns == record.mtime_ns
            && stamp.mode == record.mode & FILE_MODE_MASK
    })
}

/// Whether a file's bytes are those of the record.
fn holds(tree: Tree<'_>, file: &mut File, record: &RecordAt) -> Result<bool, MaterialiseError> {
    let mut buffer = Vec::new();
    let mut next_is = |length: u32, id: &ChunkId| {
        buffer.resize(length as usize, 0);
        file.read_exact(&mut buffer).is_ok() && ChunkId::of(&buffer) == *id
    };
    match &record.content {
        Content::Empty => Ok(true),
        Content::Shared { extent, hash } => Ok(next_is(extent.length, hash)),
        Content::Whole(_) | Content::Paged { .. } => {
            for stretch in tree.stretches(record) {
                let chunk = stretch?.chunk;
                if !next_is(chunk.length, &chunk.id) {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    }
}

/// Gives a written file its time and, last, the mode that says that it is complete.
fn finish_file(file: &File, record: &FileRecord) -> rustix::io::Result<()> {
    let time = timespec(record.mtime_ns);
    rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(record.mode & FILE_MODE_MASK))
}

/// The folder of `path`, opened, and its last component.
pub(super) fn enter_folder<'p>(root: BorrowedFd<'_>, path: &'p [u8]) -> rustix::io::Result<(OwnedFd, &'p [u8])> {
    let (parent, name) = split(path);
    Ok((make_folder(root, parent)?, name))
}

/// The folder `path`, opened; what is missing on the way is created. The root for an empty path.
fn make_folder(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    if path.is_empty() {
        return rustix::io::dup(root);
    }
    match beneath::open(root, path, beneath::FOLDER, Mode::empty()) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let mut folder = rustix::io::dup(root)?;
    for component in path.split(|&byte| byte == b'/') {
        match rustix::fs::mkdirat(&folder, component, Mode::from_raw_mode(FOLDER_MODE_USUAL)) {
            Err(Errno::EXIST) | Ok(()) => {}
            Err(error) => return Err(error),
        }
        folder = beneath::open(folder.as_fd(), component, beneath::FOLDER, Mode::empty())?;
    }
    Ok(folder)
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

pub(super) fn timespec(ns: i64) -> Timespec {
    Timespec { tv_sec: ns.div_euclid(NANOS_PER_SECOND), tv_nsec: ns.rem_euclid(NANOS_PER_SECOND) as _ }
}
