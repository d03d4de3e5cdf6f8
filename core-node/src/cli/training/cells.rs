//! Models and runs as tables.

use std::collections::BTreeMap;

use headwater_protocol::federated::run::Weighted;

use crate::cli::render::{bytes, date, or_dash, short};
use crate::control::{FederationRow, ModelRow, ParticipantRow, RoundRow, TensorRow, UpdateRow};

pub(in crate::cli) const MODEL_HEADER: [&str; 8] =
    ["model", "id", "committed", "tensors", "elements", "bytes", "made by", "metrics"];
pub(in crate::cli) const TENSOR_HEADER: [&str; 4] = ["tensor", "type", "shape", "bytes"];
pub(in crate::cli) const UPDATE_HEADER: [&str; 5] = ["device", "samples", "from model", "staleness", "update"];
pub(in crate::cli) const FEDERATION_HEADER: [&str; 7] =
    ["run", "model", "state", "rounds", "updates", "began", "reason"];
pub(in crate::cli) const ROUND_HEADER: [&str; 10] =
    ["round", "for", "state", "asked", "updates", "refused", "left", "took", "model", "metrics"];
pub(in crate::cli) const PARTICIPANT_HEADER: [&str; 4] = ["device", "counted", "refused", "state"];

pub(in crate::cli) fn model_cells(row: &ModelRow) -> Vec<String> {
    let made_by = match row.run.as_str() {
        "" => "publication".to_owned(),
        run => format!("round {} of {run}, {} updates", row.round, row.updates),
    };
    vec![
        format!("{}@{}", row.model, row.number),
        short(&row.version),
        date(row.committed_unix_s),
        row.tensors.to_string(),
        row.elements.to_string(),
        bytes(row.bytes),
        made_by,
        metrics(&row.metrics),
    ]
}

pub(in crate::cli) fn tensor_cells(row: &TensorRow) -> Vec<String> {
    let shape: Vec<_> = row.shape.iter().map(u64::to_string).collect();
    vec![row.tensor.clone(), row.dtype.clone(), format!("[{}]", shape.join(", ")), bytes(row.bytes)]
}

pub(in crate::cli) fn update_cells(row: &UpdateRow) -> Vec<String> {
    vec![row.device.clone(), row.samples.to_string(), row.base.to_string(), row.staleness.to_string(), short(&row.hash)]
}

pub(in crate::cli) fn federation_cells(row: &FederationRow) -> Vec<String> {
    vec![
        row.run.clone(),
        format!("{}@{}", row.model, row.number),
        row.state.clone(),
        format!("{} of {}", row.aggregated, row.rounds),
        format!("{} of {}", row.updates, row.goal),
        date(row.began_unix_s),
        or_dash(&row.reason).to_owned(),
    ]
}

pub(in crate::cli) fn round_cells(row: &RoundRow) -> Vec<String> {
    let state = match row.state.as_str() {
        "failed" => format!("failed: {}", row.reason),
        state => state.to_owned(),
    };
    vec![
        row.round.to_string(),
        row.for_what.clone(),
        state,
        row.selected.to_string(),
        row.updates.to_string(),
        row.refused.to_string(),
        row.left.to_string(),
        format!("{}.{:03} s", row.took_ms / 1000, row.took_ms % 1000),
        format!("@{}", row.number),
        metrics(&row.metrics),
    ]
}

pub(in crate::cli) fn participant_cells(row: &ParticipantRow) -> Vec<String> {
    vec![row.device.clone(), row.counted.to_string(), row.refused.to_string(), row.state.clone()]
}

fn metrics(metrics: &BTreeMap<String, Weighted>) -> String {
    let shown: Vec<_> = metrics.iter().map(|(name, metric)| format!("{name}={:.4}", metric.mean)).collect();
    or_dash(&shown.join(" ")).to_owned()
}
