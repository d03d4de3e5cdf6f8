//! The layout around versions: what is complete, what is partial, the swap of `current`, and removing old versions.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use headwater_protocol::id::VersionId;

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

    pub(super) fn version_path(&self, number: u64) -> PathBuf {
        self.versions.join(number.to_string())
    }

    /// The number that `current` leads to.
    pub(super) fn current(&self) -> Option<u64> {
        let target = fs::read_link(self.folder.join(CURRENT_LINK)).ok()?;
        let number = target.strip_prefix(VERSIONS_FOLDER).ok()?.to_str()?.parse().ok()?;
        self.version_path(number).is_dir().then_some(number)
    }

    /// Whether the folder of `number` is there and complete, and of this version.
    pub(super) fn is_complete(&self, number: u64, id: VersionId) -> bool {
        let recorded = fs::read_to_string(self.id_path(number)).ok().and_then(|text| text.trim().parse().ok());
        recorded == Some(id) && self.version_path(number).is_dir()
    }

    /// The folder to write into; what an earlier attempt at the same version left is in it.
    pub(super) fn begin(&self, number: u64, id: VersionId) -> Result<PathBuf, MaterialiseError> {
        let partial = self.versions.join(format!(".{number}.partial"));
        let id_path = self.id_path(number);
        let recorded = fs::read_to_string(&id_path).ok();
        let complete = self.version_path(number);
        if fs::symlink_metadata(&complete).is_ok() {
            if recorded.is_none() {
                // Whatever is written here has its record first: this is somebody else's.
                let source = io::Error::new(io::ErrorKind::AlreadyExists, "it is in the way; move it away");
                return Err(MaterialiseError::Write { path: complete, source });
            }
            self.discard(number)?;
        }
        if recorded.as_deref().map(str::trim) != Some(id.to_string().as_str()) {
            remove_tree(&partial).map_err(MaterialiseError::write(&partial))?;
            durable::write_atomic(&id_path, format!("{id}\n").as_bytes(), RECORD_MODE)
                .map_err(MaterialiseError::write(&id_path))?;
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
    pub(super) fn complete(&self, number: u64, partial: &Path) -> Result<(), MaterialiseError> {
        let synced = fs::File::open(partial).and_then(|folder| Ok(rustix::fs::syncfs(&folder)?));
        synced.map_err(MaterialiseError::write(partial))?;
        let complete = self.version_path(number);
        fs::rename(partial, &complete)
            .and_then(|()| durable::sync_folder(&self.versions))
            .map_err(MaterialiseError::write(&complete))
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
        }
        for name in leftovers {
            let of = name.strip_prefix('.').and_then(|name| {
                let (of, kind) = name.split_once('.')?;
                matches!(kind, "partial" | "old" | "version").then(|| of.parse::<u64>().ok())?
            });
            if of.is_some_and(|of| of < number && !kept.contains(&of)) {
                let path = self.versions.join(&name);
                let _ = if name.ends_with(".version") { fs::remove_file(&path) } else { remove_tree(&path) };
            }
        }
        removed.sort_unstable();
        Ok(removed)
    }

    /// Removes a version's folder. It leaves its place in one step: half removed, it would still pass for complete.
    fn discard(&self, number: u64) -> Result<(), MaterialiseError> {
        let (complete, aside) = (self.version_path(number), self.versions.join(format!(".{number}.old")));
        remove_tree(&aside).map_err(MaterialiseError::write(&aside))?;
        fs::rename(&complete, &aside).map_err(MaterialiseError::write(&complete))?;
        remove_tree(&aside).map_err(MaterialiseError::write(&aside))
    }

    fn id_path(&self, number: u64) -> PathBuf {
        self.versions.join(format!(".{number}.version"))
    }
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
