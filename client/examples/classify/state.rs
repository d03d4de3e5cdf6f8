//! Where a job is: what it is resumed from.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use headwater_client::Dataset;
use serde_json::{Value, json};

/// A position in the epoch of a version.
pub(crate) struct State(Value);

impl State {
    pub(crate) fn of(dataset: &Dataset, position: u64) -> Self {
        Self(json!({ "dataset": dataset.label(), "id": hex(dataset), "samples": dataset.len(), "position": position }))
    }

    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read(path).with_context(|| format!("{} can't be read", path.display()))?;
        Ok(Self(serde_json::from_slice(&text).with_context(|| format!("{} is no state", path.display()))?))
    }

    /// Writes it whole or not at all.
    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(self.0.to_string().as_bytes())?;
        // Else a power cut might leave the name with nothing in it.
        file.sync_data()?;
        Ok(fs::rename(&new, path)?)
    }

    /// The position, if it is one of these samples.
    pub(crate) fn position_in(&self, dataset: &Dataset) -> anyhow::Result<u64> {
        // The order of samples follows from the id, which also says how the version is cut into samples.
        if self.0["id"] != hex(dataset) {
            bail!("the state is of {}, and this is {}", self.0["dataset"], dataset.label());
        }
        self.0["position"].as_u64().context("the state has no position")
    }
}

fn hex(dataset: &Dataset) -> String {
    blake3::Hash::from_bytes(*dataset.id()).to_hex().to_string()
}
