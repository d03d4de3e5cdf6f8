//! One process at a time opens a data folder: a lock on `DIR/lock` that the kernel drops with the process.
//!
//! Where no daemon runs a command holds the lock for a moment, so whoever finds it taken waits a little: a daemon must not
//! fail to start because someone asked for its status just then.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::durable;
use crate::error::{CodedError, codes};

/// How long a lock that another process holds is waited for.
const WAIT: Duration = Duration::from_secs(2);
/// Time between two tries.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// The lock file's name in a data folder.
pub const LOCK_FILE: &str = "lock";

/// A data folder that this process has for itself until the value is dropped.
#[derive(Debug)]
pub struct DataFolderLock {
    _file: File,
}

impl DataFolderLock {
    /// Takes the lock of `folder`, which must exist; the error names the process that holds it and did not let go of it for
    /// two seconds. Blocks.
    pub fn acquire(folder: &Path) -> Result<Self, CodedError> {
        if !folder.is_dir() {
            return Err(CodedError::new(&codes::NOT_INITIALISED, format!("there is no folder `{}`", folder.display())));
        }
        let path = folder.join(LOCK_FILE);
        let failed = |error| CodedError::io(&codes::WRITE_FAILED, format!("can't lock `{}`", path.display()), error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(durable::PRIVATE_FILE_MODE)
            .open(&path)
            .map_err(failed)?;
        let begun = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if begun.elapsed() < WAIT => std::thread::sleep(TRY_EVERY),
                Err(Errno::WOULDBLOCK) => return Err(in_use(folder, &mut file)),
                Err(error) => return Err(failed(error.into())),
            }
        }
        let pid = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(pid.as_bytes()))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn in_use(folder: &Path, file: &mut File) -> CodedError {
    let mut pid = String::new();
    let _ = file.take(32).read_to_string(&mut pid);
    let holder = match pid.trim().parse::<u32>() {
        Ok(pid) => format!("process {pid}"),
        Err(_) => "another process".to_owned(),
    };
    CodedError::new(&codes::DATA_FOLDER_IN_USE, format!("`{}` is in use by {holder}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_holder_and_is_free_again_after() {
        let folder = tempfile::tempdir().unwrap();
        let lock = DataFolderLock::acquire(folder.path()).unwrap();
        let error = DataFolderLock::acquire(folder.path()).unwrap_err();
        assert!(error.is(&codes::DATA_FOLDER_IN_USE));
        assert!(error.message.contains(&std::process::id().to_string()), "{error}");
        drop(lock);
        DataFolderLock::acquire(folder.path()).unwrap();
    }

    #[test]
    fn a_missing_folder_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let error = DataFolderLock::acquire(&folder.path().join("none")).unwrap_err();
        assert!(error.is(&codes::NOT_INITIALISED));
    }
}
