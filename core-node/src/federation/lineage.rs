//! Where a model comes from: `lineage.json` beside it, signed with the version by author and core.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_protocol::federated::run::Weighted;
use headwater_protocol::federated::{ModelVersion, Plan};
use headwater_protocol::id::VersionId;
use serde::{Deserialize, Serialize};

use super::staging::{StageError, small_file};
use crate::core::Core;

/// The file of a model's version that says where it comes from.
pub(crate) const LINEAGE_FILE: &str = "lineage.json";
/// The model's own file.
pub(crate) const MODEL_FILE: &str = "model.safetensors";
/// The file of what a strategy keeps from round to round, in a dataset of its own.
pub(crate) const STATE_FILE: &str = "state.safetensors";
/// What the names of the datasets of such files begin with.
pub(crate) const STATE_PREFIX: &str = "federation/state/";
/// Longest lineage that is read, in bytes.
pub(crate) const LINEAGE_BYTES_MAX: u64 = 256 << 20;
/// The form of the file.
const FORMAT: u32 = 1;

/// Where a version of a model comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lineage {
    /// The form of this file.
    pub(crate) format: u32,
    /// The run.
    pub(crate) run: String,
    /// The round.
    pub(crate) round: u64,
    /// The model that it changes.
    pub(crate) base: ModelVersion,
    /// How updates are combined, and everything else that the run was begun with.
    pub(crate) plan: Plan,
    /// The dataset of what the strategy kept from the round before.
    pub(crate) state_before_of: Option<String>,
    /// Its version.
    pub(crate) state_before: Option<ModelVersion>,
    /// What it keeps for the next, as a version of [`STATE_PREFIX`] and the run.
    pub(crate) state_after: Option<ModelVersion>,
    /// The updates, sorted by hash and device.
    pub(crate) members: Vec<LineageMember>,
    /// What devices measured.
    pub(crate) metrics: BTreeMap<String, Weighted>,
    /// Release of the core that combined them.
    pub(crate) release: String,
}

/// An update in a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LineageMember {
    /// The device.
    pub(crate) device: String,
    /// The version of its dataset of updates.
    pub(crate) update: VersionId,
    /// BLAKE3 of the update's file.
    pub(crate) hash: String,
    /// The model that it was made from.
    pub(crate) base: ModelVersion,
    /// Samples that it counts as.
    pub(crate) samples: u64,
    /// Models between that one and the one that changes.
    pub(crate) staleness: u64,
}

impl Lineage {
    /// The form that this release writes.
    pub(crate) const FORMAT: u32 = FORMAT;

    /// The file's bytes: the same lineage gives the same.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a lineage is plain data");
        bytes.push(b'\n');
        bytes
    }

    /// The lineage in a file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// The lineage of a model's version; none if it was made by no round. Blocks.
pub(crate) fn lineage_of(core: &Arc<Core>, model: &str, version: &VersionId) -> Result<Option<Lineage>, LineageError> {
    let Some(bytes) = small_file(core, model, version, LINEAGE_FILE, LINEAGE_BYTES_MAX)? else { return Ok(None) };
    Ok(Some(Lineage::decode(&bytes)?))
}

/// Why a lineage can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineageError {
    /// Its file can't be read.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// It is none.
    #[error("`{LINEAGE_FILE}` can't be read: {0}")]
    Form(#[from] serde_json::Error),
}
