//! Key and certificate files: replaced in one step, synced, and private where they must be.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::IdentityError;

/// Mode of a file that only its owner may read.
pub(super) const PRIVATE_MODE: u32 = 0o600;
/// Mode of a file that all may read.
pub(super) const PUBLIC_MODE: u32 = 0o644;
/// Longest key or certificate file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The bytes of a small file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|source| IdentityError::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// Replaces the file in one step; it and its folder are synced when this returns.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    replace(path, bytes, mode).map_err(|source| IdentityError::Write { path: path.to_owned(), source })
}

/// Refuses a key file that others may read or change.
pub(super) fn check_private(path: &Path) -> Result<(), IdentityError> {
    let metadata = std::fs::metadata(path).map_err(|source| IdentityError::Read { path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::KeyIsOpen { path: path.to_owned(), mode });
    }
    Ok(())
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = folder.join(name);
    // A leftover of a start that was cut short may stand in the way.
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    File::open(folder)?.sync_all()
}
