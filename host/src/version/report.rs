//! What a build found and did.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::scan::Skipped;

/// Most skipped and deferred paths that a report names; the counts go on.
pub const NOTES_MAX: usize = 1000;

/// Why a file waits for a later version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeferredReason {
    /// It was modified a moment ago and may still be written.
    Settling,
    /// It changed while it was read.
    ChangedWhileRead,
    /// It can't be read.
    Unreadable(String),
}

/// A file that waits for a later version. It keeps its last record, if it has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deferred {
    /// The file, as text for people.
    pub path: String,
    /// Why.
    pub reason: DeferredReason,
}

/// What a build found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BuildReport {
    /// Files, links and folders that are new.
    pub added: u64,
    /// Those whose content or metadata changed.
    pub changed: u64,
    /// Those that left.
    pub removed: u64,
    /// Those that are as they were.
    pub unchanged: u64,
    /// Records that are in the version but no longer in the folder.
    pub remote: u64,
    /// Records of what can't be looked at now; they count as unchanged.
    pub unseen: u64,
    /// Files that were read.
    pub files_read: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Files left for the next version because this one has enough; see [`BuildOptions::read_bytes_max`](super::BuildOptions).
    pub postponed: u64,
    /// How many files wait.
    pub deferred_count: u64,
    /// The first of them.
    pub deferred: Vec<Deferred>,
    /// When those that wait to settle will have, if they are left alone.
    pub settled_in: Option<Duration>,
    /// How much was skipped.
    pub skipped_count: u64,
    /// The first of it.
    pub skipped: Vec<Skipped>,
}

impl BuildReport {
    /// What an import of a folder tells of it, as JSON.
    pub fn import_fields(&self) -> Value {
        json!({
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "unchanged": self.unchanged,
            "files_read": self.files_read,
            "bytes_read": self.bytes_read,
            "deferred": self.deferred,
            "skipped": self.skipped,
        })
    }

    /// The end of a sentence about an import: how many files are not in the version; empty if all are.
    pub fn left_out(&self) -> String {
        match self.deferred_count + self.skipped_count {
            0 => String::new(),
            1 => "; 1 file was left out (see --json)".to_owned(),
            count => format!("; {count} files were left out (see --json)"),
        }
    }

    pub(super) fn defer(&mut self, path: String, reason: DeferredReason) {
        self.deferred_count += 1;
        if self.deferred.len() < NOTES_MAX {
            self.deferred.push(Deferred { path, reason });
        }
    }

    pub(super) fn skip(&mut self, skipped: Skipped) {
        self.skipped_count += 1;
        if self.skipped.len() < NOTES_MAX {
            self.skipped.push(skipped);
        }
    }
}

/// How far a build is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Paths looked at.
    pub paths: u64,
    /// Files read.
    pub files_read: u64,
    /// Bytes read.
    pub bytes_read: u64,
}
