//! Models: versions of datasets that have a `model.safetensors`.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use headwater_aggregate::read_layout;
use headwater_host::durable;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::federated::UPDATES_PREFIX;
use headwater_protocol::name::DatasetName;
use headwater_protocol::tensors::{Layout, Tensor};
use serde_json::json;

use super::Answer;
use super::datasets::{hold, readable, resolve};
use super::handler::{Asker, Emitter, catalog_failed};
use super::import::commit_folder;
use super::training::{ModelRow, TensorRow, UpdateRow};
use crate::catalog::VersionRecord;
use crate::core::Core;
use crate::federation::{self, KnownModel, Lineage, MODEL_FILE, PlainFile, STATE_PREFIX, Staging};

/// Versions that are listed at once.
const VERSIONS_BATCH: u64 = 100;
/// Milliseconds of a second.
const SECOND_MS: u64 = 1000;

pub(super) fn publish(core: &Arc<Core>, file: &Path, model: &str, out: &Emitter) -> Result<(), CodedError> {
    let name = DatasetName::new(model).map_err(|error| CodedError::new(&codes::NAME_INVALID, error.to_string()))?;
    let unreadable =
        |error: io::Error| CodedError::io(&codes::READ_FAILED, format!("`{}` can't be read", file.display()), error);
    let source = PlainFile::open(file).map_err(unreadable)?;
    let layout = read_layout(&source).map_err(|error| no_model(&file.display().to_string(), error))?;
    if layout.tensors().is_empty() {
        return Err(CodedError::new(&codes::MODEL_UNREADABLE, format!("`{}` has no tensors", file.display())));
    }
    check_earlier(core, model, &layout)?;
    let staging = Staging::temporary(core);
    let folder = staging.fresh_folder("model").map_err(stage_failed)?;
    let copy = folder.join(MODEL_FILE);
    fs::copy(file, &copy).map_err(|error| CodedError::io(&codes::WRITE_FAILED, "the model can't be copied", error))?;
    // The same file published again is the same version.
    let modified = fs::metadata(file).and_then(|metadata| metadata.modified()).map_err(unreadable)?;
    File::options().write(true).open(&copy).and_then(|copy| copy.set_modified(modified)).map_err(unreadable)?;
    let committed = commit_folder(core, &folder, &name)?;
    let (tensors, elements) = counts(&layout);
    out.done(
        format!("`{model}@{}` is a model of {tensors} tensors with {elements} elements", committed.number),
        json!({
            "model": model,
            "number": committed.number,
            "version": committed.version.to_string(),
            "tensors": tensors,
            "elements": elements,
        }),
    )
}

/// A model that exists gets another version only of the same tensors: runs, devices and subscribers count on them.
fn check_earlier(core: &Arc<Core>, model: &str, layout: &Layout) -> Result<(), CodedError> {
    let dataset = core.catalog.dataset(model).map_err(catalog_failed)?;
    let Some((dataset, head)) = dataset.and_then(|dataset| dataset.head.map(|head| (dataset.id, head))) else {
        return Ok(());
    };
    let Some(version) = core.catalog.version(dataset, head.number).map_err(catalog_failed)? else { return Ok(()) };
    let exists =
        |what: String| CodedError::new(&codes::MODEL_EXISTS, format!("`{model}@{}` exists, and {what}", head.number));
    let Some((_, known)) = look(core, model, &version)? else {
        return Err(exists("is no model".to_owned()));
    };
    let of = |tensor: &Tensor| format!("tensor `{}` of {} {}", tensor.name, tensor.dtype, tensor.shown_shape());
    let is_in = |tensor: &Tensor, other: &Layout| {
        other.find(&tensor.name).is_some_and(|found| (&found.shape, found.dtype) == (&tensor.shape, tensor.dtype))
    };
    if let Some(lost) = known.layout.tensors().iter().find(|tensor| !is_in(tensor, layout)) {
        return Err(exists(format!("has a {}, which the file has not", of(lost))));
    }
    match layout.tensors().iter().find(|tensor| !is_in(tensor, &known.layout)) {
        Some(new) => Err(exists(format!("has no {}, which the file has", of(new)))),
        None => Ok(()),
    }
}

pub(super) fn list(core: &Arc<Core>, asker: &Asker, out: &Emitter) -> Result<(), CodedError> {
    for dataset in core.catalog.datasets().map_err(catalog_failed)? {
        let is_own = dataset.name.starts_with(UPDATES_PREFIX) || dataset.name.starts_with(STATE_PREFIX);
        if is_own || !asker.may_read(core, &dataset) {
            continue;
        }
        let Some(head) = dataset.head else { continue };
        let Some(version) = core.catalog.version(dataset.id, head.number).map_err(catalog_failed)? else { continue };
        if let Some((row, _)) = look(core, &dataset.name, &version)? {
            out.send(&Answer::Model(Box::new(row)))?;
        }
    }
    Ok(())
}

pub(super) fn show(core: &Arc<Core>, asker: &Asker, version: &str, out: &Emitter) -> Result<(), CodedError> {
    let (dataset, version) = resolve(core, asker, version)?;
    let (row, model) = describe(core, &dataset.name, &version)?;
    out.send(&Answer::Model(Box::new(row)))?;
    for tensor in model.layout.tensors() {
        out.send(&Answer::Tensor(TensorRow {
            tensor: tensor.name.clone(),
            dtype: tensor.dtype.to_string(),
            shape: tensor.shape.clone(),
            bytes: tensor.range.end - tensor.range.start,
        }))?;
    }
    model.lineage.iter().flat_map(|lineage| &lineage.members).try_for_each(|member| {
        out.send(&Answer::Update(UpdateRow {
            device: member.device.clone(),
            samples: member.samples,
            staleness: member.staleness,
            base: member.base.number,
            hash: member.hash.clone(),
            update: member.update.to_string(),
        }))
    })
}

pub(super) fn log(core: &Arc<Core>, asker: &Asker, name: &str, limit: u64, out: &Emitter) -> Result<(), CodedError> {
    let dataset = readable(core, asker, name)?;
    let (mut below, mut rest) = (None, limit);
    while rest > 0 {
        let batch =
            core.catalog.versions(dataset.id, below, rest.min(VERSIONS_BATCH) as usize).map_err(catalog_failed)?;
        let Some(last) = batch.last() else { break };
        below = Some(last.number);
        rest -= batch.len() as u64;
        for summary in batch {
            let found = core.catalog.version(dataset.id, summary.number).map_err(catalog_failed)?;
            let Some(version) = found else { continue };
            if let Some((row, _)) = look(core, name, &version)? {
                out.send(&Answer::Model(Box::new(row)))?;
            }
        }
    }
    Ok(())
}

pub(super) fn export(
    core: &Arc<Core>,
    asker: &Asker,
    version: &str,
    to: &Path,
    out: &Emitter,
) -> Result<(), CodedError> {
    let (dataset, version, _lease) = hold(core, asker, version)?;
    let failed =
        |error: io::Error| CodedError::io(&codes::WRITE_FAILED, format!("`{}` can't be written", to.display()), error);
    if to.exists() {
        return Err(CodedError::new(&codes::PATH_UNSUITABLE, format!("`{}` is there already", to.display()))
            .with_hint("name a file that is not there"));
    }
    let staging = Staging::temporary(core);
    let copy = staging.file(core, &dataset.name, &version.summary.version, MODEL_FILE).map_err(stage_failed)?;
    // Beside it first, so that a file of this name is whole.
    let partial = to.with_extension("partial");
    let copied = fs::copy(&copy, &partial)
        .and_then(|_| durable::sync_file(&File::open(&partial)?, &partial))
        .and_then(|()| fs::rename(&partial, to));
    copied.inspect_err(|_| drop(fs::remove_file(&partial))).map_err(failed)?;
    let bytes = fs::metadata(to).map_err(failed)?.len();
    out.done(
        format!("`{}@{}` is in `{}`", dataset.name, version.summary.number, to.display()),
        json!({ "model": dataset.name, "number": version.summary.number, "bytes": bytes }),
    )
}

pub(super) fn verify(core: &Arc<Core>, asker: &Asker, text: &str, out: &Emitter) -> Result<(), CodedError> {
    let (dataset, version, _lease) = hold(core, asker, text)?;
    let made = recomputed(core, &dataset.name, &version, None, None)?;
    let name = format!("{}@{}", dataset.name, version.summary.number);
    let lineage = &made.lineage;
    let fields = json!({
        "model": dataset.name,
        "number": version.summary.number,
        "run": lineage.run,
        "round": lineage.round,
        "updates": lineage.members.len(),
        "stored": made.stored,
        "made": made.made,
        "gone": made.gone,
    });
    match &made.made {
        Some(hash) if *hash == made.stored => out.done(
            format!(
                "`{name}` is what its lineage says: round {} of `{}` makes the same bytes of model {} and {} updates",
                lineage.round,
                lineage.run,
                lineage.base.number,
                lineage.members.len()
            ),
            fields,
        ),
        Some(hash) => Err(CodedError::new(
            &codes::MODEL_DIFFERS,
            format!("`{name}` is {} by BLAKE3, and its lineage makes {hash}", made.stored),
        )),
        None => out.done(
            format!("`{name}` can't be made again, because this is not kept any more: {}", made.gone.join(", ")),
            fields,
        ),
    }
}

pub(super) fn without(
    core: &Arc<Core>,
    asker: &Asker,
    text: &str,
    device: &str,
    to: &Path,
    out: &Emitter,
) -> Result<(), CodedError> {
    let (dataset, version, _lease) = hold(core, asker, text)?;
    if to.exists() {
        return Err(CodedError::new(&codes::PATH_UNSUITABLE, format!("`{}` is there already", to.display())));
    }
    let made = recomputed(core, &dataset.name, &version, Some(device), Some(to))?;
    let number = version.summary.number;
    if made.made.is_none() {
        let message = format!("`{text}` can't be made again: {} is not kept any more", made.gone.join(", "));
        return Err(CodedError::new(&codes::MODEL_DIFFERS, message));
    }
    let lineage = &made.lineage;
    out.done(
        format!(
            "what round {} of `{}` would have made of the other {} updates is in `{}`",
            lineage.round,
            lineage.run,
            lineage.members.len(),
            to.display()
        ),
        json!({ "model": dataset.name, "number": number, "without": device, "made": made.made }),
    )
}

fn recomputed(
    core: &Arc<Core>,
    name: &str,
    version: &VersionRecord,
    without: Option<&str>,
    to: Option<&Path>,
) -> Result<federation::Recomputed, CodedError> {
    let made = federation::recompute(core, name, &version.summary.version, without, to).map_err(|error| {
        CodedError::new(&codes::MODEL_DIFFERS, format!("`{name}@{}`: {error:#}", version.summary.number))
    })?;
    made.ok_or_else(|| {
        CodedError::new(&codes::MODEL_DIFFERS, format!("`{name}@{}` was made by no round", version.summary.number))
            .with_hint("see `core-node model log` for the versions that rounds have made")
    })
}

/// A version as a model; an error if it is none.
pub(super) fn describe(
    core: &Arc<Core>,
    name: &str,
    version: &VersionRecord,
) -> Result<(ModelRow, KnownModel), CodedError> {
    look(core, name, version)?.ok_or_else(|| {
        let message = format!("`{name}@{}` has no `{MODEL_FILE}`", version.summary.number);
        CodedError::new(&codes::MODEL_UNREADABLE, message)
            .with_hint("publish one: `core-node model publish FILE --model NAME`")
    })
}

fn look(core: &Arc<Core>, name: &str, version: &VersionRecord) -> Result<Option<(ModelRow, KnownModel)>, CodedError> {
    let found = federation::look_at_model(core, name, &version.summary.version);
    let Some(model) = found.map_err(|error| no_model(&format!("{name}@{}", version.summary.number), error))? else {
        return Ok(None);
    };
    let (tensors, elements) = counts(&model.layout);
    let mut row = ModelRow {
        model: name.to_owned(),
        number: version.summary.number,
        version: version.summary.version.to_string(),
        tensors,
        elements,
        bytes: model.layout.file_bytes(),
        committed_unix_s: version.summary.committed_at.0 / SECOND_MS,
        ..ModelRow::default()
    };
    if let Some(Lineage { run, round, members, metrics, plan, .. }) = &model.lineage {
        row.run.clone_from(run);
        row.round = *round;
        row.updates = members.len() as u64;
        row.metrics.clone_from(metrics);
        row.strategy.clone_from(&plan.strategy);
    }
    Ok(Some((row, model)))
}

fn counts(layout: &Layout) -> (u64, u64) {
    let tensors = layout.tensors();
    (tensors.len() as u64, tensors.iter().map(Tensor::elements).sum())
}

fn no_model(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> CodedError {
    CodedError::new(&codes::MODEL_UNREADABLE, format!("`{what}` is no model that can be read")).with_source(error)
}

fn stage_failed(error: federation::StageError) -> CodedError {
    CodedError::new(&codes::READ_FAILED, "a file of the version can't be had").with_source(error)
}
