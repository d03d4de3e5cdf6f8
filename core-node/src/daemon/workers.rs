//! Work in the background, as `status` shows it: gc, retention, collections.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::control::WorkerRow;

/// What every worker does now and how its last run ended.
#[derive(Debug, Default)]
pub struct Workers {
    rows: Mutex<BTreeMap<&'static str, (String, String)>>,
}

impl Workers {
    /// Notes what `worker` does now.
    pub fn doing(&self, worker: &'static str, state: impl Into<String>) {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).entry(worker).or_default().0 = state.into();
    }

    /// Notes how a run of `worker` ended, and that it waits again.
    pub fn done(&self, worker: &'static str, last: impl Into<String>) {
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner).entry(worker).or_default() =
            ("waiting".to_owned(), last.into());
    }

    /// All workers.
    pub fn rows(&self) -> Vec<WorkerRow> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter()
            .map(|(name, (state, last))| WorkerRow {
                name: (*name).to_owned(),
                state: state.clone(),
                last: last.clone(),
            })
            .collect()
    }
}
