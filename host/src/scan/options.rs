//! How to look at a folder.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The name of files with ignore rules.
pub const IGNORE_FILE: &str = ".headwaterignore";
/// Most threads that read, where nobody says otherwise: each holds a buffer of 4 MiB.
pub const THREADS_DEFAULT_MAX: usize = 8;
const SETTLE_DEFAULT: Duration = Duration::from_secs(2);

/// How to look at a folder.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// A file that changed less than this long ago is still being written: it waits for the next scan.
    pub settle: Duration,
    /// Whether `.gitignore` files count, beside `.headwaterignore`.
    pub gitignore: bool,
    /// Ignore rules of the configuration, in gitignore syntax; they count before those in files.
    pub ignore: Vec<String>,
    /// Files and folders that are never looked at, as the daemon's own data folder.
    pub exclude: Vec<PathBuf>,
    /// Threads that read and hash.
    pub threads: usize,
    /// Stops the scan.
    pub cancel: Cancel,
}

impl Default for ScanOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            settle: SETTLE_DEFAULT,
            gitignore: false,
            ignore: Vec::new(),
            exclude: Vec::new(),
            threads: cores.min(THREADS_DEFAULT_MAX),
            cancel: Cancel::default(),
        }
    }
}

/// Stops a long piece of work from another thread.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

/// The work was stopped on request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was stopped on request")]
pub struct Cancelled;

impl Cancel {
    /// Asks the work to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it should stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error if it should stop.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }
}
