//! What commands ask of the daemon, and what it answers: the documents of the local socket.

use std::path::PathBuf;

use headwater_protocol::manifest::Totals;
use headwater_protocol::name::NameTemplate;
use serde::{Deserialize, Serialize};

use crate::catalog::{Event, Role, VersionState};
use crate::settings::PublishOptions;

/// A command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Join a core.
    Join {
        /// The token that the core's operator gave.
        token: String,
        /// Where the core is, instead of where the token says.
        core: Option<String>,
        /// The name to be known by.
        name: Option<String>,
    },
    /// Scan and exchange everything now; answers with a [`SyncReport`].
    Sync,
    /// Publish a folder.
    Publish {
        /// The folder, absolute.
        folder: PathBuf,
        /// The dataset.
        dataset: NameTemplate,
        /// What else is said of it. A folder that is published already keeps what is not.
        options: PublishOptions,
    },
    /// Subscribe to datasets.
    Subscribe {
        /// A name or pattern.
        dataset: String,
        /// Where they go, absolute.
        to: PathBuf,
        /// Versions that stay.
        keep: Option<u32>,
    },
    /// Version a folder for this device alone.
    Local {
        /// The folder, absolute.
        folder: PathBuf,
        /// The dataset.
        dataset: String,
    },
    /// Stop publishing, subscribing or keeping a dataset. Its files stay.
    Remove {
        /// The dataset or subscription, as it was given.
        dataset: String,
    },
    /// Leave files out of later versions, and remove them here.
    Delete {
        /// The dataset.
        dataset: String,
        /// Paths in it.
        paths: Vec<String>,
    },
    /// Remove the local bytes of files that the core has a receipt for.
    Free {
        /// The dataset.
        dataset: String,
        /// Paths in it.
        paths: Vec<String>,
    },
    /// How things are; answers with a [`StatusReport`].
    Status,
    /// What happened; answers with a list of events.
    Log {
        /// At most so many of the newest.
        count: u32,
    },
    /// Re-read and re-hash every file that the catalog knows; answers with a [`VerifyReport`].
    Verify,
    /// Tasks of federated runs; answers with a list of [`TrainingReport`].
    TrainingList,
    /// What the program of a run's task said.
    TrainingLog {
        /// The run.
        run: String,
    },
    /// Do nothing more for a run's task.
    TrainingAbort {
        /// The run.
        run: String,
    },
    /// Leave the core: the identity goes, the folders' files stay.
    Leave,
}

/// A command's progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "progress", rename_all = "kebab-case")]
pub enum Progress {
    /// A folder is being scanned.
    Scan {
        /// The dataset.
        dataset: String,
        /// Entries seen.
        files: u64,
        /// Bytes read.
        bytes: u64,
    },
    /// A version is on its way.
    Transfer {
        /// The dataset.
        dataset: String,
        /// Whether it goes to the core.
        up: bool,
        /// Bytes that are there.
        bytes: u64,
        /// Bytes of the version.
        bytes_total: u64,
        /// Bytes on the wire so far.
        wire_bytes: u64,
    },
    /// A line for people.
    Note {
        /// The line.
        text: String,
    },
}

/// Bytes that travelled, by what for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireReport {
    /// Pages.
    pub pages: u64,
    /// Chunks.
    pub chunks: u64,
    /// Control messages and item headers.
    pub overhead: u64,
    /// Sent again, or cut.
    pub wasted: u64,
    /// UDP payload bytes of the session, sent and received: everything, with encryption and acknowledgements.
    pub udp: u64,
}

/// What a sync did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SyncReport {
    /// Versions that the core committed.
    pub published: Vec<VersionReport>,
    /// Versions that came.
    pub received: Vec<VersionReport>,
    /// Versions of local datasets.
    pub local: Vec<VersionReport>,
    /// Datasets in which nothing had changed.
    pub unchanged: u64,
    /// Files that were looked at.
    pub files_scanned: u64,
    /// Bytes read from files to hash them.
    pub bytes_read: u64,
    /// How long scans took, from the first look at a folder until its version was in the catalog; in milliseconds, summed.
    pub scan_ms: u64,
    /// What travelled.
    pub wire: WireReport,
    /// Plain bytes that did not have to travel because the other side had them.
    pub saved_dedup_bytes: u64,
    /// Bytes saved by deltas.
    pub saved_delta_bytes: u64,
    /// Bytes saved by compression.
    pub saved_compression_bytes: u64,
    /// Files that were left out, with reasons; the first few.
    pub skipped: Vec<SkippedReport>,
    /// How many were left out.
    pub skipped_count: u64,
    /// What went wrong with single datasets; the others were done.
    pub problems: Vec<ProblemReport>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// A version in a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionReport {
    /// The dataset.
    pub dataset: String,
    /// Its number.
    pub number: u64,
    /// Its id.
    pub version: String,
    /// Files, samples, bytes and chunks.
    pub totals: Totals,
    /// Chunks that travelled for it.
    pub chunks: u64,
    /// Payload bytes that travelled for it.
    pub wire_bytes: u64,
    /// Plain bytes that travelled for it.
    pub plain_bytes: u64,
}

/// A file that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedReport {
    /// The dataset.
    pub dataset: String,
    /// Its path.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Something that went wrong with one dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemReport {
    /// The dataset.
    pub dataset: String,
    /// The code.
    pub code: String,
    /// What.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// How things are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The release.
    pub release: String,
    /// The device's name, once it has joined.
    pub device: Option<String>,
    /// The device's labels.
    pub labels: Vec<(String, String)>,
    /// The core's addresses.
    pub core: Vec<String>,
    /// Whether a daemon answered.
    pub running: bool,
    /// `connected`, `connecting`, `waiting`, `refused`, `not running` or `not joined`.
    pub link: String,
    /// What the link waits for, or empty.
    pub waiting_for: String,
    /// The datasets.
    pub datasets: Vec<DatasetReport>,
    /// Tasks of federated runs, and what became of the last ones.
    pub training: Vec<TrainingReport>,
    /// Bytes on the wire by reason since the catalog was made, with all headers: `first send`, `re-sent after a cut`,
    /// `retransmitted` and `control` are together all that was sent; `received in vain` is a part of `received`.
    pub wire_bytes: Vec<(String, u64)>,
    /// The most that is sent in any second now, in bytes with all headers; none without a cap.
    pub up_cap_bytes_per_s: Option<u64>,
    /// The most that the core may send in any second now, in the same bytes; none without a cap.
    pub down_cap_bytes_per_s: Option<u64>,
    /// What this month has cost and may cost, where that is limited.
    pub month: Option<MonthReport>,
    /// Bytes not yet acknowledged.
    pub backlog_bytes: u64,
    /// Free bytes on the data folder's disk.
    pub disk_free_bytes: u64,
    /// The last error, if the newest attempt failed.
    pub last_error: Option<ProblemReport>,
}

/// A task of a federated run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingReport {
    /// The run.
    pub run: String,
    /// The round.
    pub round: u64,
    /// `train` or `evaluate`.
    pub kind: String,
    /// The model and its version; empty where the task is done with.
    pub model: String,
    /// Where it stands, or what became of it.
    pub state: String,
}

/// A month with a budget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthReport {
    /// The month, as the device believes: `2026-02`.
    pub month: String,
    /// Bytes sent and received in it, with all headers.
    pub spent_bytes: u64,
    /// What may be spent in it.
    pub budget_bytes: u64,
    /// So much of that is for model updates alone.
    pub reserve_bytes: u64,
}

/// A dataset in the status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetReport {
    /// Its name.
    pub name: String,
    /// What this device does with it.
    pub role: Role,
    /// Its folder.
    pub folder: PathBuf,
    /// The newest version that is committed, or, of a subscription, complete here.
    pub number: u64,
    /// Files, samples, bytes and chunks of it.
    pub totals: Totals,
    /// A newer version that isn't committed yet, and how far it is.
    pub pending: Option<(u64, VersionState)>,
    /// Bytes of the pending version that the core has not acknowledged.
    pub pending_bytes: u64,
    /// Files of which the bytes are only at the core.
    pub remote_files: u64,
    /// What the folder may hold and holds, where that is limited and was looked at.
    pub room: Option<RoomReport>,
    /// `in sync`, or what it waits for.
    pub state: String,
    /// Durability that the newest receipt promises, or empty.
    pub durability: String,
}

/// What a folder may hold, and what it held when it was looked at last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomReport {
    /// Bytes that its files take on the disk.
    pub disk_bytes: u64,
    /// The most that they may take, if that is limited.
    pub quota_bytes: Option<u64>,
    /// The least that must be free on its file system, if that is set.
    pub min_free_bytes: Option<u64>,
    /// So many bytes are too many; after a round of the daemon, none of the files may go for them.
    pub excess_bytes: u64,
}

/// What `verify` found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Chunks that were read and fit their ids.
    pub chunks_good: u64,
    /// Bytes of them.
    pub bytes_good: u64,
    /// Files that do not hold what the catalog says; they are read anew by the next scan or fetched again.
    pub damaged: Vec<SkippedReport>,
    /// How many.
    pub damaged_count: u64,
    /// Whether the catalog itself was whole; if not, it has been rebuilt.
    pub catalog_whole: bool,
}

/// What `free` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreeReport {
    /// Files whose local bytes went.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Files that stayed, with reasons; the first few.
    pub kept: Vec<SkippedReport>,
}

/// The answer to [`Request::Log`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogReport {
    /// Events, oldest first.
    pub events: Vec<Event>,
}
