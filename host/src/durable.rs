//! Writing so that it is still there after the power went: write, sync the file, put it in place, sync the folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::disk::{self, Synced};

/// Mode of what only the daemon's user may read: keys, the data folder, the catalog.
pub const PRIVATE_FILE_MODE: u32 = 0o600;
/// Mode of folders that only the daemon's user may enter.
pub const PRIVATE_FOLDER_MODE: u32 = 0o700;
/// Ends the name of a file that is not complete yet; what a crash leaves may be removed.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// Replaces `path` with `bytes`, atomically and durably: a reader, and a start after a crash, sees all of the old file or
/// all of the new one. Two writers of one path at once are the caller's to prevent.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = temporary_of(path);
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    let written = file
        .set_permissions(fs::Permissions::from_mode(mode))
        .and_then(|()| disk::before_write(&temporary, bytes.len()))
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| sync_file(&file, &temporary))
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_folder(parent_of(path))
}

/// Makes the entries of `folder` durable: what was created, renamed or removed in it.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()?;
    disk::after_sync(Synced::Folder(folder));
    Ok(())
}

/// Makes the bytes of a file durable, which stands at `path`.
pub fn sync_file(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    disk::after_sync(Synced::File(path));
    Ok(())
}

/// Makes everything durable on the file system that `folder` is on.
pub fn sync_file_system(folder: &Path) -> io::Result<()> {
    rustix::fs::syncfs(File::open(folder)?)?;
    disk::after_sync(Synced::All(folder));
    Ok(())
}

/// Creates `folder` with `mode`, and what lies above it with the default mode, durably. It may exist.
pub fn create_folder(folder: &Path, mode: u32) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = parent_of(folder);
    if !parent.is_dir() {
        create_folder(parent, 0o755)?;
    }
    match fs::DirBuilder::new().mode(mode).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder(parent),
    }
}

/// Removes `path` durably; it need not exist.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder(parent_of(path)),
    }
}

/// The folder that `path` stands in.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn temporary_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_keeps_the_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_atomic(&path, b"one", PRIVATE_FILE_MODE).unwrap();
        fs::write(temporary_of(&path), b"left by a crash").unwrap();
        write_atomic(&path, b"two", PRIVATE_FILE_MODE).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, PRIVATE_FILE_MODE);
        assert!(!temporary_of(&path).exists());
    }

    #[test]
    fn creates_nested_folders() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/c");
        create_folder(&path, PRIVATE_FOLDER_MODE).unwrap();
        create_folder(&path, PRIVATE_FOLDER_MODE).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, PRIVATE_FOLDER_MODE);
    }
}
