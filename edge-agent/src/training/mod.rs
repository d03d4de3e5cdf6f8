//! The device's side of federated runs: tasks of the core, training programs, updates.
//!
//! What is to be done is decided by [`headwater_protocol::federated::participant`]; [`shell`] does it: it fetches models like
//! subscriptions, runs programs ([`process`]) by the file contract ([`contract`]), and makes updates ([`encode`]), which are
//! published like any folder of this device, only before all others. Nothing of this runs where `[training]` is not configured.

mod contract;
mod encode;
mod place;
mod process;
mod report;
mod shell;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use headwater_protocol::federated::participant::{Held, Participant, Settlement, Stage};
use headwater_protocol::federated::{RunName, TaskKind, TrainingMessage, updates_dataset};
use headwater_protocol::name::DatasetName;
use tokio::sync::Notify;

pub(crate) use process::Keeper;
pub(crate) use shell::keep;

use crate::request::TrainingReport;
use place::Place;

/// What the agent knows of its tasks; the shell changes it, commands and the folders' keepers look at it.
pub(crate) struct Training {
    participant: Mutex<Participant>,
    inbox: Mutex<Vec<TrainingMessage>>,
    wake: Notify,
}

impl Default for Training {
    fn default() -> Self {
        Self { participant: Mutex::new(Participant::new(1)), inbox: Mutex::default(), wake: Notify::new() }
    }
}

impl Training {
    fn participant(&self) -> MutexGuard<'_, Participant> {
        self.participant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The core has said this.
    pub(crate) fn hear(&self, message: TrainingMessage) {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        self.wake.notify_one();
    }

    fn heard(&self) -> Vec<TrainingMessage> {
        std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The device's operator wants nothing more of a run's task; false if there is none that goes on.
    pub(crate) fn abort(&self, run: &str) -> bool {
        let known = self.participant().handle_abort(run, "the device's operator ended it");
        self.wake.notify_one();
        known
    }

    /// The datasets of updates that are being sent to `data`'s core as `device`, and their folders.
    pub(crate) fn updates(&self, data: &Path, device: &str) -> Vec<(DatasetName, PathBuf)> {
        let participant = self.participant();
        let sending = participant.tasks().filter(|held| matches!(held.stage, Stage::Sending { .. }));
        let of = |held: &Held| {
            let run = RunName::new(held.task.run.as_str()).ok()?;
            Some((updates_dataset(&run, device).ok()?, Place::new(data, run.as_str()).update()))
        };
        sending.filter_map(of).collect()
    }

    /// Whether a dataset that is fetched to `folder` is a model or a program of a task.
    pub(crate) fn fetches(&self, data: &Path, dataset: &str, folder: &Path) -> bool {
        self.participant().tasks().any(|held| {
            let place = Place::new(data, &held.task.run);
            let program = held.task.program.as_ref().map(|program| program.dataset.as_str());
            (held.task.model.dataset == dataset && place.model() == folder)
                || (program == Some(dataset) && place.program() == folder)
        })
    }

    /// The tasks and the outcomes of the last ones, for people.
    pub(crate) fn reports(&self) -> Vec<TrainingReport> {
        let participant = self.participant();
        let goes_on = participant.tasks().map(|held| TrainingReport {
            run: held.task.run.clone(),
            round: held.task.round,
            kind: held.task.kind.as_str().to_owned(),
            model: format!("{}@{}", held.task.model.dataset, held.task.model.number),
            state: state(held),
        });
        let tasks: Vec<_> = goes_on.collect();
        let ended = participant.settled().iter().filter(|(run, _)| !tasks.iter().any(|task| task.run == **run));
        let ended: Vec<_> = ended.map(|(run, settlement)| outcome(run, settlement)).collect();
        tasks.into_iter().chain(ended).collect()
    }
}

fn outcome(run: &str, settlement: &Settlement) -> TrainingReport {
    let what = match settlement.kind {
        TaskKind::Train => "its update",
        TaskKind::Evaluate => "its word",
    };
    TrainingReport {
        run: run.to_owned(),
        round: settlement.round,
        kind: settlement.kind.as_str().to_owned(),
        model: String::new(),
        state: if settlement.accepted {
            format!("{what} counts")
        } else {
            format!("{what} does not count: {}", settlement.reason)
        },
    }
}

fn state(held: &Held) -> String {
    match &held.stage {
        Stage::Fetching => "fetches the model".to_owned(),
        Stage::Waiting => "waits for its turn".to_owned(),
        Stage::Training { step, steps: 0 } => format!("trains, step {step}"),
        Stage::Training { step, steps } => format!("trains, step {step} of {steps}"),
        Stage::Encoding => "makes the update".to_owned(),
        Stage::Sending { bytes, sent } => format!("sends the update, {sent} of {bytes} bytes"),
        Stage::Over { said } => match said {
            headwater_protocol::federated::Participation::Declined { reason } => format!("declined: {reason}"),
            headwater_protocol::federated::Participation::Failed { reason } => format!("failed: {reason}"),
            _ => "is over".to_owned(),
        },
    }
}

/// The newest output of a run's program, of at most `bytes_max` bytes. Blocks.
pub(crate) fn log_of(data: &Path, run: &RunName, bytes_max: u64) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(Place::new(data, run.as_str()).log())?;
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(bytes_max)))?;
    let mut text = Vec::new();
    file.take(bytes_max).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
