//! What a device committed as an update: read once, and believed in nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use headwater_aggregate::{Fault, ReadLayoutError, check_values, read_layout};
use headwater_protocol::federated::run::{Arrival, Assignment};
use headwater_protocol::federated::{RunName, TaskKey, TaskKind, UPDATE_FILE, metadata, updates_dataset};
use headwater_protocol::id::VersionId;
use headwater_protocol::tensors::Layout;
use headwater_protocol::tensors::encoding::Encoded;

use super::files::hash_of;
use super::lineage::MODEL_FILE;
use super::staging::{StageError, Staging};
use super::{LiveRun, PlainFile, StoredFileError, key_of};
use crate::catalog::{CatalogError, Deletion, DropError, Retention};
use crate::config::UpdatesKeep;
use crate::core::Core;

/// Most metrics of an update.
const METRICS_MAX: usize = 64;
/// Longest name of a metric, in bytes.
const METRIC_NAME_BYTES_MAX: usize = 64;

/// Looks at the newest update of `device`; none if there is none that has not been seen. Blocks.
pub(super) fn look(core: &Arc<Core>, live: &LiveRun, device: &str) -> Result<Option<Arrival>, CatalogError> {
    let Some(work) = live.run.poll_task(device) else { return Ok(None) };
    let Ok(name) = updates_dataset(&live.name, device) else { return Ok(None) };
    let Some(dataset) = core.catalog.dataset(name.as_str())? else { return Ok(None) };
    let Some(head) = dataset.head else { return Ok(None) };
    if let UpdatesKeep::Newest(count) = core.config.federation.updates_keep
        && dataset.retention == Retention::default()
    {
        let retention = Retention { keep_last: Some(count.get().into()), keep_newer_than_s: None };
        core.catalog.set_retention(dataset.id, retention)?;
    }
    if live.run.pending().iter().any(|counted| counted.update == head.version) {
        return Ok(None);
    }
    let staging = Staging::of_run(core, live.name.as_str());
    let read = || -> Result<Arrival, Unreadable> {
        let path = staging.file(core, name.as_str(), &head.version, UPDATE_FILE)?;
        let base = match work.kind {
            TaskKind::Train => {
                let path = staging.file(core, &live.run.plan().model, &work.base.id, MODEL_FILE)?;
                let file = PlainFile::open(&path).map_err(Unreadable::Io)?;
                Some(read_layout(&file).map_err(|error| Unreadable::Io(io::Error::other(error)))?)
            }
            TaskKind::Evaluate => None,
        };
        let program = live.run.plan().program.as_ref().map(|program| program.version.to_string());
        examine(&path, base.as_ref(), program.as_deref())
    };
    let mut arrival = match read() {
        Ok(arrival) => arrival,
        Err(Unreadable::Update(fault)) => faulty(live, work, fault),
        // A device can commit a version without the file.
        Err(Unreadable::Stage(StageError::Stored(error @ StoredFileError::Missing(_)))) => {
            faulty(live, work, error.to_string())
        }
        Err(Unreadable::Stage(StageError::Gone { .. })) => return Ok(None),
        Err(Unreadable::Stage(StageError::Catalog(error))) => return Err(error),
        Err(Unreadable::Stage(error)) => {
            return Err(CatalogError::Failed { action: "look into an update", source: Box::new(error) });
        }
        Err(Unreadable::Io(error)) => {
            return Err(CatalogError::Failed { action: "look into an update", source: Box::new(error) });
        }
    };
    arrival.update = head.version;
    if arrival.task.run != live.name.as_str() {
        arrival.fault = Some(format!("it was made for the run `{}`", arrival.task.run));
        arrival.task = key_of(live.name.as_str(), work.base, work.kind);
    }
    if arrival.fault.is_some() || arrival.task.base != work.base.id || arrival.task.kind != work.kind {
        staging.forget(&head.version);
    }
    Ok(Some(arrival))
}

fn faulty(live: &LiveRun, work: &Assignment, fault: String) -> Arrival {
    Arrival {
        update: work.base.id,
        task: key_of(live.name.as_str(), work.base, work.kind),
        hash: String::new(),
        samples: 0,
        bytes: 0,
        metrics: BTreeMap::new(),
        fault: Some(fault),
    }
}

/// Forgets an update that is in a model, and those before it, where none is to be kept: its bytes go with the next gc. Blocks.
pub(super) fn forget(core: &Core, run: &RunName, device: &str, update: &VersionId) -> anyhow::Result<()> {
    if core.config.federation.updates_keep != UpdatesKeep::Nothing {
        return Ok(());
    }
    let Some(dataset) = core.catalog.dataset(updates_dataset(run, device)?.as_str())? else { return Ok(()) };
    let Some(counted) = core.catalog.version_by_id(dataset.id, update)? else { return Ok(()) };
    let number = counted.summary.number;
    let whole = Deletion { last_copy: true, collected: true, newest: Some(number) };
    match core.catalog.delete_dataset(dataset.id, whole) {
        // The device has sent another one since.
        Err(DropError::Newest { .. }) => {
            let done = core.catalog.versions(dataset.id, Some(number + 1), usize::MAX)?;
            let numbers: Vec<_> = done.iter().map(|version| version.number).collect();
            Ok(core.catalog.drop_versions(dataset.id, &numbers, true)?)
        }
        other => Ok(other?),
    }
}

/// Forgets all updates of a run that is over, where none is to be kept. Blocks.
pub(super) fn forget_all<'a>(
    core: &Core,
    run: &RunName,
    devices: impl Iterator<Item = &'a String>,
) -> anyhow::Result<()> {
    for device in devices {
        let Some(dataset) = core.catalog.dataset(updates_dataset(run, device)?.as_str())? else { continue };
        if let Some(head) = dataset.head {
            forget(core, run, device, &head.version)?;
        }
    }
    Ok(())
}

/// Why an update could not be looked at.
enum Unreadable {
    /// The device made it so.
    Update(String),
    /// It could not be fetched from the store.
    Stage(StageError),
    /// The copy could not be read.
    Io(io::Error),
}

impl From<StageError> for Unreadable {
    fn from(error: StageError) -> Self {
        Self::Stage(error)
    }
}

/// Reads the file at `path`. The version is for the caller to fill in.
fn examine(path: &Path, base: Option<&Layout>, program: Option<&str>) -> Result<Arrival, Unreadable> {
    let file = PlainFile::open(path).map_err(Unreadable::Io)?;
    let layout = read_layout(&file).map_err(|error| match error {
        ReadLayoutError::Layout(error) => Unreadable::Update(error.to_string()),
        ReadLayoutError::Read(error) => Unreadable::Io(io::Error::other(error)),
    })?;
    let mut arrival = described(&layout).map_err(Unreadable::Update)?;
    if layout.metadata().get(metadata::PROGRAM).map(String::as_str) != program {
        arrival.fault = Some("it was not made by the run's program".to_owned());
    }
    arrival.bytes = layout.file_bytes();
    if let Some(model) = base
        && arrival.fault.is_none()
    {
        arrival.fault = match Encoded::new(model, &layout) {
            Err(mismatch) => Some(mismatch.to_string()),
            Ok(encoded) => match check_values(model, &encoded, &file) {
                Ok(()) => None,
                Err(Fault::Read(error)) => return Err(Unreadable::Io(io::Error::other(error))),
                Err(fault) => Some(fault.to_string()),
            },
        };
    }
    arrival.hash = hash_of(path).map_err(Unreadable::Io)?;
    Ok(arrival)
}

/// What an update says of itself.
fn described(layout: &Layout) -> Result<Arrival, String> {
    let text = |key: &str| layout.metadata().get(key).ok_or_else(|| format!("its metadata have no `{key}`"));
    let unreadable = |key: &str| format!("its metadata's `{key}` can't be read");
    let kind = match text(metadata::KIND)?.as_str() {
        "train" => TaskKind::Train,
        "evaluate" => TaskKind::Evaluate,
        _ => return Err(unreadable(metadata::KIND)),
    };
    let base = text(metadata::BASE)?.parse().map_err(|_| unreadable(metadata::BASE))?;
    let samples = text(metadata::SAMPLES)?.parse().map_err(|_| unreadable(metadata::SAMPLES))?;
    let metrics: BTreeMap<String, f64> = match layout.metadata().get(metadata::METRICS) {
        Some(json) => serde_json::from_str(json).map_err(|_| unreadable(metadata::METRICS))?,
        None => BTreeMap::new(),
    };
    if metrics.len() > METRICS_MAX || metrics.keys().any(|name| name.len() > METRIC_NAME_BYTES_MAX) {
        return Err(format!(
            "it has over {METRICS_MAX} metrics, or one with a name of over {METRIC_NAME_BYTES_MAX} bytes"
        ));
    }
    Ok(Arrival {
        update: base,
        task: TaskKey { run: text(metadata::RUN)?.clone(), base, kind },
        hash: String::new(),
        samples,
        bytes: 0,
        metrics,
        fault: None,
    })
}
