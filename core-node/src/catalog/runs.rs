//! Federated runs: their plans, and the logs of what became of them.
//!
//! What a plan or an entry says is for others to know (`headwater_protocol::federated`); here they are texts in an order that
//! nothing changes.

use headwater_protocol::federated::ModelVersion;

use super::{CatalogError, UnixMs};

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// Its name.
    pub name: String,
    /// Its plan, as JSON.
    pub plan: String,
    /// The model that it began with.
    pub model: ModelVersion,
    /// When it began.
    pub began_at: UnixMs,
    /// Whether nothing more will happen in it.
    pub is_over: bool,
}

/// An entry of a run's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEntry {
    /// When it was written.
    pub at: UnixMs,
    /// How long the run had been coordinated then, in milliseconds: time in which no coordinator lived does not count.
    pub elapsed_ms: u64,
    /// What it says, as JSON.
    pub body: String,
}

/// Why a run can't begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginRunError {
    /// There is one of this name.
    #[error("there is a run `{0}` already")]
    Exists(String),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Why entries can't be appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendRunError {
    /// Someone else appended, or the run is not there.
    #[error("the log of `{run}` has {found} entries, not {expected}")]
    Moved {
        /// The run.
        run: String,
        /// Entries that there are.
        found: u64,
        /// Entries that the appender knew of.
        expected: u64,
    },
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Runs.
pub trait RunTable {
    /// Begins a run.
    fn begin_run(&self, run: &RunRecord) -> Result<(), BeginRunError>;
    /// All runs, by name.
    fn runs(&self) -> Result<Vec<RunRecord>, CatalogError>;
    /// Appends entries to the log of a run, of which `known` are there; `is_over` says that they are the last.
    fn append_run(&self, run: &str, known: u64, entries: &[RunEntry], is_over: bool) -> Result<(), AppendRunError>;
    /// At most `limit` entries of a run's log, from number `from` on, counted from 0.
    fn run_entries(&self, run: &str, from: u64, limit: u64) -> Result<Vec<RunEntry>, CatalogError>;
}
