//! A disk that is full soon: a file system in memory, most of it taken by a file that can go.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::namespace::{is_inside, run_inside};
use super::say_skipped;

/// A mounted file system of a given size; unmounted on drop.
#[derive(Debug)]
pub struct SmallDisk {
    folder: TempDir,
}

/// The file that can go.
const BALLAST: &str = "can-go";

impl SmallDisk {
    /// Whether the test `name` was run elsewhere and has passed: who is not root runs it again as root of a user name space
    /// of its own, where it may mount.
    #[track_caller]
    pub fn elsewhere(name: &str) -> bool {
        if rustix::process::geteuid().is_root() || is_inside() {
            return false;
        }
        // Where that is not to be had, mounting will say that it can't, and the test that it is skipped.
        run_inside(name)
    }

    /// Mounts one with `room_bytes` free and `more_bytes` that can be freed; none where this user may not, which is said.
    pub fn mount(room_bytes: u64, more_bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let size = format!("size={},mode=0777", room_bytes + more_bytes);
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        match mounted {
            Ok(output) if output.status.success() => {
                let disk = Self { folder };
                disk.take(more_bytes);
                Some(disk)
            }
            Ok(output) => {
                say_skipped(&format!(
                    "no small disk can be mounted: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                ));
                None
            }
            Err(error) => {
                say_skipped(&format!("no small disk can be mounted: {error}"));
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn take(&self, bytes: u64) {
        let ballast = std::fs::File::create(self.path().join(BALLAST)).expect("a new disk takes a file");
        rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, bytes).expect("it has that much room");
    }

    /// Frees space, as an operator does.
    pub fn make_room(&self) {
        std::fs::remove_file(self.path().join(BALLAST)).expect("room is made once");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a daemon that is dropped after this may still be in it.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}
