//! The layout around versions: what is complete, what is partial, the swap of `current`, and removing old versions.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use headwater_protocol::id::VersionId;
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::{CURRENT_LINK, MaterialiseError, VERSIONS_FOLDER};
use crate::durable;

/// The link that becomes `current` by rename.
const NEXT_LINK: &str = ".current.next";
const FOLDER_MODE: u32 = 0o755;
const RECORD_MODE: u32 = 0o644;

pub(super) struct Layout {
    folder: PathBuf,
    versions: PathBuf,
}

impl Layout {
    pub(super) fn open(folder: &Path) -> Result<Self, MaterialiseError> {
        let versions = folder.join(VERSIONS_FOLDER);
        durable::create_folder(&versions, FOLDER_MODE).map_err(MaterialiseError::write(&versions))?;
        Ok(Self { folder: folder.to_owned(), versions })
    }

    /// The layout of a folder that is only looked at.
    pub(super) fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), versions: folder.join(VERSIONS_FOLDER) }
    }

    pub(super) fn version_path(&self, number: u64) -> PathBuf {
        self.versions.join(number.to_string())
    }

    /// The number that `current` leads to.
    pub(super) fn current(&self) -> Option<u64> {
        let target = fs::read_link(self.folder.join(CURRENT_LINK)).ok()?;
        let number = target.strip_prefix(VERSIONS_FOLDER).ok()?.to_str()?.parse().ok()?;
        self.version_path(number).is_dir().then_some(number)
    }

    /// The version whose files the folder of `number` holds, whether they are all still good or not.
    pub(super) fn holds(&self, number: u64) -> Option<VersionId> {
        recorded(&self.id_path(number)).filter(|_| self.version_path(number).is_dir())
    }

    /// Whether the folder of `number` is there and complete, and of this version.
    pub(super) fn is_complete(&self, number: u64, id: VersionId) -> bool {
        self.holds(number) == Some(id) && !self.again_path(number).exists()
    }

    /// Notes that the folder of `number` is to be written again. Until that is done it stays where it is.
    pub(super) fn doubt(&self, number: u64) -> Result<(), MaterialiseError> {
        let path = self.again_path(number);
        durable::write_atomic(&path, b"damaged\n", RECORD_MODE).map_err(MaterialiseError::write(&path))
    }

    /// The folder to write into; what an earlier attempt at the same version left is in it. A folder of this number that
    /// is there already stays, and stays readable, until the new one takes its place.
    pub(super) fn begin(&self, number: u64, id: VersionId) -> Result<PathBuf, MaterialiseError> {
        let (partial, complete) = (self.partial_path(number), self.version_path(number));
        let record = if fs::symlink_metadata(&complete).is_ok() {
            if !self.id_path(number).exists() {
                // Whatever is written here has its record first: this is somebody else's.
                let source = io::Error::new(io::ErrorKind::AlreadyExists, "it is in the way; move it away");
                return Err(MaterialiseError::Write { path: complete, source });
            }
            self.again_path(number)
        } else {
            self.id_path(number)
        };
        if recorded(&record) != Some(id) {
            remove_tree(&partial).map_err(MaterialiseError::write(&partial))?;
            durable::write_atomic(&record, format!("{id}\n").as_bytes(), RECORD_MODE)
                .map_err(MaterialiseError::write(&record))?;
        }
        match fs::create_dir(&partial) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(MaterialiseError::Write { path: partial, source: error });
            }
            _ => {}
        }
        fs::set_permissions(&partial, fs::Permissions::from_mode(FOLDER_MODE))
            .map_err(MaterialiseError::write(&partial))?;
        Ok(partial)
    }

    /// Puts a finished partial folder in its place, durably.
    pub(super) fn complete(&self, number: u64, id: VersionId, partial: &Path) -> Result<(), MaterialiseError> {
        durable::sync_file_system(partial).map_err(MaterialiseError::write(partial))?;
        let complete = self.version_path(number);
        if fs::symlink_metadata(&complete).is_ok() {
            return self.replace(number, id, partial);
        }
        fs::rename(partial, &complete)
            .and_then(|()| durable::sync_folder(&self.versions))
            .map_err(MaterialiseError::write(&complete))?;
        self.settle(number)
    }

    /// Exchanges a finished folder with the one of the same number, in one step where the file system can. What is
    /// being exchanged never bears the name of what is being written: after a kill it can't be mistaken for that.
    fn replace(&self, number: u64, id: VersionId, partial: &Path) -> Result<(), MaterialiseError> {
        let (complete, aside) = (self.version_path(number), self.aside_path(number));
        remove_tree(&aside).map_err(MaterialiseError::write(&aside))?;
        fs::rename(partial, &aside).map_err(MaterialiseError::write(&aside))?;
        let exchanged =
            rustix::fs::renameat_with(rustix::fs::CWD, &aside, rustix::fs::CWD, &complete, RenameFlags::EXCHANGE);
        match exchanged {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                fs::rename(&complete, partial).and_then(|()| fs::rename(&aside, &complete))
            }
            other => other.map_err(io::Error::from),
        }
        .and_then(|()| durable::sync_folder(&self.versions))
        .map_err(MaterialiseError::write(&complete))?;
        let id_path = self.id_path(number);
        durable::write_atomic(&id_path, format!("{id}\n").as_bytes(), RECORD_MODE)
            .map_err(MaterialiseError::write(&id_path))?;
        self.settle(number)?;
        [partial, &aside].into_iter().try_for_each(|old| remove_tree(old).map_err(MaterialiseError::write(old)))
    }

    /// Notes that the folder of `number` is as it should be.
    fn settle(&self, number: u64) -> Result<(), MaterialiseError> {
        let path = self.again_path(number);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(MaterialiseError::Write { path, source }),
            Ok(()) => durable::sync_folder(&self.versions).map_err(MaterialiseError::write(&self.versions)),
        }
    }

    pub(super) fn swap_current(&self, number: u64) -> Result<(), MaterialiseError> {
        let current = self.folder.join(CURRENT_LINK);
        let next = self.folder.join(NEXT_LINK);
        match fs::symlink_metadata(&current) {
            Ok(found) if !found.file_type().is_symlink() => {
                let source =
                    io::Error::new(io::ErrorKind::AlreadyExists, "it is in the way and is no link; move it away");
                return Err(MaterialiseError::Write { path: current, source });
            }
            _ => {}
        }
        let _ = fs::remove_file(&next);
        std::os::unix::fs::symlink(Path::new(VERSIONS_FOLDER).join(number.to_string()), &next)
            .and_then(|()| fs::rename(&next, &current))
            .and_then(|()| durable::sync_folder(&self.folder))
            .map_err(MaterialiseError::write(&current))
    }

    /// Removes all but the `keep` newest versions up to and with `number`, and what attempts at others left.
    pub(super) fn prune(&self, keep: usize, number: u64) -> Result<Vec<u64>, MaterialiseError> {
        let failed = || MaterialiseError::write(&self.versions);
        let (mut complete, mut leftovers) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.versions).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            let Some(name) = name.to_str() else { continue };
            match name.parse::<u64>() {
                // What has no record was not written here, and is not ours to remove.
                Ok(found) if found.to_string() == name && self.id_path(found).exists() => complete.push(found),
                _ => leftovers.push(name.to_owned()),
            }
        }
        complete.sort_unstable_by(|left, right| right.cmp(left));
        let mut kept: Vec<u64> = vec![number];
        kept.extend(complete.iter().copied().filter(|&other| other != number).take(keep - 1));
        let mut removed: Vec<u64> = complete.into_iter().filter(|number| !kept.contains(number)).collect();
        for &old in &removed {
            self.discard(old)?;
            let _ = fs::remove_file(self.id_path(old));
            let _ = fs::remove_file(self.again_path(old));
        }
        for name in leftovers {
            let of = name.strip_prefix('.').and_then(|name| {
                let (of, kind) = name.split_once('.')?;
                matches!(kind, "partial" | "old" | "version" | "again").then(|| of.parse::<u64>().ok())?
            });
            if of.is_some_and(|of| of < number && !kept.contains(&of)) {
                let path = self.versions.join(&name);
                let is_folder = path.symlink_metadata().is_ok_and(|found| found.is_dir());
                let _ = if is_folder { remove_tree(&path) } else { fs::remove_file(&path) };
            }
        }
        removed.sort_unstable();
        Ok(removed)
    }

    /// Removes a version's folder. It leaves its place in one step, durably: half removed, it would still pass for
    /// complete.
    fn discard(&self, number: u64) -> Result<(), MaterialiseError> {
        let (complete, aside) = (self.version_path(number), self.aside_path(number));
        remove_tree(&aside).map_err(MaterialiseError::write(&aside))?;
        fs::rename(&complete, &aside)
            .and_then(|()| durable::sync_folder(&self.versions))
            .map_err(MaterialiseError::write(&complete))?;
        remove_tree(&aside).map_err(MaterialiseError::write(&aside))
    }

    fn id_path(&self, number: u64) -> PathBuf {
        self.versions.join(format!(".{number}.version"))
    }

    fn again_path(&self, number: u64) -> PathBuf {
        self.versions.join(format!(".{number}.again"))
    }

    fn partial_path(&self, number: u64) -> PathBuf {
        self.versions.join(format!(".{number}.partial"))
    }

    fn aside_path(&self, number: u64) -> PathBuf {
        self.versions.join(format!(".{number}.old"))
    }
}

/// The version id that a record names.
fn recorded(path: &Path) -> Option<VersionId> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Removes a folder with all in it, also where folders' modes forbid it; it need not exist.
fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            allow_removal(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

fn allow_removal(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            allow_removal(&entry.path())?;
        }
    }
    Ok(())
}
