//! From the updates of a closed round to the next version of the model.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, ensure};
use headwater_aggregate::{Aggregation, Model, Update, read_layout};
use headwater_protocol::federated::run::{Combine, weighted};
use headwater_protocol::federated::{ModelVersion, Plan, TaskKind, UPDATE_FILE, updates_dataset};
use headwater_protocol::name::DatasetName;
use headwater_protocol::tensors::encoding::Encoded;

use super::combiner::{self, Combiner};
use super::files::{PlainFile, aggregate_files};
use super::lineage::{LINEAGE_FILE, Lineage, LineageMember, MODEL_FILE, STATE_FILE, STATE_PREFIX, lineage_of};
use super::staging::Staging;
use super::{LiveRun, RunName, updates};
use crate::control::commit_folder;
use crate::core::Core;
use crate::ingest::error_chain;

/// A round to combine.
pub(super) struct Job {
    /// The run.
    pub(super) run: RunName,
    /// The round.
    pub(super) round: u64,
    kind: TaskKind,
    base: ModelVersion,
    plan: Plan,
    members: Vec<LineageMember>,
    metrics: BTreeMap<String, headwater_protocol::federated::run::Weighted>,
    /// When the round was closed, by the wall clock, in milliseconds: the new files carry it, whoever writes them when.
    closed_at: u64,
}

impl Job {
    /// What `combine` of a run says.
    pub(super) fn new(live: &LiveRun, combine: &Combine<'_>) -> Self {
        let members = combine.members.iter().map(|member| LineageMember {
            device: member.counted.device.clone(),
            update: member.counted.update,
            hash: member.counted.hash.clone(),
            base: member.counted.base,
            samples: member.counted.samples,
            staleness: member.staleness,
        });
        Self {
            run: live.name.clone(),
            round: combine.round,
            kind: combine.kind,
            base: combine.base,
            plan: live.run.plan().clone(),
            members: members.collect(),
            metrics: weighted(combine.members.iter().map(|member| member.counted)),
            closed_at: live.closed_at,
        }
    }
}

/// Makes the next model; the same job gives the same version, however often it is begun. Blocks.
pub(super) fn combine(core: &Arc<Core>, job: &Job) -> Result<ModelVersion, String> {
    let made = match job.kind {
        // Metrics need nothing but the log.
        TaskKind::Evaluate => {
            Staging::of_run(core, job.run.as_str()).remove();
            Ok(job.base)
        }
        TaskKind::Train => make(core, job),
    };
    let done = made.and_then(|made| {
        for member in &job.members {
            updates::forget(core, &job.run, &member.device, &member.update)?;
        }
        Ok(made)
    });
    done.map_err(|error| format!("{error:#}"))
}

fn make(core: &Arc<Core>, job: &Job) -> anyhow::Result<ModelVersion> {
    let model = DatasetName::new(job.plan.model.as_str())?;
    if let Some(made) = already_made(core, job)? {
        return Ok(made);
    }
    let staging = Staging::of_run(core, job.run.as_str());
    let before = lineage_of(core, model.as_str(), &job.base.id)?;
    let state_before = before.filter(|before| before.plan.strategy == job.plan.strategy).and_then(|before| {
        let dataset = format!("{STATE_PREFIX}{}", before.run);
        before.state_after.map(|version| (dataset, version))
    });
    let folders = [staging.fresh_folder("model")?, staging.fresh_folder("state")?];
    let [model_path, state_path] = [folders[0].join(MODEL_FILE), folders[1].join(STATE_FILE)];
    let round = Round {
        model: model.as_str(),
        base: &job.base,
        strategy: &job.plan.strategy,
        run: &job.run,
        state: state_before.as_ref().map(|(dataset, version)| (dataset.as_str(), version)),
        members: &job.members,
    };
    let has_state = round.aggregate(core, &staging, &model_path, &state_path)?;
    let mut state_after = None;
    if has_state {
        set_time(&state_path, job.closed_at)?;
        let name = DatasetName::new(format!("{STATE_PREFIX}{}", job.run))?;
        state_after = Some(commit(core, &folders[1], &name)?);
    }
    let lineage = Lineage {
        format: Lineage::FORMAT,
        run: job.run.to_string(),
        round: job.round,
        base: job.base,
        plan: job.plan.clone(),
        state_before_of: state_before.as_ref().map(|(dataset, _)| dataset.clone()),
        state_before: state_before.map(|(_, version)| version),
        state_after,
        members: job.members.clone(),
        metrics: job.metrics.clone(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let lineage_path = folders[0].join(LINEAGE_FILE);
    fs::write(&lineage_path, lineage.encode()).context("the lineage can't be written")?;
    for path in [&model_path, &lineage_path] {
        set_time(path, job.closed_at)?;
    }
    let made = commit(core, &folders[0], &model)?;
    staging.remove();
    Ok(made)
}

/// The model that a process made of this job before it was killed, if one did.
fn already_made(core: &Arc<Core>, job: &Job) -> anyhow::Result<Option<ModelVersion>> {
    let Some(dataset) = core.catalog.dataset(&job.plan.model)? else {
        return Err(anyhow!("the model `{}` was deleted", job.plan.model));
    };
    let Some(head) = dataset.head.filter(|head| head.number > job.base.number) else { return Ok(None) };
    let lineage = lineage_of(core, &job.plan.model, &head.version)?;
    let is_of_job =
        |lineage: &Lineage| lineage.run == job.run.as_str() && lineage.round == job.round && lineage.base == job.base;
    Ok(lineage.filter(is_of_job).map(|_| ModelVersion { number: head.number, id: head.version }))
}

fn commit(core: &Core, folder: &Path, name: &DatasetName) -> anyhow::Result<ModelVersion> {
    let committed = commit_folder(core, folder, name).map_err(|error| anyhow!("{}", error_chain(&error)))?;
    Ok(ModelVersion { number: committed.number, id: committed.version })
}

fn set_time(path: &Path, at_ms: u64) -> anyhow::Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms);
    let file = File::options().write(true).open(path)?;
    Ok(file.set_modified(time)?)
}

/// Everything that decides a round's result.
pub(super) struct Round<'a> {
    /// The model's dataset.
    pub(super) model: &'a str,
    /// The version that changes.
    pub(super) base: &'a ModelVersion,
    /// How, as JSON.
    pub(super) strategy: &'a str,
    /// The run, below whose name the updates are.
    pub(super) run: &'a RunName,
    /// What the strategy kept from the round before: dataset and version.
    pub(super) state: Option<(&'a str, &'a ModelVersion)>,
    /// The updates, sorted by hash and device.
    pub(super) members: &'a [LineageMember],
}

impl Round<'_> {
    /// Writes the new model, and what the strategy keeps, if it keeps anything.
    pub(super) fn aggregate(
        &self,
        core: &Arc<Core>,
        staging: &Staging,
        model: &Path,
        state: &Path,
    ) -> anyhow::Result<bool> {
        let combiner: Combiner = serde_json::from_str(self.strategy).context("the strategy can't be read")?;
        let base = staging.file(core, self.model, &self.base.id, MODEL_FILE)?;
        let state_before = self.state.map(|(dataset, version)| staging.file(core, dataset, &version.id, STATE_FILE));
        let state_before = state_before.transpose()?;
        let updates: Result<Vec<PathBuf>, _> = self
            .members
            .iter()
            .map(|member| -> anyhow::Result<PathBuf> {
                let dataset = updates_dataset(self.run, &member.device)?;
                Ok(staging.file(core, dataset.as_str(), &member.update, UPDATE_FILE)?)
            })
            .collect();
        let updates = updates?;
        let members: Vec<_> = updates
            .iter()
            .zip(self.members)
            .map(|(path, member)| Input { path, samples: member.samples, staleness: member.staleness })
            .collect();
        combine_files(&combiner, &base, state_before.as_deref(), &members, model, state)
    }
}

/// An update's file.
pub(crate) struct Input<'a> {
    /// Where it is.
    pub(crate) path: &'a Path,
    /// Samples that it counts as.
    pub(crate) samples: u64,
    /// Models between its base and the one that is changed.
    pub(crate) staleness: u64,
}

/// Combines update files, which are checked already, into a new model's file. Blocks.
pub(crate) fn combine_files(
    combiner: &Combiner,
    base: &Path,
    state: Option<&Path>,
    updates: &[Input<'_>],
    model_out: &Path,
    state_out: &Path,
) -> anyhow::Result<bool> {
    let strategy = match combiner {
        Combiner::Strategy(strategy) => strategy.clone(),
        Combiner::Program { program } => return combiner::run(program, base, updates, model_out).map(|()| false),
    };
    let open = |path: &Path| -> anyhow::Result<_> {
        let file = PlainFile::open(path).with_context(|| format!("`{}` can't be read", path.display()))?;
        let layout = read_layout(&file).with_context(|| format!("`{}` can't be read", path.display()))?;
        Ok((file, layout))
    };
    let (base_file, base_layout) = open(base)?;
    let state = state.map(open).transpose()?;
    let files: Vec<_> = updates.iter().map(|update| open(update.path)).collect::<anyhow::Result<_>>()?;
    let mut inputs = Vec::with_capacity(files.len());
    for ((file, layout), update) in files.iter().zip(updates) {
        let encoded = Encoded::new(&base_layout, layout).with_context(|| format!("`{}`", update.path.display()))?;
        ensure!(update.samples > 0, "`{}` counts as no samples", update.path.display());
        inputs.push(Update { encoded, file, samples: update.samples, staleness: update.staleness });
    }
    let model = Model { layout: &base_layout, file: &base_file };
    let state = state.as_ref().map(|(file, layout)| Model { layout, file });
    let aggregation = Aggregation::new(strategy, model, state, inputs, base_layout.metadata().clone())?;
    Ok(aggregate_files(aggregation, model_out, state_out)?)
}
