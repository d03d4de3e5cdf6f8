//! The log of a run: everything that decides its course, one entry after the other.
//!
//! A run is what its entries make of its plan. Whoever coordinates it makes an entry durable, and only then acts upon it; one
//! that was killed reads the entries again and is where it was.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::TaskKind;
use crate::id::VersionId;

/// A version of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelVersion {
    /// Its number.
    pub number: u64,
    /// Its id.
    pub id: VersionId,
}

/// An update that counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// The device.
    pub device: String,
    /// The model that it was made from.
    pub base: ModelVersion,
    /// What it was asked for.
    pub kind: TaskKind,
    /// The version of the device's dataset of updates.
    pub update: VersionId,
    /// BLAKE3 of the update's file, in hexadecimal.
    pub hash: String,
    /// Samples that it counts as.
    pub samples: u64,
    /// Length of its file, in bytes.
    pub bytes: u64,
    /// What the device measured.
    pub metrics: BTreeMap<String, f64>,
}

/// Why a round was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Closing {
    /// As many updates came as were wanted.
    Goal,
    /// Nobody else was expected.
    AllIn,
    /// It was time.
    Deadline,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All rounds were aggregated.
    Finished,
    /// Too many rounds failed.
    Failed,
    /// Someone ended it.
    Aborted,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
pub enum Entry {
    /// A round began.
    RoundBegan {
        /// Its number.
        round: u64,
        /// What it is for.
        kind: TaskKind,
        /// The model that devices are given.
        base: ModelVersion,
        /// When, in milliseconds of the run.
        at: u64,
    },
    /// Devices were selected for the round.
    Selected {
        /// The round.
        round: u64,
        /// Their names.
        devices: Vec<String>,
        /// When, in milliseconds of the run.
        at: u64,
    },
    /// An update counts.
    Counted(Counted),
    /// An update does not count.
    Refused {
        /// The device.
        device: String,
        /// The model that it was asked to train.
        base: ModelVersion,
        /// What it was asked for.
        kind: TaskKind,
        /// The refused version.
        update: VersionId,
        /// Why.
        reason: String,
    },
    /// A device will not send what it was asked for.
    Left {
        /// The device.
        device: String,
        /// The model that it was asked to train.
        base: ModelVersion,
        /// What it was asked for.
        kind: TaskKind,
        /// Why.
        reason: String,
    },
    /// The round takes no more updates: what counts is what is combined.
    Closed {
        /// The round.
        round: u64,
        /// Why.
        why: Closing,
        /// When, in milliseconds of the run.
        at: u64,
    },
    /// The round's updates have become a new version, or its metrics are there.
    Aggregated {
        /// The round.
        round: u64,
        /// The new version; that which was judged, where the round was for that.
        model: ModelVersion,
    },
    /// The round came to nothing. What counts in it counts in the next one of the same model.
    RoundFailed {
        /// The round.
        round: u64,
        /// Why.
        reason: String,
        /// When, in milliseconds of the run.
        at: u64,
    },
    /// No round begins until it goes on.
    Paused,
    /// It goes on.
    Continued,
    /// The run is over.
    Ended {
        /// How.
        outcome: Outcome,
        /// Why.
        reason: String,
    },
}
