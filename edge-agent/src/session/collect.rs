//! What a round of work did, gathered from the tasks that do it, and its progress for whoever watches.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_host::control::ReplySender;
use headwater_host::error::CodedError;
use headwater_host::version::BuildReport;
use headwater_protocol::manifest::Manifest;
use headwater_quic::transfer::{self, ProgressSink, ReceiveReport, SendReport, WireBytes};

use crate::agent::problem;
use crate::catalog::VersionRow;
use crate::request::{Progress, SkippedReport, SyncReport, VersionReport, WireReport};

/// Files left out that a report names.
const SKIPPED_MAX: usize = 200;
/// Problems that a report names.
const PROBLEMS_MAX: usize = 200;

/// Gathers a report. Cheap to clone.
#[derive(Clone)]
pub struct Collector {
    report: Arc<Mutex<SyncReport>>,
    reply: ReplySender,
}

impl Collector {
    /// A collector whose progress goes to `reply`.
    pub fn new(reply: ReplySender) -> Self {
        Self { report: Arc::default(), reply }
    }

    /// Gives the report so far.
    pub fn report(&self) -> SyncReport {
        self.with(|report| report.clone())
    }

    /// Changes the report.
    pub fn with<T>(&self, change: impl FnOnce(&mut SyncReport) -> T) -> T {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A folder was scanned.
    pub fn scanned(&self, report: &BuildReport, skipped: Vec<SkippedReport>) {
        self.with(|all| {
            all.files_scanned += report.added + report.changed + report.unchanged;
            all.bytes_read += report.bytes_read;
            all.skipped_count += report.skipped_count + report.deferred_count;
            let room = SKIPPED_MAX.saturating_sub(all.skipped.len());
            all.skipped.extend(skipped.into_iter().take(room));
        });
    }

    /// A scan took so long.
    pub fn scan_took(&self, took: Duration) {
        self.with(|all| all.scan_ms += took.as_millis() as u64);
    }

    /// Files were left out of a version, or keep their last committed record in it, because they could not be sent.
    pub fn left_out(&self, files: Vec<SkippedReport>) {
        self.with(|all| {
            all.skipped_count += files.len() as u64;
            let room = SKIPPED_MAX.saturating_sub(all.skipped.len());
            all.skipped.extend(files.into_iter().take(room));
        });
    }

    /// A version was committed by the core.
    pub fn sent(&self, dataset: &str, version: &VersionRow, sent: &SendReport) {
        let entry = VersionReport {
            chunks: sent.chunks,
            wire_bytes: sent.wire.total(),
            plain_bytes: sent.plain_bytes,
            ..version_report(dataset, version)
        };
        self.with(|all| {
            all.published.push(entry);
            all.saved_dedup_bytes += sent.saved_dedup_bytes;
            all.saved_delta_bytes += sent.saved_delta_bytes;
            all.saved_compression_bytes += sent.saved_compression_bytes;
            add_wire(&mut all.wire, sent.wire);
        });
    }

    /// A version came and is in its folder.
    pub fn received(&self, dataset: &str, version: &VersionRow, received: &ReceiveReport) {
        let entry = VersionReport {
            chunks: received.chunks,
            wire_bytes: received.wire.total(),
            plain_bytes: received.plain_bytes,
            ..version_report(dataset, version)
        };
        self.with(|all| {
            all.received.push(entry);
            all.saved_dedup_bytes += received.saved_dedup_bytes;
            all.saved_delta_bytes += received.saved_delta_bytes;
            all.saved_compression_bytes += received.saved_compression_bytes;
            add_wire(&mut all.wire, received.wire);
        });
    }

    /// A local dataset has a new version.
    pub fn local(&self, dataset: &str, version: &VersionRow) {
        let entry = version_report(dataset, version);
        self.with(|all| all.local.push(entry));
    }

    /// Nothing had changed in a dataset.
    pub fn unchanged(&self) {
        self.with(|all| all.unchanged += 1);
    }

    /// Something went wrong with a dataset, or with all if the name is empty.
    pub fn problem(&self, dataset: &str, error: &CodedError) {
        let entry = problem(dataset, error);
        self.with(|all| {
            if all.problems.len() < PROBLEMS_MAX && !all.problems.contains(&entry) {
                all.problems.push(entry);
            }
        });
    }

    /// Says how far a scan is.
    pub fn scan_progress(&self, dataset: &str, files: u64, bytes: u64) {
        self.reply.try_progress(Progress::Scan { dataset: dataset.to_owned(), files, bytes });
    }

    /// Where a transfer says how far it is.
    pub fn transfer_progress(&self, dataset: &str, up: bool) -> ProgressSink {
        let (reply, dataset) = (self.reply.clone(), dataset.to_owned());
        Arc::new(move |progress: &transfer::Progress| {
            reply.try_progress(Progress::Transfer {
                dataset: dataset.clone(),
                up,
                bytes: progress.bytes_done,
                bytes_total: progress.bytes_total,
                wire_bytes: progress.wire.total(),
            });
        })
    }

    /// Says a line to whoever watches.
    pub fn say(&self, text: impl Into<String>) {
        self.reply.try_progress(Progress::Note { text: text.into() });
    }
}

fn add_wire(all: &mut WireReport, wire: WireBytes) {
    all.pages += wire.pages;
    all.chunks += wire.chunks;
    all.overhead += wire.overhead;
    all.wasted += wire.wasted;
}

/// A version of which nothing has travelled.
fn version_report(dataset: &str, version: &VersionRow) -> VersionReport {
    VersionReport {
        dataset: dataset.to_owned(),
        number: version.number,
        version: version.version.to_string(),
        totals: Manifest::decode(&version.manifest).map(|manifest| manifest.totals()).unwrap_or_default(),
        chunks: 0,
        wire_bytes: 0,
        plain_bytes: 0,
    }
}
