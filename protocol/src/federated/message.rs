//! What a core and a device say to each other of training, on the control stream.
//!
//! Nothing here is kept by being said: the core says its tasks again at the start of each session, the device how they stand.

use rkyv::{Archive, Deserialize, Serialize};

use super::{RunName, UPDATES_PREFIX};
use crate::id::VersionId;
use crate::wire::{Following, MESSAGE_TEXT_BYTES_MAX};

/// Longest configuration of a run, in bytes of JSON.
pub const CONFIG_BYTES_MAX: usize = 64 * 1024;
/// Longest reason, in bytes; the tail of a program's output is cut to this.
pub const REASON_BYTES_MAX: usize = 4096;
/// Most encodings that are offered.
pub const ENCODINGS_MAX: usize = 16;

/// What a device is to do.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    /// Train the model, and send how it changed.
    Train,
    /// Judge the model, and send metrics alone.
    Evaluate,
}

impl TaskKind {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Evaluate => "evaluate",
        }
    }
}

/// What a task is known by: a device does each once, however often it is told.
#[derive(
    Archive,
    Serialize,
    Deserialize,
    Clone,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct TaskKey {
    /// The run.
    pub run: String,
    /// The version of the model.
    pub base: VersionId,
    /// What is to be done with it.
    pub kind: TaskKind,
}

/// What a core asks a device to do.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Task {
    /// The run.
    pub run: String,
    /// The round's number, from 1.
    pub round: u64,
    /// What is to be done.
    pub kind: TaskKind,
    /// The model, and the version that is to be trained or judged.
    pub model: Following,
    /// The run's configuration for training programs: a JSON object.
    pub config: String,
    /// Encodings that the core takes for the update, the one that it likes best first.
    pub encodings: Vec<String>,
    /// How long the core waits, from now, in milliseconds; none: as long as it takes.
    pub wait_ms: Option<u64>,
    /// The program that is to be run instead of the device's own, as a version that its author signed.
    pub program: Option<Following>,
}

impl Task {
    /// What it is known by.
    pub fn key(&self) -> TaskKey {
        TaskKey { run: self.run.clone(), base: self.model.version, kind: self.kind }
    }

    fn check(&self) -> Result<(), String> {
        check_run(&self.run)?;
        check_name(&self.model.dataset)?;
        check_length("a configuration", &self.config, CONFIG_BYTES_MAX)?;
        check_encodings(&self.encodings)?;
        self.program.iter().try_for_each(|program| check_name(&program.dataset))
    }
}

/// What a device says of itself that decides whether it may train.
#[derive(
    Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize,
)]
pub struct DeviceReport {
    /// Whether it is on mains power; none where it can't tell.
    pub on_power: Option<bool>,
    /// Whether its link costs nothing by the byte; none where it can't tell.
    pub unmetered: Option<bool>,
    /// Memory that a program may have, in bytes.
    pub memory_free_bytes: u64,
    /// Samples in the datasets that training programs see.
    pub samples: u64,
    /// Tasks that it does at once.
    pub tasks_max: u32,
    /// Encodings that it can send.
    pub encodings: Vec<String>,
    /// Whether it has a program of its own.
    pub has_program: bool,
    /// Whether it takes programs from authors that it trusts.
    pub takes_programs: bool,
}

/// How a task stands at the device.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Participation {
    /// It waits for its turn, or for the model to come.
    Waiting {
        /// For what.
        reason: String,
    },
    /// The program runs.
    Training {
        /// Steps done, as the program says.
        step: u64,
        /// Of so many; 0 where it doesn't say.
        steps: u64,
    },
    /// The update is made, and on its way.
    Sending {
        /// Its length.
        bytes: u64,
        /// So much of it is acknowledged.
        acknowledged: u64,
    },
    /// The device won't.
    Declined {
        /// Why.
        reason: String,
    },
    /// It tried, and can't.
    Failed {
        /// Why, with the tail of the program's output.
        reason: String,
    },
}

impl Participation {
    /// Whether nothing more will come of it.
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Declined { .. } | Self::Failed { .. })
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Waiting { reason } | Self::Declined { reason } | Self::Failed { reason } => {
                check_length("a reason", reason, REASON_BYTES_MAX)
            }
            Self::Training { .. } | Self::Sending { .. } => Ok(()),
        }
    }
}

/// What became of a task, by the core's word.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Which task.
    pub task: TaskKey,
    /// Whether the update counts.
    pub accepted: bool,
    /// Why not, or empty.
    pub reason: String,
}

/// A message of training.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum TrainingMessage {
    /// Device to core: this is how I am. A device that says so can be given tasks.
    Report(DeviceReport),
    /// Core to device: do this. It is said again in each session until the device's update is in or the task is settled.
    Do(Task),
    /// Device to core: so it stands with the task.
    Stands {
        /// Which.
        task: TaskKey,
        /// How.
        state: Participation,
    },
    /// Core to device: the task is done with. What is left of it is to be stopped and can be removed.
    Settled(Settled),
}

impl TrainingMessage {
    pub(crate) fn check(&self) -> Result<(), String> {
        match self {
            Self::Report(report) => check_encodings(&report.encodings),
            Self::Do(task) => task.check(),
            Self::Stands { task, state } => {
                check_run(&task.run)?;
                state.check()
            }
            Self::Settled(settled) => {
                check_run(&settled.task.run)?;
                check_length("a reason", &settled.reason, REASON_BYTES_MAX)
            }
        }
    }
}

/// A reason that is short enough to be said.
pub fn cut_reason(mut reason: String) -> String {
    let end = (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    reason.truncate(end);
    reason
}

fn check_run(run: &str) -> Result<(), String> {
    RunName::new(run).map(drop).map_err(|error| error.to_string())
}

fn check_name(name: &str) -> Result<(), String> {
    check_length("a name", name, MESSAGE_TEXT_BYTES_MAX)?;
    // A model below the updates would be one that devices write.
    if name.starts_with(UPDATES_PREFIX) { Err(format!("`{name}` is no model")) } else { Ok(()) }
}

fn check_encodings(encodings: &[String]) -> Result<(), String> {
    if encodings.len() > ENCODINGS_MAX {
        return Err(format!("{} encodings, over {ENCODINGS_MAX}", encodings.len()));
    }
    encodings.iter().try_for_each(|name| check_length("an encoding", name, MESSAGE_TEXT_BYTES_MAX))
}

fn check_length(what: &str, text: &str, bytes_max: usize) -> Result<(), String> {
    if text.len() <= bytes_max { Ok(()) } else { Err(format!("{what} of {} bytes, over {bytes_max}", text.len())) }
}
