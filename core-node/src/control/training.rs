//! Rows of answers about models and federated runs.

use std::collections::BTreeMap;

use headwater_protocol::federated::run::Weighted;
use serde::{Deserialize, Serialize};

/// A version of a model.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelRow {
    /// The dataset.
    pub model: String,
    /// Number of the version.
    pub number: u64,
    /// The version.
    pub version: String,
    /// Tensors.
    pub tensors: u64,
    /// Their elements.
    pub elements: u64,
    /// Length of the model's file.
    pub bytes: u64,
    /// The run that made it; empty: it was published.
    pub run: String,
    /// The round that made it.
    pub round: u64,
    /// Updates in it.
    pub updates: u64,
    /// The strategy, as JSON.
    pub strategy: String,
    /// When it was committed, in seconds since the Unix epoch.
    pub committed_unix_s: u64,
    /// What devices measured in that round.
    pub metrics: BTreeMap<String, Weighted>,
}

/// A tensor of a model.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TensorRow {
    /// Its name.
    pub tensor: String,
    /// What its elements are.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub bytes: u64,
}

/// An update in a model.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateRow {
    /// The device.
    pub device: String,
    /// Samples that it counts as.
    pub samples: u64,
    /// Models between its base and the one that it changed.
    pub staleness: u64,
    /// Number of its base.
    pub base: u64,
    /// BLAKE3 of its file.
    pub hash: String,
    /// The version of the device's dataset of updates.
    pub update: String,
}

/// A federated run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FederationRow {
    /// Its name.
    pub run: String,
    /// The model.
    pub model: String,
    /// Number of the newest version that the run has made, or began with.
    pub number: u64,
    /// `begins`, `collects`, `combines`, `paused`, `finished`, `failed` or `aborted`.
    pub state: String,
    /// The running round, or the last.
    pub round: u64,
    /// Rounds that were aggregated.
    pub aggregated: u64,
    /// Rounds that are to be.
    pub rounds: u64,
    /// Updates that count in the running round.
    pub updates: u64,
    /// Updates with which it is closed.
    pub goal: u64,
    /// Why it is over.
    pub reason: String,
    /// When it began, in seconds since the Unix epoch.
    pub began_unix_s: u64,
}

/// A round of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoundRow {
    /// Its number.
    pub round: u64,
    /// `train` or `evaluate`.
    pub for_what: String,
    /// `runs`, `aggregated` or `failed`.
    pub state: String,
    /// Why it failed, or what closed it.
    pub reason: String,
    /// Devices that were selected.
    pub selected: u64,
    /// Updates that count.
    pub updates: u64,
    /// Updates that were refused.
    pub refused: u64,
    /// Devices that gave up.
    pub left: u64,
    /// Milliseconds from its beginning to its end, in the run's own time.
    pub took_ms: u64,
    /// Number of the model that it made or judged.
    pub number: u64,
    /// What devices measured.
    pub metrics: BTreeMap<String, Weighted>,
}

/// A device in a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ParticipantRow {
    /// Its name.
    pub device: String,
    /// What it does, or what keeps it from taking part.
    pub state: String,
    /// Updates that count.
    pub counted: u64,
    /// Updates that were refused.
    pub refused: u64,
}

/// An entry of a run's log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EventRow {
    /// When, in seconds since the Unix epoch.
    pub at_unix_s: u64,
    /// Milliseconds of the run's own time.
    pub elapsed_ms: u64,
    /// In words.
    pub said: String,
    /// The entry itself.
    pub entry: serde_json::Value,
}
