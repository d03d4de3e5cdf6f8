//! Looking at a folder: what is in it, in path order, and what its files hold.
//!
//! [`walk`] lists a folder without following links; [`read`] reads and hashes files on all cores. [`crate::version`]
//! joins the two with what was known before.
//!
//! What is recorded: regular files; symbolic links as such; folders only if there is nothing to record in them, or if
//! their mode is neither 0755 nor 0775 (what the usual umasks make), and then without a time. Sockets, pipes and devices are
//! skipped with a note. Hidden files are files like others. `.headwaterignore` files (gitignore syntax) always count;
//! `.gitignore` only where [`ScanOptions::gitignore`] says so; global and per-repository git settings never do.

mod large;
mod options;
pub mod read;
mod rules;
mod stamp;
pub mod walk;

pub use options::{Cancel, Cancelled, IGNORE_FILE, ScanOptions, THREADS_DEFAULT_MAX};
pub use rules::check_rule;
pub use stamp::{STAMP_BYTES, Stamp};
pub use walk::{SkipReason, Skipped};
