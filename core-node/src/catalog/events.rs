//! The core's journal for people, and small notes that it keeps for itself.

use super::{CatalogError, UnixMs};

/// Most events that are kept; the oldest go first.
pub const EVENTS_MAX: u64 = 100_000;

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventSeverity {
    /// Something happened as it should.
    Info,
    /// Something to know.
    Warning,
    /// Someone must look.
    Error,
}

/// Something to remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, by the core's clock.
    pub at: UnixMs,
    /// How much it matters.
    pub severity: EventSeverity,
    /// What kind, as `commit`, `join`, `damage`; or the code of an error.
    pub kind: String,
    /// What it is about: a dataset, a device.
    pub subject: String,
    /// A plain sentence.
    pub message: String,
}

/// An event with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// Grows with each event.
    pub number: u64,
    /// What happened.
    pub event: Event,
}

/// Events and notes.
pub trait EventLog {
    /// Adds an event.
    fn add_event(&self, event: &Event) -> Result<(), CatalogError>;
    /// Events about `subject` (any, if none) with numbers below `before`, newest first, at most `limit`.
    fn events(
        &self,
        subject: Option<&str>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<EventRecord>, CatalogError>;
    /// A small value under a key.
    fn note(&self, key: &str) -> Result<Option<Vec<u8>>, CatalogError>;
    /// Sets it.
    fn set_note(&self, key: &str, value: &[u8]) -> Result<(), CatalogError>;
}
