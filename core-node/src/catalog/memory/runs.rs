//! Federated runs and their logs.

use super::MemoryCatalog;
use crate::catalog::{AppendRunError, BeginRunError, CatalogError, RunEntry, RunRecord, RunTable};

/// A run and its log.
#[derive(Clone)]
pub(super) struct Run {
    record: RunRecord,
    entries: Vec<RunEntry>,
}

impl RunTable for MemoryCatalog {
    fn begin_run(&self, run: &RunRecord) -> Result<(), BeginRunError> {
        let mut state = self.state();
        if state.runs.contains_key(&run.name) {
            return Err(BeginRunError::Exists(run.name.clone()));
        }
        state.runs.insert(run.name.clone(), Run { record: run.clone(), entries: Vec::new() });
        Ok(())
    }

    fn runs(&self) -> Result<Vec<RunRecord>, CatalogError> {
        Ok(self.state().runs.values().map(|run| run.record.clone()).collect())
    }

    fn append_run(&self, run: &str, known: u64, entries: &[RunEntry], is_over: bool) -> Result<(), AppendRunError> {
        let mut state = self.state();
        let found = state.runs.get_mut(run).filter(|run| run.entries.len() as u64 == known);
        let Some(found) = found else {
            let found = state.runs.get(run).map_or(0, |run| run.entries.len() as u64);
            return Err(AppendRunError::Moved { run: run.to_owned(), found, expected: known });
        };
        found.entries.extend_from_slice(entries);
        found.record.is_over |= is_over;
        Ok(())
    }

    fn run_entries(&self, run: &str, from: u64, limit: u64) -> Result<Vec<RunEntry>, CatalogError> {
        let bounded = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let state = self.state();
        let entries = state.runs.get(run).map_or(&[][..], |run| &run.entries);
        Ok(entries.iter().skip(bounded(from)).take(bounded(limit)).cloned().collect())
    }
}
