//! What the daemon answers: rows as they come, progress in between, and one last word.
//!
//! `--json` prints exactly these structures, so their field names are an interface.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::training::{EventRow, FederationRow, ModelRow, ParticipantRow, RoundRow, TensorRow, UpdateRow};

/// One part of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "kebab-case")]
pub enum Answer {
    /// Long work goes on.
    Progress(Progress),
    /// How the core is.
    Status(Box<StatusRow>),
    /// One finding of `doctor`.
    Finding(Finding),
    /// A new token.
    Token(NewToken),
    /// A token that exists.
    TokenRow(TokenRow),
    /// A device.
    Device(Box<DeviceRow>),
    /// A dataset.
    Dataset(DatasetRow),
    /// A version.
    Version(VersionRow),
    /// A file.
    File(FileRow),
    /// Samples that were selected.
    Run(RunRow),
    /// A difference.
    Change(ChangeRow),
    /// A collection.
    Collection(CollectionRow),
    /// A member of a collection.
    Member(MemberRow),
    /// A damaged or missing chunk.
    Damage(DamageRow),
    /// A version of a model.
    Model(Box<ModelRow>),
    /// A tensor.
    Tensor(TensorRow),
    /// An update in a model.
    Update(UpdateRow),
    /// A federated run.
    Federation(FederationRow),
    /// A round of a run.
    Round(RoundRow),
    /// A device in a run.
    Participant(ParticipantRow),
    /// An entry of a run's log.
    Event(EventRow),
    /// What a command amounted to, as one sentence and as fields.
    Done(Done),
}

/// Long work on its way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// What is being done.
    pub what: String,
    /// Files so far.
    pub files: u64,
    /// Bytes so far.
    pub bytes: u64,
    /// Bytes in all; 0 where that isn't known.
    pub bytes_total: u64,
}

/// The last word on a command.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Done {
    /// One sentence for people.
    pub said: String,
    /// The same for programs.
    pub fields: BTreeMap<String, serde_json::Value>,
}

/// How the core is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusRow {
    /// Its release.
    pub release: String,
    /// Its name.
    pub name: String,
    /// Where devices reach it.
    pub listen: String,
    /// Where metrics are.
    pub admin: String,
    /// Seconds since it started.
    pub up_s: u64,
    /// Devices that may connect.
    pub devices: u64,
    /// Devices that are connected.
    pub connected: u64,
    /// Datasets.
    pub datasets: u64,
    /// Versions.
    pub versions: u64,
    /// Chunks stored.
    pub chunks: u64,
    /// Those of them that are damaged now, and wait to be stored again.
    pub damaged_chunks: u64,
    /// Packs stored.
    pub packs: u64,
    /// Bytes of packs on disk.
    pub stored_bytes: u64,
    /// Bytes that they hold once decompressed.
    pub plain_bytes: u64,
    /// Free bytes on the store's disk.
    pub disk_free_bytes: u64,
    /// Bytes received from devices since the start, with all headers: `received`, and `received in vain`, which is a part of it.
    pub wire_in: BTreeMap<String, u64>,
    /// Bytes sent to devices since the start, with all headers, by the reasons of an agent's status.
    pub wire_out: BTreeMap<String, u64>,
    /// Sessions and what they wait for.
    pub sessions: Vec<SessionRow>,
    /// Sessions of training jobs.
    pub readers: Vec<ReaderRow>,
    /// Work in the background.
    pub workers: Vec<WorkerRow>,
    /// The last errors, newest first.
    pub errors: Vec<ErrorRow>,
}

/// A connected device.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionRow {
    /// Its name.
    pub device: String,
    /// From where.
    pub address: String,
    /// Seconds since it connected.
    pub since_s: u64,
    /// What it does: `idle`, `publishing NAME`, `fetching NAME`.
    pub doing: String,
    /// Round trip, in milliseconds.
    pub round_trip_ms: u64,
    /// Bytes received on its connection.
    pub in_bytes: u64,
    /// Bytes sent on it.
    pub out_bytes: u64,
}

/// A session of a training job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReaderRow {
    /// The job's id.
    pub job: String,
    /// Its token, as devices are listed.
    pub token: String,
    /// The token's label `user`, or empty.
    pub user: String,
    /// From where.
    pub address: String,
    /// Seconds since it connected.
    pub since_s: u64,
    /// What its bytes travel on.
    pub plane: String,
    /// Why that is not RDMA; empty where it is.
    pub why_not_rdma: String,
    /// Bytes that were sent to it.
    pub bytes: u64,
    /// How long its requests waited for their bytes, summed over those that ran at once.
    pub waited_ms: u64,
    /// What it reads.
    pub reads: Vec<ReadRow>,
}

/// A dataset that a session has open.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadRow {
    /// The dataset or collection with its number.
    pub dataset: String,
    /// Samples in it.
    pub samples: u64,
    /// The epoch; none where the session did not declare what it reads, and then nothing of the rest is known.
    pub epoch: Option<u64>,
    /// The rank.
    pub rank: u64,
    /// Number of ranks.
    pub world_size: u64,
    /// The worker of the rank.
    pub worker: u32,
    /// Number of workers of the rank.
    pub workers: u32,
    /// Samples that the session has asked for.
    pub turn: u64,
    /// Samples that it will have asked for at the end of the epoch.
    pub turns: u64,
    /// Where in the epoch's global order that is.
    pub position: u64,
}

/// Work in the background.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerRow {
    /// Its name.
    pub name: String,
    /// What it does now.
    pub state: String,
    /// How its last run ended.
    pub last: String,
}

/// An error that someone met.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorRow {
    /// Its code.
    pub code: String,
    /// The sentence.
    pub message: String,
    /// Whom it met: a device, or `core`.
    pub whom: String,
    /// Seconds ago.
    pub ago_s: u64,
    /// How often since the start.
    pub count: u64,
}

/// A finding of `doctor`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// `ok`, `warn` or `fail`.
    pub state: String,
    /// What was found.
    pub found: String,
    /// What to change; empty where all is well.
    pub hint: String,
}

/// A token just made. Only now can its text be seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NewToken {
    /// The text that a device is given.
    pub token: String,
    /// The id by which it can be revoked.
    pub id: String,
    /// How many may use it.
    pub uses: u32,
    /// Seconds until it ends.
    pub lifetime_s: u64,
}

/// A token that exists.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenRow {
    /// Its id.
    pub id: String,
    /// Uses that are left.
    pub uses_left: u32,
    /// Seconds until it ends; 0 where it has.
    pub expires_in_s: u64,
    /// Its role.
    pub role: String,
    /// Labels that it gives.
    pub labels: BTreeMap<String, String>,
    /// Names to publish under.
    pub write: Vec<String>,
    /// Datasets to read.
    pub read: Vec<String>,
    /// Names that devices may take.
    pub names: String,
}

/// A device.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRow {
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: String,
    /// `connected`, `away`, `revoked`.
    pub state: String,
    /// Its role.
    pub role: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Names that it may publish under.
    pub write: Vec<String>,
    /// Datasets that it may read besides its own.
    pub read: Vec<String>,
    /// Release of its software.
    pub release: String,
    /// Bytes that it has still to send.
    pub backlog_bytes: u64,
    /// Age of its oldest unsent file, in seconds.
    pub oldest_unsent_s: u64,
    /// Free bytes on its disk.
    pub disk_free_bytes: u64,
    /// Its last error.
    pub last_error: String,
    /// Seconds since it was last heard of; none: never.
    pub seen_ago_s: Option<u64>,
    /// Datasets that it writes.
    pub datasets: Vec<String>,
}

/// A dataset.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DatasetRow {
    /// Its name.
    pub name: String,
    /// Who writes it.
    pub writer: String,
    /// Number of the newest version.
    pub number: u64,
    /// The newest version.
    pub version: String,
    /// Versions that are kept.
    pub versions: u64,
    /// Files in the newest version.
    pub files: u64,
    /// Samples in it.
    pub samples: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// When it was committed, in seconds since the Unix epoch.
    pub committed_unix_s: u64,
    /// Tags and the numbers they stand for.
    pub tags: BTreeMap<String, u64>,
    /// Its own retention rule; none: the configuration's holds.
    pub retention: Option<String>,
}

/// A version.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VersionRow {
    /// The dataset.
    pub dataset: String,
    /// Its number.
    pub number: u64,
    /// Its id.
    pub version: String,
    /// The version before.
    pub parent: Option<String>,
    /// The device or core that built it.
    pub origin: String,
    /// Key of its author.
    pub author: String,
    /// Files.
    pub files: u64,
    /// Samples.
    pub samples: u64,
    /// Bytes.
    pub bytes: u64,
    /// When it was committed, in seconds since the Unix epoch.
    pub committed_unix_s: u64,
    /// Tags that stand for it.
    pub tags: Vec<String>,
    /// What its publisher says of it.
    pub metadata: BTreeMap<String, String>,
}

/// A file of a version.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FileRow {
    /// Its path; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// `file`, `folder` or `symlink`.
    pub file_kind: String,
    /// Target of a symbolic link.
    pub link_target: Option<String>,
    /// Permission bits, octal.
    pub mode: String,
    /// Bytes.
    pub bytes: u64,
    /// Modification time, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
}

/// Neighbouring samples that were selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunRow {
    /// Number of the first.
    pub first: u64,
    /// Number of the one after the last.
    pub end: u64,
}

/// A difference between two versions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangeRow {
    /// `added`, `removed` or `changed`.
    pub change: String,
    /// The path.
    pub path: String,
    /// Bytes before.
    pub bytes_before: u64,
    /// Bytes after.
    pub bytes_after: u64,
}

/// A collection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CollectionRow {
    /// Its name.
    pub name: String,
    /// Its newest number.
    pub number: u64,
    /// Its id.
    pub id: String,
    /// Names that belong to it.
    pub matching: String,
    /// Labels that the writers of its members have.
    pub labels: BTreeMap<String, String>,
    /// Seconds between two numbers of it; none: it has just one.
    pub every_s: Option<u64>,
    /// Newest numbers that are kept; none: all.
    pub keep: Option<u64>,
    /// How many members it has.
    pub members: u64,
}

/// A member of a collection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberRow {
    /// The dataset.
    pub dataset: String,
    /// Number of the version.
    pub number: u64,
    /// The version.
    pub version: String,
}

/// A damaged chunk, and what it is part of.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DamageRow {
    /// The chunk.
    pub chunk: String,
    /// What is wrong with it.
    pub reason: String,
    /// Datasets and versions that need it, as far as known.
    pub needed_by: Vec<String>,
}
