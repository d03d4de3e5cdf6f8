//! Room that is kept for the moment when the disk is full: before a file is freed that has to be noted, and a note needs room.
//!
//! A file of the data folder holds it, on devices that have a quota. It goes when the catalog finds no room, and comes back when
//! there is some again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::FallocateFlags;

/// The file.
const FILE: &str = "reserve";
/// What it holds: the notes of a round, many times over.
const BYTES: u64 = 1 << 20;
/// It is made where so many times that is free: also on a disk on which a quota has just made room.
const PLENTY: u64 = 2;

/// Keeps the reserve, if it is not kept yet and there is plenty of room. Without it all works but on a full disk.
pub(crate) fn keep(data: &Path) {
    let path = data.join(FILE);
    let is_there = fs::metadata(&path).is_ok_and(|found| found.len() >= BYTES);
    let free_bytes = || rustix::fs::statvfs(data).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    if is_there || free_bytes() < PLENTY * BYTES {
        return;
    }
    if let Err(error) = take(&path) {
        tracing::debug!(%error, "no room could be kept for notes");
        let _ = fs::remove_file(&path);
    }
}

/// Gives the reserve away, if there is one: whether that made room.
pub(crate) fn release(data: &Path) -> bool {
    let released = fs::remove_file(data.join(FILE)).is_ok();
    if released {
        tracing::warn!("the disk is full: the room that was kept for notes is used now");
    }
    released
}

fn take(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    if rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BYTES).is_err() {
        // Not every file system can.
        file.write_all(&vec![0; BYTES as usize])?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_once_and_given_away_once() {
        let data = tempfile::tempdir().expect("a folder");
        assert!(!release(data.path()));
        for _ in 0..2 {
            keep(data.path());
            assert_eq!(fs::metadata(data.path().join(FILE)).expect("kept").len(), BYTES);
        }
        assert!(release(data.path()) && !release(data.path()));
    }
}
