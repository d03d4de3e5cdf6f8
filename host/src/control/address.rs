//! A socket's path may have 107 bytes; data folders lie deeper. The way round: through `/proc/self/fd/N`, where N is the
//! opened folder.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Longest path that fits into a socket's address, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A path for bind and connect, and the folder that must stay open meanwhile.
pub(super) struct SocketPath {
    pub(super) path: PathBuf,
    _folder: Option<File>,
}

/// A short enough path to the socket `name` in `folder`.
pub(super) fn socket_path(folder: &Path, name: &str) -> io::Result<SocketPath> {
    let path = folder.join(name);
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok(SocketPath { path, _folder: None });
    }
    let opened = File::open(folder)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())).join(name);
    Ok(SocketPath { path, _folder: Some(opened) })
}
