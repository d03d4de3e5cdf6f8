//! What being part of a run allows: reading its model and program, and writing one's own updates.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock};

use headwater_protocol::federated::run::Run;
use headwater_protocol::federated::{UPDATES_PREFIX, UpdatesName};

/// Who takes part in which run. A right lasts from the first task to the end of the run.
#[derive(Debug, Default)]
pub struct Participants(RwLock<BTreeMap<String, Rights>>);

#[derive(Debug, Default)]
struct Rights {
    reads: Vec<String>,
    devices: BTreeSet<String>,
}

impl Participants {
    /// A run has begun, or was read again: those who have a task or had one take part.
    pub(super) fn open(&self, name: &str, run: &Run) {
        let plan = run.plan();
        let program = plan.program.iter().map(|program| program.dataset.clone());
        let reads = std::iter::once(plan.model.clone()).chain(program).collect();
        let devices = run.participants().cloned().collect();
        self.write().insert(name.to_owned(), Rights { reads, devices });
    }

    /// These devices have tasks of a run now. Whether any of them had none before.
    pub(super) fn admit<'a>(&self, run: &str, devices: impl IntoIterator<Item = &'a String>) -> bool {
        let mut all = self.write();
        let Some(rights) = all.get_mut(run) else { return false };
        let before = rights.devices.len();
        rights.devices.extend(devices.into_iter().cloned());
        rights.devices.len() > before
    }

    /// A run is over.
    pub(super) fn close(&self, run: &str) {
        self.write().remove(run);
    }

    /// Whether a device may read a dataset because it takes part in a run of it.
    pub fn may_read(&self, device: &str, dataset: &str) -> bool {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.values().any(|rights| rights.devices.contains(device) && rights.reads.iter().any(|name| name == dataset))
    }

    /// Whether a device may publish under a name of updates; none for any other name. Nobody else may ever.
    pub fn may_write(&self, device: &str, dataset: &str) -> Option<bool> {
        if !dataset.starts_with(UPDATES_PREFIX) {
            return None;
        }
        let Some(updates) = UpdatesName::parse(dataset).filter(|updates| updates.device == device) else {
            return Some(false);
        };
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(all.get(updates.run.as_str()).is_some_and(|rights| rights.devices.contains(device)))
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<String, Rights>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
