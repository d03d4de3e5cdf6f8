//! Whether a model is what its lineage says, and what it would be without one device.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, ensure};
use headwater_protocol::federated::{ModelVersion, RunName, UPDATE_FILE, updates_dataset};
use headwater_protocol::id::VersionId;

use super::combine::Round;
use super::files::hash_of;
use super::lineage::{Lineage, MODEL_FILE, lineage_of};
use super::staging::{StageError, Staging};
use crate::core::Core;

/// A model that was made again from what its lineage names.
#[derive(Clone, Debug)]
pub(crate) struct Recomputed {
    /// The lineage.
    pub(crate) lineage: Lineage,
    /// BLAKE3 of the model's file as it is stored.
    pub(crate) stored: String,
    /// BLAKE3 of the file that was made again; none where updates are not kept any more.
    pub(crate) made: Option<String>,
    /// What is not kept any more.
    pub(crate) gone: Vec<String>,
}

/// Makes a model again, without the update of `without` if that names a device, and leaves it at `to` if that is given. None: the
/// version was made by no round. Blocks.
pub(crate) fn recompute(
    core: &Arc<Core>,
    model: &str,
    version: &VersionId,
    without: Option<&str>,
    to: Option<&Path>,
) -> anyhow::Result<Option<Recomputed>> {
    let Some(mut lineage) = lineage_of(core, model, version)? else { return Ok(None) };
    let staging = Staging::temporary(core);
    let stored = hash_of(&staging.file(core, model, version, MODEL_FILE)?)?;
    if let Some(device) = without {
        let before = lineage.members.len();
        lineage.members.retain(|member| member.device != device);
        ensure!(lineage.members.len() < before, "no update of `{device}` is in it");
        ensure!(!lineage.members.is_empty(), "no update but that of `{device}` is in it");
    }
    let run = RunName::new(lineage.run.as_str())?;
    let mut gone = Vec::new();
    for member in &lineage.members {
        let dataset = updates_dataset(&run, &member.device)?;
        match staging.file(core, dataset.as_str(), &member.update, UPDATE_FILE) {
            Ok(path) => ensure!(
                hash_of(&path)? == member.hash,
                "the update of `{}` has another hash than the lineage says",
                member.device
            ),
            Err(StageError::Gone { .. }) => gone.push(format!("the update of `{}`", member.device)),
            Err(error) => return Err(error.into()),
        }
    }
    let state = lineage.state_before_of.clone().zip(lineage.state_before);
    match staging.file(core, model, &lineage.base.id, MODEL_FILE) {
        Err(StageError::Gone { .. }) => {
            gone.push(format!("the model that it changes (number {})", lineage.base.number));
        }
        path => {
            path?;
        }
    }
    let mut made = None;
    if gone.is_empty() {
        let out = staging.fresh_folder("out")?;
        let path = to.map_or_else(|| out.join(MODEL_FILE), Path::to_owned);
        let base: ModelVersion = lineage.base;
        let round = Round {
            model,
            base: &base,
            strategy: &lineage.plan.strategy,
            run: &run,
            state: state.as_ref().map(|(dataset, version)| (dataset.as_str(), version)),
            members: &lineage.members,
        };
        round.aggregate(core, &staging, &path, &out.join("state"))?;
        made = Some(hash_of(&path).with_context(|| anyhow!("`{}` can't be read", path.display()))?);
    }
    Ok(Some(Recomputed { lineage, stored, made, gone }))
}
