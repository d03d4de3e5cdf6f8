//! Federated learning: what a core and the devices of a run say to each other, and the machines of both sides.
//!
//! A **run** is a number of **rounds**. A round gives selected devices a [`Task`] on one version of a model; each trains on its
//! own data and publishes an **update**, one file in a dataset of its own ([`updates_dataset`]), by the same machinery as
//! everything else that a device publishes. So an update is resumable, acknowledged when it is durable, and named by its
//! content; what is said on the control stream ([`TrainingMessage`]) only starts work and reports on it, and each of its
//! messages may be lost or come twice.

mod entry;
mod message;
mod name;
pub mod participant;
mod plan;
pub mod run;

pub use entry::{Closing, Counted, Entry, ModelVersion, Outcome};
pub use message::{
    CONFIG_BYTES_MAX, DeviceReport, ENCODINGS_MAX, Participation, REASON_BYTES_MAX, Settled, Task, TaskKey, TaskKind,
    TrainingMessage, cut_reason,
};
pub use name::{RUN_NAME_BYTES_MAX, RunName, RunNameError, UPDATE_FILE, UPDATES_PREFIX, UpdatesName, updates_dataset};

pub use plan::{DAY_MINUTES, Eligibility, Late, Plan, PlanError, Program, ROUNDS_MAX, SELECTED_MAX};

/// Keys of an update file's `__metadata__`, which says what the file is: it needs no other file beside it, so it is whole or not
/// there.
pub mod metadata {
    /// The run.
    pub const RUN: &str = "headwater.run";
    /// The round's number, in decimal.
    pub const ROUND: &str = "headwater.round";
    /// `train` or `evaluate`.
    pub const KIND: &str = "headwater.kind";
    /// Id of the model version that the tensors are a difference to, in hexadecimal.
    pub const BASE: &str = "headwater.base";
    /// How many samples it was made from, in decimal.
    pub const SAMPLES: &str = "headwater.samples";
    /// Metrics, as a JSON object of numbers.
    pub const METRICS: &str = "headwater.metrics";
    /// Id of the version of the training program, in hexadecimal, where the core sent one.
    pub const PROGRAM: &str = "headwater.program";
}
