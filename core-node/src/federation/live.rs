//! A run that is not over: its machine, its log, and its clock.
//!
//! The clock of a run counts while it is coordinated, and goes on after a restart from the last entry: neither a night without
//! a core nor a wall clock that jumps brings a deadline nearer.

use std::time::Duration;

use headwater_protocol::federated::run::{Phase, Run, weighted};
use headwater_protocol::federated::{Entry, Plan, RunName, RunNameError};
use headwater_protocol::time::Timestamp;
use tokio::time::Instant;

use crate::admin::{KindLabels, MeasureLabels};
use crate::catalog::{AppendRunError, CatalogError, RunEntry, RunRecord};
use crate::core::Core;

/// Metrics of a round that are scraped.
const MEASURES_MAX: usize = 64;
/// Entries that are read at once.
const ENTRIES_BATCH: u64 = 1000;

/// Why a run in the catalog can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// Its name is none.
    #[error("the run `{run}` has a name that can't be")]
    Name {
        /// Which.
        run: String,
        /// Why.
        source: RunNameError,
    },
    /// Its plan or an entry can't be read.
    #[error("{what} of the run `{run}` can't be read")]
    Unreadable {
        /// Which.
        run: String,
        /// What of it.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// A run that is not over.
pub(crate) struct LiveRun {
    /// Its name.
    pub(crate) name: RunName,
    /// As the catalog has it.
    pub(crate) record: RunRecord,
    /// Where it stands.
    pub(crate) run: Run,
    /// Entries of its log.
    pub(super) known: u64,
    /// Whether its updates are being combined by this process.
    pub(super) is_combining: bool,
    /// When its updates were closed last, by the wall clock in milliseconds: what is made of them carries this time.
    pub(super) closed_at: u64,
    elapsed: Duration,
    since: Instant,
}

impl LiveRun {
    /// A run that begins now.
    pub(super) fn new(name: RunName, record: RunRecord, plan: Plan) -> Self {
        let run = Run::new(plan, record.model);
        Self {
            name,
            record,
            run,
            known: 0,
            is_combining: false,
            closed_at: 0,
            elapsed: Duration::ZERO,
            since: Instant::now(),
        }
    }

    /// Reads a run from the catalog. Blocks.
    pub(crate) fn load(core: &Core, record: RunRecord) -> Result<Self, LoadError> {
        let run = record.name.clone();
        let name = RunName::new(run.as_str()).map_err(|source| LoadError::Name { run: run.clone(), source })?;
        let unreadable = |what: String| {
            let run = run.clone();
            move |source| LoadError::Unreadable { run, what, source }
        };
        let plan = serde_json::from_str(&record.plan).map_err(unreadable("the plan".to_owned()))?;
        let mut live = Self::new(name, record, plan);
        loop {
            let entries = core.catalog.run_entries(&run, live.known, ENTRIES_BATCH)?;
            if entries.is_empty() {
                return Ok(live);
            }
            for stored in entries {
                let entry = serde_json::from_str(&stored.body).map_err(unreadable(format!("entry {}", live.known)))?;
                live.elapsed = Duration::from_millis(stored.elapsed_ms);
                live.apply(&entry, stored.at.0);
            }
        }
    }

    /// The run's own time.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::ZERO + self.elapsed + self.since.elapsed()
    }

    /// How long from now `at` is.
    pub(super) fn until(&self, at: Timestamp) -> Duration {
        at.since(self.now())
    }

    /// Makes entries durable, and takes them. Blocks.
    pub(super) fn take(&mut self, core: &Core, entries: &[Entry]) -> Result<(), CatalogError> {
        if entries.is_empty() {
            return Ok(());
        }
        let at = core.now();
        let elapsed_ms = self.now().as_nanos() / 1_000_000;
        let stored: Vec<_> = entries
            .iter()
            .map(|entry| serde_json::to_string(entry).expect("an entry is plain data"))
            .map(|body| RunEntry { at, elapsed_ms, body })
            .collect();
        let is_over = entries.iter().any(|entry| matches!(entry, Entry::Ended { .. }));
        core.catalog.append_run(self.name.as_str(), self.known, &stored, is_over).map_err(|error| match error {
            AppendRunError::Catalog(error) => error,
            // One process coordinates, under the lock of the data folder.
            moved @ AppendRunError::Moved { .. } => {
                CatalogError::Failed { action: "write the log of a run", source: Box::new(moved) }
            }
        })?;
        for entry in entries {
            self.say(entry);
            self.count(core, entry);
            self.apply(entry, at.0);
        }
        Ok(())
    }

    fn apply(&mut self, entry: &Entry, at_ms: u64) {
        self.run.apply(entry);
        self.known += 1;
        if matches!(entry, Entry::Closed { .. }) {
            self.closed_at = at_ms;
        }
        if !matches!(self.run.phase(), Phase::Combining { .. }) {
            self.is_combining = false;
        }
    }

    /// Adds what happens to the numbers that are scraped.
    fn count(&self, core: &Core, entry: &Entry) {
        let kind = match entry {
            Entry::Counted(_) => "counted",
            Entry::Refused { .. } => "refused",
            Entry::Left { .. } => "left",
            Entry::Aggregated { .. } => "aggregated",
            Entry::RoundFailed { .. } => "failed",
            _ => return,
        };
        core.metrics.federated_events.get_or_create(&KindLabels { kind }).inc();
        if kind != "aggregated" {
            return;
        }
        let members = self.run.poll_combine().map(|combine| combine.members).unwrap_or_default();
        // Names come from devices: so many at most, whatever they are called.
        for (metric, value) in weighted(members.iter().map(|member| member.counted)).into_iter().take(MEASURES_MAX) {
            let labels = MeasureLabels { run: self.name.to_string(), metric };
            core.metrics.federated_measures.get_or_create(&labels).set(value.mean);
        }
    }

    fn say(&self, entry: &Entry) {
        let run = self.name.as_str();
        match entry {
            Entry::RoundBegan { round, kind, base, .. } => {
                tracing::info!(run, round, kind = kind.as_str(), model = base.number, "a round began");
            }
            Entry::Selected { round, devices, .. } => {
                tracing::info!(run, round, devices = devices.join(" "), "devices were selected");
            }
            Entry::Counted(counted) => tracing::info!(
                run,
                device = counted.device,
                samples = counted.samples,
                bytes = counted.bytes,
                "an update counts"
            ),
            Entry::Refused { device, reason, .. } => tracing::warn!(run, device, reason, "an update was refused"),
            Entry::Left { device, reason, .. } => tracing::warn!(run, device, reason, "a device left the round"),
            Entry::Closed { round, why, .. } => tracing::info!(run, round, ?why, "a round takes no more updates"),
            Entry::Aggregated { round, model } => {
                tracing::info!(run, round, model = model.number, "a round was aggregated");
            }
            Entry::RoundFailed { round, reason, .. } => tracing::warn!(run, round, reason, "a round failed"),
            Entry::Paused => tracing::info!(run, "the run is paused"),
            Entry::Continued => tracing::info!(run, "the run goes on"),
            Entry::Ended { outcome, reason } => tracing::info!(run, ?outcome, reason, "the run is over"),
        }
    }
}
