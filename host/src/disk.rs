//! The disk below this package, as far as a simulation takes its place: it is told what was made durable, and may have no room.
//!
//! In a program nothing stands here. A simulated world puts a [`Disk`] below the thread on which all of its programs run, and
//! then knows what a power cut may take: everything that nobody synced.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What was made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synced<'a> {
    /// The bytes of a file.
    File(&'a Path),
    /// The names in a folder.
    Folder(&'a Path),
    /// Everything on the file system that this path is on.
    All(&'a Path),
}

/// A simulated disk.
pub trait Disk {
    /// So many bytes are about to be written to a file; the error is what the disk says instead.
    fn writes(&self, path: &Path, bytes: u64) -> io::Result<()>;

    /// Something has become durable.
    fn synced(&self, what: Synced<'_>);
}

thread_local! {
    static DISK: RefCell<Option<Arc<dyn Disk>>> = const { RefCell::new(None) };
}

/// Puts a disk below this thread, or takes it away.
pub fn put_below_thread(disk: Option<Arc<dyn Disk>>) {
    DISK.set(disk);
}

/// To be asked before so many bytes are written to a file.
pub fn before_write(path: &Path, bytes: usize) -> io::Result<()> {
    match DISK.with_borrow(Clone::clone) {
        Some(disk) => disk.writes(path, bytes as u64),
        None => Ok(()),
    }
}

/// To be told after something was synced.
pub fn after_sync(what: Synced<'_>) {
    if let Some(disk) = DISK.with_borrow(Clone::clone) {
        disk.synced(what);
    }
}
