//! Listing a folder in path order, without following links.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use headwater_protocol::path::{self, RelPath};
use headwater_protocol::record::FileKind;
use rustix::fs::{AtFlags, FileType, Mode, RawDir, Stat};
use rustix::io::Errno;
use serde::Serialize;

use super::options::{Cancelled, ScanOptions};
use super::rules::Rules;
use super::stamp::Stamp;
use crate::beneath;

const LISTING_BUFFER_BYTES: usize = 32 << 10;
/// Modes that the usual umasks give folders; they are not recorded.
const FOLDER_MODES_USUAL: [u32; 2] = [0o755, 0o775];

/// Why something in a folder is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// A pipe, socket or device.
    Special,
    /// It can't be read; what was recorded of it stays.
    Unreadable(String),
    /// Its path can't be in a dataset.
    PathUnsuitable(String),
    /// A line that is no ignore rule; the other rules count.
    BadRule,
    /// It took the place of a folder of which the dataset keeps files that are gone from here.
    PlaceHeld,
}

/// Something in a folder that is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// What, as text for people.
    pub path: String,
    /// Why.
    pub reason: SkipReason,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            SkipReason::Special => write!(f, "`{}` is a pipe, socket or device", self.path),
            SkipReason::Unreadable(why) => write!(f, "`{}` can't be read: {why}", self.path),
            SkipReason::PathUnsuitable(why) => f.write_str(why),
            SkipReason::BadRule => f.write_str(&self.path),
            SkipReason::PlaceHeld => {
                write!(f, "`{}` stands where the dataset has a folder with files that are not here any more", self.path)
            }
        }
    }
}

/// Something in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkEntry {
    /// Where.
    pub path: RelPath,
    /// What.
    pub kind: FileKind,
    /// What `stat` says.
    pub stamp: Stamp,
    /// Target of a link, else empty.
    pub link_target: Vec<u8>,
}

/// What a walk meets, in path order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalkItem {
    /// Something to record.
    Entry(WalkEntry),
    /// Something that can't be looked at now: what was recorded at and below this path stays.
    Keep(RelPath),
    /// A note about something that is left out.
    Note(Skipped),
}

/// Why a folder can't be walked.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The folder itself is not there.
    #[error("there is no folder `{}`", .path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// The folder itself can't be read.
    #[error("the folder `{}` can't be read: {source}", .path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder itself is one of those that are never looked at.
    #[error("the folder `{}` is one of those that are never looked at", .path.display())]
    Excluded {
        /// The folder.
        path: PathBuf,
    },
    /// It was stopped.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl WalkError {
    /// Why the folder itself can't be opened.
    pub(crate) fn of_root(folder: &Path, error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::NOTDIR => Self::Missing { path: folder.to_owned() },
            other => Self::Unreadable { path: folder.to_owned(), source: other.into() },
        }
    }
}

/// A walk through a folder; holds the names of the folders on the way down, not more.
#[derive(Debug)]
pub struct Walk<'o> {
    options: &'o ScanOptions,
    excluded: Vec<(u64, u64)>,
    stack: Vec<Level>,
    /// Path of the folder on top of the stack, with its closing slash; empty for the root.
    prefix: Vec<u8>,
    ready: VecDeque<WalkItem>,
    buffer: Box<[MaybeUninit<u8>]>,
}

#[derive(Debug)]
struct Level {
    folder: OwnedFd,
    names: Names,
    rules: Rules,
    /// Length of `prefix` in the folder above.
    outer_prefix_bytes: usize,
}

/// Names of one folder in one allocation: there may be a million of them.
#[derive(Debug, Default)]
struct Names {
    arena: Vec<u8>,
    entries: Vec<NameAt>,
    next: usize,
}

#[derive(Clone, Copy, Debug)]
struct NameAt {
    start: u32,
    length: u8,
    file_type: FileType,
}

impl Names {
    fn name(&self, at: NameAt) -> &[u8] {
        &self.arena[at.start as usize..at.start as usize + at.length as usize]
    }

    fn sort(&mut self) {
        let arena = &self.arena;
        let name = |at: &NameAt| &arena[at.start as usize..at.start as usize + at.length as usize];
        self.entries.sort_unstable_by(|left, right| path::compare(name(left), name(right)));
    }
}

impl<'o> Walk<'o> {
    /// Begins at `folder`.
    pub fn new(folder: &Path, options: &'o ScanOptions) -> Result<Self, WalkError> {
        let failed = |error| WalkError::of_root(folder, error);
        let root = beneath::root(folder).map_err(failed)?;
        let stat = rustix::fs::fstat(&root).map_err(failed)?;
        let excluded = options.exclude.iter().filter_map(|path| rustix::fs::stat(path).ok());
        let mut walk = Self {
            options,
            excluded: excluded.map(|stat| (stat.st_dev, stat.st_ino)).collect(),
            stack: Vec::new(),
            prefix: Vec::new(),
            ready: VecDeque::new(),
            buffer: vec![MaybeUninit::uninit(); LISTING_BUFFER_BYTES].into_boxed_slice(),
        };
        if walk.is_excluded(&stat) {
            return Err(WalkError::Excluded { path: folder.to_owned() });
        }
        let mut complaints = Vec::new();
        let rules = Rules::configured(&options.ignore, &mut complaints);
        walk.complain(complaints);
        let (rules, names) = walk.list(&root, &rules).map_err(failed)?;
        walk.stack.push(Level { folder: root, names, rules, outer_prefix_bytes: 0 });
        Ok(walk)
    }

    /// The next thing met; none at the end.
    pub fn advance(&mut self) -> Result<Option<WalkItem>, Cancelled> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(Some(item));
            }
            let Some(level) = self.stack.last_mut() else { return Ok(None) };
            match level.names.entries.get(level.names.next).copied() {
                None => {
                    let level = self.stack.pop().expect("there is a level");
                    self.prefix.truncate(level.outer_prefix_bytes);
                }
                Some(at) => {
                    level.names.next += 1;
                    if level.names.next.is_multiple_of(1024) {
                        self.options.cancel.check()?;
                    }
                    self.visit(at);
                }
            }
        }
    }

    fn visit(&mut self, at: NameAt) {
        let level = self.stack.last().expect("a name has its folder");
        let name = level.names.name(at);
        let mut path = Vec::with_capacity(self.prefix.len() + name.len());
        path.extend_from_slice(&self.prefix);
        path.extend_from_slice(name);
        let path = match RelPath::new(path) {
            Ok(path) => path,
            Err(error) => {
                let shown = String::from_utf8_lossy(name).into_owned();
                return self.note(shown, SkipReason::PathUnsuitable(error.to_string()));
            }
        };
        if at.file_type == FileType::Directory {
            return self.enter(path);
        }
        let stat = match rustix::fs::statat(&level.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return,
            Err(error) => return self.keep(path, error),
        };
        if self.is_excluded(&stat) {
            return;
        }
        let entry = |kind, link_target| WalkEntry { path: path.clone(), kind, stamp: Stamp::of(&stat), link_target };
        let item = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => WalkItem::Entry(entry(FileKind::File, Vec::new())),
            FileType::Symlink => match rustix::fs::readlinkat(&level.folder, name, Vec::new()) {
                Ok(target) => WalkItem::Entry(entry(FileKind::Symlink, target.into_bytes())),
                Err(Errno::NOENT | Errno::INVAL) => return,
                Err(error) => return self.keep(path, error),
            },
            FileType::Directory => return self.enter(path),
            _ => return self.note(path.to_string(), SkipReason::Special),
        };
        self.ready.push_back(item);
    }

    fn enter(&mut self, path: RelPath) {
        let outer_prefix_bytes = self.prefix.len();
        let name = &path.as_bytes()[outer_prefix_bytes..];
        let level = self.stack.last().expect("a name has its folder");
        let entered = beneath::open(level.folder.as_fd(), name, beneath::FOLDER, Mode::empty())
            .and_then(|folder| Ok((rustix::fs::fstat(&folder)?, folder)));
        let (stat, folder) = match entered {
            Ok(entered) => entered,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return,
            Err(error) => return self.keep(path, error),
        };
        if self.is_excluded(&stat) {
            return;
        }
        let rules = level.rules.clone();
        self.prefix.extend_from_slice(name);
        self.prefix.push(b'/');
        match self.list(&folder, &rules) {
            Ok((rules, names)) => {
                // A folder's time is that of what was made or removed in it last, which is no news of its own.
                let stamp = Stamp { mtime_ns: 0, ctime_ns: 0, size: 0, ..Stamp::of(&stat) };
                if names.entries.is_empty() || !FOLDER_MODES_USUAL.contains(&stamp.mode) {
                    let entry = WalkEntry { path, kind: FileKind::Folder, stamp, link_target: Vec::new() };
                    self.ready.push_front(WalkItem::Entry(entry));
                }
                self.stack.push(Level { folder, names, rules, outer_prefix_bytes });
            }
            Err(error) => {
                self.prefix.truncate(outer_prefix_bytes);
                self.keep(path, error);
            }
        }
    }

    /// The names in the folder whose path is `prefix` that are to be recorded, in order, and the rules that hold there.
    fn list(&mut self, folder: &OwnedFd, outer: &Rules) -> rustix::io::Result<(Rules, Names)> {
        let mut complaints = Vec::new();
        let rules = outer.enter(folder.as_fd(), &self.prefix, self.options.gitignore, &mut complaints);
        self.complain(complaints);
        let mut names = Names::default();
        let mut specials = Vec::new();
        let mut path = self.prefix.clone();
        let mut listing = RawDir::new(folder, &mut self.buffer);
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            path.truncate(self.prefix.len());
            path.extend_from_slice(name);
            let Some(file_type) = admitted(&rules, folder, &path, name, entry.file_type()) else { continue };
            match file_type {
                FileType::RegularFile | FileType::Directory | FileType::Symlink | FileType::Unknown => {
                    let (Ok(start), Ok(length)) = (u32::try_from(names.arena.len()), u8::try_from(name.len())) else {
                        return Err(Errno::OVERFLOW);
                    };
                    names.arena.extend_from_slice(name);
                    names.entries.push(NameAt { start, length, file_type });
                }
                _ => specials.push(String::from_utf8_lossy(name).into_owned()),
            }
        }
        names.sort();
        for name in specials {
            self.note(format!("{}{name}", String::from_utf8_lossy(&self.prefix)), SkipReason::Special);
        }
        Ok((rules, names))
    }

    fn is_excluded(&self, stat: &Stat) -> bool {
        !self.excluded.is_empty() && self.excluded.contains(&(stat.st_dev, stat.st_ino))
    }

    fn keep(&mut self, path: RelPath, error: Errno) {
        self.note(path.to_string(), SkipReason::Unreadable(io::Error::from(error).to_string()));
        self.ready.push_back(WalkItem::Keep(path));
    }

    fn note(&mut self, path: String, reason: SkipReason) {
        self.ready.push_back(WalkItem::Note(Skipped { path, reason }));
    }

    fn complain(&mut self, complaints: Vec<String>) {
        for path in complaints {
            self.note(path, SkipReason::BadRule);
        }
    }
}

/// What the listing says a name is, unless rules ignore it. Some file systems do not say it; where rules have to know, it is
/// looked up.
fn admitted(rules: &Rules, folder: &OwnedFd, path: &[u8], name: &[u8], listed: FileType) -> Option<FileType> {
    if rules.is_empty() {
        return Some(listed);
    }
    let file_type = match listed {
        FileType::Unknown => rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
        known => known,
    };
    (!rules.ignores(path, file_type == FileType::Directory)).then_some(file_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_for_folders_holds_where_the_listing_does_not_say_what_is_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("build")).unwrap();
        std::fs::create_dir(folder.path().join("source")).unwrap();
        std::fs::write(folder.path().join("file"), "x").unwrap();
        let root = beneath::root(folder.path()).unwrap();
        let rules = Rules::configured(&["build/".to_owned(), "file/".to_owned()], &mut Vec::new());
        let check = |name: &str, wanted: Option<FileType>| {
            let name = name.as_bytes();
            assert_eq!(admitted(&rules, &root, name, name, FileType::Unknown), wanted, "{name:?}");
        };
        check("build", None);
        check("source", Some(FileType::Directory));
        check("file", Some(FileType::RegularFile));
        check("gone", Some(FileType::Unknown));
        assert_eq!(admitted(&rules, &root, b"build", b"build", FileType::Directory), None);
        assert_eq!(
            admitted(&Rules::default(), &root, b"build", b"build", FileType::Unknown),
            Some(FileType::Unknown),
            "without rules nothing is looked up"
        );
    }
}
