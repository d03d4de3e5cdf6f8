//! The numbers that Prometheus reads: what `status` says, as numbers.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::request::StatusReport;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    /// A reason of `wire_bytes` in the status.
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DatasetLabels {
    /// Its name.
    dataset: String,
    /// `publish`, `subscribe` or `local`.
    role: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TrainingLabels {
    /// The run.
    run: String,
    /// `train` or `evaluate`.
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    /// `in` or `out`.
    direction: &'static str,
}

/// A number that goes up and down.
type Number = Gauge<u64, AtomicU64>;

/// A status in Prometheus' text format.
pub(super) fn render(status: &StatusReport, oldest_unsent_s: u64) -> String {
    let mut registry = Registry::with_prefix("headwater_agent");
    let wire = Family::<ReasonLabels, Counter>::default();
    for (reason, bytes) in &status.wire_bytes {
        wire.get_or_create(&ReasonLabels { reason: reason.clone() }).inc_by(*bytes);
    }
    let help =
        "Bytes on the wire with all headers since the catalog was made; the first four reasons are all that was sent";
    registry.register_with_unit("wire", help, Unit::Bytes, wire);
    let mut number = |name: &str, help: &str, unit: Option<Unit>, value: u64| {
        let gauge = Number::default();
        gauge.set(value);
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, gauge),
            None => registry.register(name, help, gauge),
        }
    };
    let bytes = || Some(Unit::Bytes);
    number("connected", "Whether there is a session with the core", None, u64::from(status.link == "connected"));
    number("failing", "Whether the newest attempt at anything failed", None, u64::from(status.last_error.is_some()));
    number("backlog", "Bytes that the core has not acknowledged", bytes(), status.backlog_bytes);
    number("oldest_unsent", "How long the oldest of them has waited", Some(Unit::Seconds), oldest_unsent_s);
    number("disk_free", "Free bytes on the data folder's disk", bytes(), status.disk_free_bytes);
    if let Some(month) = &status.month {
        number("month_spent", "Bytes that the month has cost, sent and received", bytes(), month.spent_bytes);
        number("month_budget", "Bytes that it may cost", bytes(), month.budget_bytes);
    }
    caps(&mut registry, status);
    datasets(&mut registry, status);
    training(&mut registry, status);
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("writing into a string can't fail");
    page
}

fn caps(registry: &mut Registry, status: &StatusReport) {
    let caps = Family::<DirectionLabels, Number>::default();
    for (direction, cap) in [("out", status.up_cap_bytes_per_s), ("in", status.down_cap_bytes_per_s)] {
        if let Some(cap) = cap {
            caps.get_or_create(&DirectionLabels { direction }).set(cap);
        }
    }
    registry.register("cap_bytes_per_second", "The most that may go in any second; none without a cap", caps);
}

fn datasets(registry: &mut Registry, status: &StatusReport) {
    let family = Family::<DatasetLabels, Number>::default;
    let (versions, pending, remote) = (family(), family(), family());
    for dataset in &status.datasets {
        let labels = DatasetLabels { dataset: dataset.name.clone(), role: dataset.role.as_str().to_owned() };
        versions.get_or_create(&labels).set(dataset.number);
        pending.get_or_create(&labels).set(dataset.pending_bytes);
        remote.get_or_create(&labels).set(dataset.remote_files);
    }
    registry.register("dataset_version", "The newest version, committed or complete here", versions);
    let help = "Bytes of the version that is not committed yet";
    registry.register_with_unit("dataset_pending", help, Unit::Bytes, pending);
    registry.register("dataset_remote_files", "Files of which the bytes are only at the core", remote);
}

fn training(registry: &mut Registry, status: &StatusReport) {
    let rounds = Family::<TrainingLabels, Number>::default();
    for task in &status.training {
        rounds.get_or_create(&TrainingLabels { run: task.run.clone(), kind: task.kind.clone() }).set(task.round);
    }
    let help = "The round of a federated run that this device works on, or worked on last";
    registry.register("training_round", help, rounds);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{MonthReport, TrainingReport};

    #[test]
    fn a_status_is_rendered() {
        let mut status = StatusReport {
            link: "connected".to_owned(),
            wire_bytes: vec![("first send".to_owned(), 7), ("received".to_owned(), 9)],
            backlog_bytes: 5,
            down_cap_bytes_per_s: Some(250_000),
            training: vec![TrainingReport {
                run: "digits-1".to_owned(),
                round: 4,
                kind: "train".to_owned(),
                ..TrainingReport::default()
            }],
            ..StatusReport::default()
        };
        let page = render(&status, 3);
        for line in [
            "headwater_agent_wire_bytes_total{reason=\"first send\"} 7",
            "headwater_agent_wire_bytes_total{reason=\"received\"} 9",
            "headwater_agent_connected 1",
            "headwater_agent_failing 0",
            "headwater_agent_backlog_bytes 5",
            "headwater_agent_oldest_unsent_seconds 3",
            "headwater_agent_cap_bytes_per_second{direction=\"in\"} 250000",
            "headwater_agent_training_round{run=\"digits-1\",kind=\"train\"} 4",
        ] {
            assert!(page.lines().any(|found| found == line), "no {line} in {page}");
        }
        assert!(!page.contains("month") && page.ends_with("# EOF\n"), "{page}");
        status.month = Some(MonthReport { spent_bytes: 4, budget_bytes: 6, ..MonthReport::default() });
        assert!(render(&status, 0).contains("headwater_agent_month_budget_bytes 6"));
    }
}
