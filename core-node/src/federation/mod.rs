//! Federated runs: the shell around [`headwater_protocol::federated::run::Run`].
//!
//! ```text
//! sessions ── what devices say ──▶ inbox ─┐
//! commits of updates ─────────────────────┤                    ┌─▶ log in the catalog, then the run's state
//! people ─── start, pause, abort ─────────┼─▶ step() ──────────┤
//! time ───────────────────────────────────┘   one at a time    ├─▶ tasks and verdicts to devices
//!                                                              └─▶ combine() on a thread of its own ──▶ inbox
//! ```
//!
//! One task drives all runs ([`driver`]). A step asks the machines, makes what they say durable, and only then acts upon it; what
//! is to be done is read from their state each time, so a step that was lost to a restart is simply done again. An update is a
//! version of the device's own dataset, taken by [`crate::ingest`] like any other; [`updates`] looks into it, [`combine`] makes
//! the new model of those that count.

mod combine;
mod combiner;
mod driver;
mod files;
mod lineage;
mod live;
mod model;
mod participants;
mod presence;
mod recompute;
mod settings;
mod staging;
mod step;
mod stored;
mod updates;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headwater_protocol::federated::run::Candidate;
use headwater_protocol::federated::{
    DeviceReport, Entry, ModelVersion, Participation, Plan, RunName, TaskKey, TaskKind, TrainingMessage, UpdatesName,
};
use headwater_protocol::trust::{Principal as Peer, Role};
use headwater_quic::session::SessionHandle;
use tokio::sync::Notify;

pub(crate) use combine::{Input, combine_files};
pub(crate) use combiner::{Combiner, is_path};
pub(crate) use driver::drive;
pub(crate) use files::PlainFile;
pub(crate) use lineage::{Lineage, MODEL_FILE, STATE_PREFIX};
pub(crate) use live::LiveRun;
pub(crate) use model::{KnownModel, look_at_model};
pub use participants::Participants;
pub(crate) use presence::Presence;
use presence::{Outbox, outbox, say};
pub(crate) use recompute::{Recomputed, recompute};
pub use settings::{EligibleSettings, RunSettings};
pub(crate) use staging::{StageError, Staging};
pub(crate) use stored::{StoredFile, StoredFileError};

use crate::catalog::{BeginRunError, CatalogError, RunRecord};
use crate::core::Core;

/// Milliseconds of a minute.
const MINUTE_MS: u64 = 60_000;

/// All runs that are not over, and the devices that can take part.
#[derive(Default)]
pub struct Federation {
    runs: Mutex<BTreeMap<RunName, LiveRun>>,
    present: Mutex<BTreeMap<String, Present>>,
    inbox: Mutex<Vec<Heard>>,
    wake: Notify,
}

/// A device that is connected and has said how it is.
struct Present {
    /// Which of its sessions said so.
    session: u64,
    peer: Arc<Peer>,
    /// What it is to hear, in order.
    outbox: Outbox,
    report: DeviceReport,
    /// Tasks that this session has heard of, and those that the device spoke of: what becomes of them is told once.
    told: BTreeSet<TaskKey>,
}

impl Present {
    fn say(&self, message: TrainingMessage) {
        say(&self.outbox, message);
    }
}

/// Something that a step is to take.
enum Heard {
    /// A device said how a task stands.
    Stands { device: String, task: TaskKey, state: Participation },
    /// A dataset of updates has a new version.
    Update { run: RunName, device: String },
    /// Announcements were missed: any dataset of updates may have a new version.
    AnyUpdate,
    /// Updates were combined, or can't be.
    Combined { run: RunName, round: u64, result: Result<ModelVersion, String> },
}

/// What a person sees of a device in a run.
#[derive(Clone, Debug)]
pub(crate) struct DeviceInRun {
    pub(crate) device: String,
    pub(crate) state: String,
}

impl Federation {
    fn runs(&self) -> MutexGuard<'_, BTreeMap<RunName, LiveRun>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn present(&self) -> MutexGuard<'_, BTreeMap<String, Present>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, heard: Heard) {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).push(heard);
        self.wake.notify_one();
    }

    fn take_inbox(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A peer said something of training. Returns at once.
    pub(crate) fn heard(&self, session: u64, peer: &Arc<Peer>, handle: &SessionHandle, message: TrainingMessage) {
        if peer.role != Role::Device {
            tracing::debug!(peer = peer.name, "one that is no device spoke of training");
            return;
        }
        match message {
            TrainingMessage::Report(report) => {
                let mut present = self.present();
                if let Some(known) = present.get_mut(&peer.name).filter(|known| known.session == session) {
                    known.report = report;
                    known.peer = peer.clone();
                } else {
                    let outbox = outbox(handle.clone());
                    let new = Present { session, peer: peer.clone(), outbox, report, told: BTreeSet::new() };
                    present.insert(peer.name.clone(), new);
                }
                drop(present);
                self.wake.notify_one();
            }
            TrainingMessage::Stands { task, state } => {
                if let Some(known) = self.present().get_mut(&peer.name).filter(|known| known.session == session) {
                    known.told.insert(task.clone());
                }
                self.hear(Heard::Stands { device: peer.name.clone(), task, state });
            }
            TrainingMessage::Do(_) | TrainingMessage::Settled(_) => {
                tracing::debug!(device = peer.name, "a device spoke like a core");
            }
        }
    }

    /// A session has ended.
    fn gone(&self, device: &str, session: u64) {
        let mut present = self.present();
        if present.get(device).is_some_and(|known| known.session == session) {
            present.remove(device);
        }
    }

    /// A dataset has a new version; if it is one of updates, it will be looked into.
    fn changed(&self, dataset: &str) {
        if let Some(UpdatesName { run, device }) = UpdatesName::parse(dataset) {
            self.hear(Heard::Update { run, device: device.to_owned() });
        }
    }

    /// Begins a run. Blocks.
    pub(crate) fn begin(
        &self,
        core: &Core,
        name: &RunName,
        plan: Plan,
        model: ModelVersion,
    ) -> Result<(), BeginRunError> {
        let record = RunRecord {
            name: name.to_string(),
            plan: serde_json::to_string(&plan).expect("a plan is plain data"),
            model,
            began_at: core.now(),
            is_over: false,
        };
        core.catalog.begin_run(&record)?;
        tracing::info!(run = name.as_str(), model = plan.model, rounds = plan.rounds, "a run began");
        let mut runs = self.runs();
        runs.insert(name.clone(), LiveRun::new(name.clone(), record, plan));
        core.rights.participants().open(name.as_str(), &runs[name].run);
        drop(runs);
        self.wake.notify_one();
        Ok(())
    }

    /// Runs `ask` on a run that is not over, and takes the entries that it gives. None: there is no such run. Blocks.
    pub(crate) fn tell(
        &self,
        core: &Core,
        name: &RunName,
        ask: impl FnOnce(&LiveRun) -> Vec<Entry>,
    ) -> Result<Option<bool>, CatalogError> {
        let mut runs = self.runs();
        let Some(live) = runs.get_mut(name) else { return Ok(None) };
        let entries = ask(live);
        let changes = !entries.is_empty();
        live.take(core, &entries)?;
        drop(runs);
        self.wake.notify_one();
        Ok(Some(changes))
    }

    /// Looks at a run that is not over.
    pub(crate) fn look<T>(&self, name: &str, look: impl FnOnce(&LiveRun) -> T) -> Option<T> {
        let runs = self.runs();
        runs.values().find(|live| live.record.name == name).map(look)
    }

    /// The devices that could take part in `live`, and what each does or what keeps it from taking part.
    pub(crate) fn devices(&self, core: &Core, live: &LiveRun) -> Vec<DeviceInRun> {
        let minute = minute_of(core);
        let present = self.present();
        let selected = present.values().filter(|known| live.run.plan().devices.selects(&known.peer));
        let shown = selected.map(|known| {
            let name = known.peer.name.as_str();
            let candidate = Candidate { name, report: &known.report, is_busy: false, minute };
            let state = match live.run.poll_task(name) {
                Some(work) => match &work.said {
                    Some((state, _)) => said(state),
                    None => "was asked".to_owned(),
                },
                None => live.run.obstacle(&candidate, live.run.kind()).unwrap_or_else(|| "ready".to_owned()),
            };
            DeviceInRun { device: name.to_owned(), state }
        });
        let mut shown: Vec<_> = shown.collect();
        for device in live.run.assigned().keys().filter(|device| !present.contains_key(*device)) {
            shown.push(DeviceInRun { device: device.clone(), state: "not connected".to_owned() });
        }
        shown.sort_by(|left, right| left.device.cmp(&right.device));
        shown
    }

    /// Reads the runs that are not over. Blocks.
    pub(crate) fn load(&self, core: &Core) -> Result<(), CatalogError> {
        if let Err(error) = staging::Staging::clear_all(core) {
            tracing::warn!(%error, "what an earlier process left of updates can't be removed");
        }
        let records = core.catalog.runs()?;
        let mut runs = self.runs();
        for record in records.into_iter().filter(|record| !record.is_over) {
            match LiveRun::load(core, record) {
                Ok(live) => {
                    core.rights.participants().open(&live.record.name, &live.run);
                    runs.insert(live.name.clone(), live);
                }
                Err(live::LoadError::Catalog(error)) => return Err(error),
                Err(error) => tracing::error!(%error, "a run can't be read, and does not go on"),
            }
        }
        drop(runs);
        self.hear(Heard::AnyUpdate);
        Ok(())
    }
}

fn said(state: &Participation) -> String {
    match state {
        Participation::Waiting { reason } => format!("waits: {reason}"),
        Participation::Training { step, steps: 0 } => format!("trains, step {step}"),
        Participation::Training { step, steps } => format!("trains, step {step} of {steps}"),
        Participation::Sending { bytes, acknowledged } => format!("sends, {acknowledged} of {bytes} bytes"),
        Participation::Declined { reason } => format!("declined: {reason}"),
        Participation::Failed { reason } => format!("failed: {reason}"),
    }
}

fn minute_of(core: &Core) -> u16 {
    (core.now().0 / MINUTE_MS % u64::from(headwater_protocol::federated::DAY_MINUTES)) as u16
}

/// What a task is known by.
fn key_of(run: &str, base: ModelVersion, kind: TaskKind) -> TaskKey {
    TaskKey { run: run.to_owned(), base: base.id, kind }
}
