//! The numbers that Prometheus reads: counters that the daemon adds to, and gauges that are set just before a scrape.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headwater_host::error::countable;
use headwater_quic::endpoint::WireCounts;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::account::{Account, RECEIVED, SENT};
use crate::cache::CacheStats;
use crate::store::StoreStats;

/// Which way bytes went, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WireLabels {
    /// `in` or `out`.
    pub direction: &'static str,
    /// One of [`SENT`] or [`RECEIVED`].
    pub reason: &'static str,
}

/// A coded error.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ErrorLabels {
    /// Its code, as `HW-1004`; `other` for one that is not in this release's table.
    pub code: &'static str,
}

/// What a measure was taken of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabels {
    /// Which kind.
    pub kind: &'static str,
}

/// A number that devices of a federated run measure.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MeasureLabels {
    /// The run.
    pub run: String,
    /// The metric's name.
    pub metric: String,
}

/// All numbers of a core.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Bytes on the wire.
    pub wire_bytes: Family<WireLabels, Counter>,
    /// Bytes that were not sent, because the receiver had them (`dedup`), as deltas (`delta`) or compressed (`compression`).
    pub saved_bytes: Family<KindLabels, Counter>,
    /// Plain bytes received.
    pub plain_bytes_in: Counter,
    /// Plain bytes sent.
    pub plain_bytes_out: Counter,
    /// Bytes put into the slots of training jobs.
    pub reader_bytes_out: Counter,
    /// Seconds for which requests of training jobs waited for their bytes.
    pub reader_wait_seconds: Counter<f64, AtomicU64>,
    /// Sessions of training jobs.
    pub reader_sessions: Gauge,
    /// Training jobs with sessions.
    pub reader_jobs: Gauge,
    /// Chunks that jobs found in memory, or did not.
    pub cache_chunks: Family<KindLabels, Gauge<i64>>,
    /// Sessions that began.
    pub sessions_total: Counter,
    /// Versions committed.
    pub commits_total: Counter,
    /// Errors that peers and people were told of, by code.
    pub errors: Family<ErrorLabels, Counter>,
    /// Group commits, and chunks that were stored by them or were known already.
    pub store_work: Family<KindLabels, Gauge<i64>>,
    /// Bytes that gc freed.
    pub gc_freed_bytes: Counter,
    /// Runs of gc.
    pub gc_runs: Counter,
    /// Chunks that verification found damaged.
    pub damaged_chunks: Counter,
    /// Updates that count or were refused, devices that left, rounds that were aggregated or failed, in all federated runs.
    pub federated_events: Family<KindLabels, Counter>,
    /// What devices measured in the newest round, weighted by samples.
    pub federated_measures: Family<MeasureLabels, Gauge<f64, AtomicU64>>,
    /// Chunks that are damaged now.
    pub chunks_damaged: Gauge,
    /// Connected sessions.
    pub sessions: Gauge,
    /// Devices that may connect.
    pub devices: Gauge,
    /// Datasets.
    pub datasets: Gauge,
    /// Versions.
    pub versions: Gauge,
    /// Chunks stored.
    pub chunks: Gauge,
    /// Bytes of packs, and plain bytes in them.
    pub store_bytes: Family<KindLabels, Gauge<i64>>,
    /// Free bytes on the store's disk.
    pub disk_free_bytes: Gauge,
    /// Bytes on the socket, headers of IP and UDP included.
    pub socket_bytes: Family<KindLabels, Gauge<i64>>,
    /// Seconds since the core started.
    pub up_seconds: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Numbers that all stand at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("headwater_core");
        macro_rules! register {
            ($metric:expr, $name:literal, $help:literal) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
            ($metric:expr, $name:literal, $help:literal, $unit:ident) => {{
                let metric = $metric;
                registry.register_with_unit($name, $help, Unit::$unit, metric.clone());
                metric
            }};
        }
        let wire_bytes = register!(Family::default(), "wire", "Bytes on the wire with all headers, by reason", Bytes);
        let saved_bytes = register!(Family::default(), "saved", "Bytes that did not have to be sent", Bytes);
        let plain_bytes_in = register!(Counter::default(), "plain_in", "Plain bytes received", Bytes);
        let plain_bytes_out = register!(Counter::default(), "plain_out", "Plain bytes sent", Bytes);
        let reader_bytes_out = register!(Counter::default(), "reader_out", "Bytes sent to training jobs", Bytes);
        let reader_wait_seconds =
            register!(Counter::default(), "reader_wait", "Time that requests of training jobs waited", Seconds);
        let reader_sessions = register!(Gauge::default(), "reader_sessions", "Sessions of training jobs");
        let reader_jobs = register!(Gauge::default(), "reader_jobs", "Training jobs with sessions");
        let cache_chunks = register!(
            Family::default(),
            "cache_chunks",
            "Chunks that jobs found in memory or did not, and that were read ahead"
        );
        let sessions_total = register!(Counter::default(), "sessions_begun", "Sessions that began");
        let commits_total = register!(Counter::default(), "commits", "Versions committed");
        let errors = register!(Family::default(), "errors", "Errors that peers and people were told of");
        let store_work = register!(
            Family::default(),
            "store_work",
            "Group commits since the start, and the chunks that they wrote or found known"
        );
        let gc_freed_bytes = register!(Counter::default(), "gc_freed", "Bytes that gc freed", Bytes);
        let gc_runs = register!(Counter::default(), "gc_runs", "Runs of gc");
        let damaged_chunks =
            register!(Counter::default(), "damaged_chunks", "Chunks that verification found damaged, each once");
        let federated_events = register!(
            Family::default(),
            "federated_events",
            "Updates that count or were refused, devices that left, rounds that were aggregated or failed"
        );
        let federated_measures = register!(
            Family::default(),
            "federated_measure",
            "What devices of a run measured in its newest round, weighted by samples"
        );
        let chunks_damaged = register!(Gauge::default(), "chunks_damaged", "Chunks that are damaged now");
        let sessions = register!(Gauge::default(), "sessions", "Connected sessions");
        let devices = register!(Gauge::default(), "devices", "Devices that may connect");
        let datasets = register!(Gauge::default(), "datasets", "Datasets");
        let versions = register!(Gauge::default(), "versions", "Versions");
        let chunks = register!(Gauge::default(), "chunks", "Chunks stored");
        let store_bytes = register!(Family::default(), "store", "Bytes stored, and plain bytes in them", Bytes);
        let disk_free_bytes = register!(Gauge::default(), "disk_free", "Free bytes on the store's disk", Bytes);
        let socket_bytes =
            register!(Family::default(), "socket", "Bytes on the socket since the start, with all headers", Bytes);
        let up_seconds = register!(Gauge::default(), "up", "Time since the core started", Seconds);
        Self {
            registry: Arc::new(registry),
            wire_bytes,
            saved_bytes,
            plain_bytes_in,
            plain_bytes_out,
            reader_bytes_out,
            reader_wait_seconds,
            reader_sessions,
            reader_jobs,
            cache_chunks,
            sessions_total,
            commits_total,
            errors,
            store_work,
            gc_freed_bytes,
            gc_runs,
            damaged_chunks,
            federated_events,
            federated_measures,
            chunks_damaged,
            sessions,
            devices,
            datasets,
            versions,
            chunks,
            store_bytes,
            disk_free_bytes,
            socket_bytes,
            up_seconds,
        }
    }

    /// Sets what went over the wire so far, by reason.
    pub fn wire(&self, account: &Account, counts: &WireCounts) {
        let set = |direction, reason, bytes| {
            let labels = WireLabels { direction, reason };
            self.wire_bytes.get_or_create(&labels).inner().store(bytes, Ordering::Relaxed);
        };
        SENT.into_iter().zip(account.sent(counts)).for_each(|(reason, bytes)| set("out", reason, bytes));
        RECEIVED.into_iter().zip(account.received(counts)).for_each(|(reason, bytes)| set("in", reason, bytes));
    }

    /// Sets what the store did since the start.
    pub fn store_stats(&self, stats: &StoreStats) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for (kind, value) in [
            ("group_commits", stats.groups),
            ("written_chunks", stats.written_chunks),
            ("known_chunks", stats.known_chunks),
            ("read_chunks", stats.read_chunks),
        ] {
            self.store_work.get_or_create(&KindLabels { kind }).set(gauge(value));
        }
    }

    /// Sets what the cache of training jobs did since the start.
    pub fn cache_stats(&self, stats: &CacheStats) {
        for (kind, value) in [("hits", stats.hits), ("misses", stats.misses), ("ahead", stats.ahead)] {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            self.cache_chunks.get_or_create(&KindLabels { kind }).set(value);
        }
    }

    /// Sets what went over the socket, headers of IP and UDP included.
    pub fn socket(&self, counts: &WireCounts) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.socket_bytes.get_or_create(&KindLabels { kind: "in" }).set(gauge(counts.received_bytes));
        self.socket_bytes.get_or_create(&KindLabels { kind: "out" }).set(gauge(counts.sent_bytes));
    }

    /// Adds `bytes` to those that were saved by `kind`.
    pub fn saved(&self, kind: &'static str, bytes: u64) {
        self.saved_bytes.get_or_create(&KindLabels { kind }).inc_by(bytes);
    }

    /// Counts an error with this code. A peer may have chosen it, and must not make series by the thousand.
    pub fn error(&self, code: &str) {
        self.errors.get_or_create(&ErrorLabels { code: countable(code) }).inc();
    }

    /// All numbers in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut page = String::new();
        text::encode(&mut page, &self.registry).expect("writing into a string can't fail");
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rendered() {
        let metrics = Metrics::new();
        metrics.wire(&Account::default(), &WireCounts { sent_bytes: 7, ..WireCounts::default() });
        metrics.error("HW-1010");
        metrics.error("HW-1234");
        metrics.error("} 1\n");
        let page = metrics.render();
        assert!(page.contains("headwater_core_wire_bytes_total{direction=\"out\",reason=\"control\"} 7"), "{page}");
        assert!(page.contains("headwater_core_errors_total{code=\"HW-1010\"} 1"), "{page}");
        assert!(page.contains("headwater_core_errors_total{code=\"other\"} 2"), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
    }
}
