//! Opening files beneath a folder so that no link, nor a folder swapped for one meanwhile, leads out of it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Whether the kernel (before 5.6) or a sandbox knows no `openat2`.
static OPENAT2_MISSING: AtomicBool = AtomicBool::new(false);

/// Flags for reading a file: never blocks on a pipe that took its place.
pub(crate) const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
/// Flags for entering a folder.
pub(crate) const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Opens a folder for use as a root; it may be reached through links.
pub(crate) fn root(folder: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(rustix::fs::CWD, folder, FOLDER | OFlags::CLOEXEC, Mode::empty())
}

/// Opens `path`, which is relative to `root` and goes through real folders only.
pub(crate) fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if !OPENAT2_MISSING.load(Ordering::Relaxed) {
        match rustix::fs::openat2(root, path, flags, mode, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
            Err(Errno::NOSYS | Errno::PERM) => OPENAT2_MISSING.store(true, Ordering::Relaxed),
            other => return other,
        }
    }
    let mut folder: Option<OwnedFd> = None;
    let mut components = path.split(|&byte| byte == b'/').peekable();
    while let Some(component) = components.next() {
        let at = folder.as_ref().map_or(root, |folder| folder.as_fd());
        if components.peek().is_none() {
            return rustix::fs::openat(at, component, flags, mode);
        }
        let entered = rustix::fs::openat(
            at,
            component,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        folder = Some(entered);
    }
    Err(Errno::NOENT)
}

/// Opens a file for reading.
pub(crate) fn open_file(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<File> {
    open(root, path, READ, Mode::empty()).map(File::from)
}

/// `bytes` as a path.
pub(crate) fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
