//! What the agent does on its disk besides the catalog: chunks on their way into a subscription, finding chunks in files
//! that are here already, freeing files that are safe at the core, by command or to make room, and reading everything again.

pub(crate) mod deletions;
pub mod free;
pub(crate) mod frees;
pub mod holdings;
pub mod quota;
pub(crate) mod reserve;
pub(crate) mod room;
pub mod staging;
pub mod verify;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The file at `path` in `folder`, unless a link on the way leads elsewhere.
pub(crate) fn local_path(folder: &Path, path: &[u8]) -> Option<PathBuf> {
    let mut local = folder.to_owned();
    let mut parts = path.split(|&byte| byte == b'/').peekable();
    while let Some(part) = parts.next() {
        local.push(std::ffi::OsStr::from_bytes(part));
        let is_last = parts.peek().is_none();
        if !is_last && !local.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return None;
        }
    }
    Some(local)
}
