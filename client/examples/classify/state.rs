//! Where a job is: what it is resumed from.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use headwater_client::Dataset;
use serde_json::{Value, json};

/// A position in the epoch of a version.
pub(crate) struct State(Value);

impl State {
    pub(crate) fn of(dataset: &Dataset, position: u64) -> Self {
        Self(json!({ "dataset": dataset.label(), "samples": dataset.len(), "position": position }))
    }

    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read(path).with_context(|| format!("{} can't be read", path.display()))?;
        Ok(Self(serde_json::from_slice(&text).with_context(|| format!("{} is no state", path.display()))?))
    }

    /// Writes it whole or not at all.
    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, self.0.to_string())?;
        Ok(fs::rename(&new, path)?)
    }

    /// The position, if it is one of this version.
    pub(crate) fn position_in(&self, dataset: &Dataset) -> anyhow::Result<u64> {
        if self.0["dataset"] != dataset.label() {
            bail!("the state is of {}, and this is {}", self.0["dataset"], dataset.label());
        }
        self.0["position"].as_u64().context("the state has no position")
    }
}
