//! Answers as tables for people, or as JSON.
#![allow(clippy::print_stderr, reason = "this is where the program's output is written")]

use std::fmt::Arguments;
use std::io::Write;
use std::process::ExitCode;

use headwater_host::config::HumanRate;
use headwater_host::doctor::Check;
use headwater_host::error::{CodedError, codes};
use headwater_host::output::{Rows, Stdout};
use indicatif::HumanBytes;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::request::{
    FreeReport, LogReport, ProblemReport, Request, RoomReport, SkippedReport, StatusReport, SyncReport, TrainingReport,
    VerifyReport, VersionReport,
};
use crate::settings::Settings;

/// Where answers go: standard output, and whether that went well.
#[derive(Default)]
pub(super) struct Out {
    stdout: Stdout,
    failed: Option<std::io::Error>,
}

impl Out {
    fn put(&mut self, text: Arguments<'_>) {
        if self.failed.is_none() {
            self.failed = self.stdout.write_fmt(text).err();
        }
    }

    fn text(&mut self, text: &str) {
        self.put(format_args!("{text}"));
    }

    /// Whether nobody reads any more.
    pub(super) fn reader_is_gone(&self) -> bool {
        self.stdout.reader_is_gone()
    }

    /// Fails if a part of the output could not be written.
    pub(super) fn finish(&mut self) -> Result<(), CodedError> {
        match self.failed.take().map_or_else(|| self.stdout.flush(), Err) {
            Ok(()) => Ok(()),
            Err(error) => Err(CodedError::io(&codes::WRITE_FAILED, "the answer can't be written", error)),
        }
    }
}

/// Prints a line.
macro_rules! say {
    ($out:expr, $($text:tt)*) => {{
        $out.put(format_args!($($text)*));
        $out.text("\n");
    }};
}

/// Says what went wrong.
pub(super) fn error(error: &CodedError, json: bool) {
    if json {
        let out = &mut Out::default();
        say!(out, "{}", error.to_json());
    }
    eprintln!("{error}");
}

/// Prints an answer. The exit code is 1 where a part of the work failed.
pub(super) fn answer(out: &mut Out, request: &Request, answer: &Value, json: bool) -> ExitCode {
    let failed = match request {
        Request::Sync => !read::<SyncReport>(answer).problems.is_empty(),
        Request::Verify => read::<VerifyReport>(answer).damaged_count > 0,
        _ => false,
    };
    if json {
        say!(out, "{answer}");
    } else {
        match request {
            Request::Sync => sync(out, &read(answer)),
            Request::Status => status(out, &read(answer)),
            Request::Log { .. } => log(out, &read(answer)),
            Request::Verify => verify(out, &read(answer)),
            Request::Free { .. } => free(out, &read(answer)),
            Request::TrainingList => training(out, &read::<Vec<TrainingReport>>(answer)),
            _ => {
                if let Some(text) = answer.get("text").and_then(Value::as_str) {
                    say!(out, "{text}");
                }
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Prints the settings in force.
pub(super) fn settings(out: &mut Out, settings: &Settings, json: bool) {
    if json {
        say!(out, "{}", serde_json::to_string(settings).unwrap_or_default());
    } else {
        say!(out, "{}", toml::to_string(settings).unwrap_or_default());
    }
}

/// Prints the findings of `doctor`.
pub(super) fn checks(out: &mut Out, checks: &[Check], json: bool) {
    if json {
        say!(out, "{}", serde_json::to_string(checks).unwrap_or_default());
        return;
    }
    for check in checks {
        say!(out, "{:4} {}: {}", check.verdict.to_string(), check.name, check.found);
        if !check.hint.is_empty() {
            say!(out, "     hint: {}", check.hint);
        }
    }
}

/// Asks for something on the terminal.
pub(super) fn prompt(text: &str) {
    eprint!("{text}");
}

/// Begins the terminal's screen anew.
pub(super) fn clear_screen(out: &mut Out) {
    out.text("\x1b[2J\x1b[H");
}

fn read<T: DeserializeOwned + Default>(answer: &Value) -> T {
    serde_json::from_value(answer.clone()).unwrap_or_default()
}

fn sync(out: &mut Out, report: &SyncReport) {
    let all = [("published", &report.published), ("received", &report.received), ("local", &report.local)];
    if all.iter().any(|(_, versions)| !versions.is_empty()) {
        let mut rows = Rows::new(&["", "dataset", ">version", "id", ">files", ">size", ">on the wire", ">plain"]);
        for (what, versions) in all {
            for version in versions {
                rows.add(version_row(what, version));
            }
        }
        out.text(&rows.to_text());
    }
    say!(
        out,
        "{} unchanged, {} files looked at, {} read, {:.2} s",
        report.unchanged,
        report.files_scanned,
        HumanBytes(report.bytes_read),
        report.duration_ms as f64 / 1000.0
    );
    let wire = &report.wire;
    say!(
        out,
        "wire: {} in all (pages {}, chunks {}, control {}, repeated {})",
        HumanBytes(wire.udp),
        HumanBytes(wire.pages),
        HumanBytes(wire.chunks),
        HumanBytes(wire.overhead),
        HumanBytes(wire.wasted)
    );
    say!(
        out,
        "saved: {} by dedup, {} by deltas, {} by compression",
        HumanBytes(report.saved_dedup_bytes),
        HumanBytes(report.saved_delta_bytes),
        HumanBytes(report.saved_compression_bytes)
    );
    skipped(out, "left out", &report.skipped, report.skipped_count);
    for problem in &report.problems {
        print_problem(problem);
    }
}

fn version_row(what: &str, version: &VersionReport) -> Vec<String> {
    vec![
        what.to_owned(),
        version.dataset.clone(),
        version.number.to_string(),
        version.version.get(..12).unwrap_or(&version.version).to_owned(),
        version.totals.files.to_string(),
        HumanBytes(version.totals.bytes).to_string(),
        HumanBytes(version.wire_bytes).to_string(),
        HumanBytes(version.plain_bytes).to_string(),
    ]
}

fn print_problem(problem: &ProblemReport) {
    let place = if problem.dataset.is_empty() { String::new() } else { format!("`{}`: ", problem.dataset) };
    eprintln!("error[{}]: {place}{}", problem.code, problem.message);
    if !problem.hint.is_empty() {
        eprintln!("hint: {}", problem.hint);
    }
}

fn skipped(out: &mut Out, what: &str, listed: &[SkippedReport], count: u64) {
    if count == 0 {
        return;
    }
    say!(out, "{what}: {count}");
    for entry in listed {
        say!(out, "  {}/{}: {}", entry.dataset, entry.path, entry.reason);
    }
    if count > listed.len() as u64 {
        say!(out, "  and {} more", count - listed.len() as u64);
    }
}

fn training(out: &mut Out, tasks: &[TrainingReport]) {
    let mut rows = Rows::new(&["run", ">round", "for", "model", "state"]);
    for task in tasks {
        let state = task.state.lines().next().unwrap_or_default().to_owned();
        rows.add([task.run.clone(), task.round.to_string(), task.kind.clone(), task.model.clone(), state]);
    }
    out.text(&rows.to_text());
}

fn status(out: &mut Out, report: &StatusReport) {
    let device = report.device.as_deref().unwrap_or("not joined");
    let running = if report.running { "running" } else { "not running" };
    say!(out, "device {device}, agent {running}, link {}", report.link);
    if !report.core.is_empty() {
        say!(out, "core {}", report.core.join(", "));
    }
    if !report.waiting_for.is_empty() {
        say!(out, "waiting for {}", report.waiting_for);
    }
    if !report.datasets.is_empty() {
        let mut rows = Rows::new(&["dataset", "role", "folder", ">version", ">files", ">size", ">remote", "state"]);
        for dataset in &report.datasets {
            rows.add([
                dataset.name.clone(),
                dataset.role.as_str().to_owned(),
                dataset.folder.display().to_string(),
                if dataset.number == 0 { "none".to_owned() } else { dataset.number.to_string() },
                dataset.totals.files.to_string(),
                HumanBytes(dataset.totals.bytes).to_string(),
                dataset.remote_files.to_string(),
                dataset.state.clone(),
            ]);
        }
        out.text(&rows.to_text());
    }
    for dataset in &report.datasets {
        if let Some(room) = &dataset.room {
            say!(out, "{}: {}", dataset.name, room_line(room));
        }
    }
    if !report.training.is_empty() {
        training(out, &report.training);
    }
    if report.backlog_bytes > 0 {
        say!(out, "not yet acknowledged: {}", HumanBytes(report.backlog_bytes));
    }
    let travelled = report.wire_bytes.iter().filter(|(_, bytes)| *bytes > 0);
    let wire: Vec<_> = travelled.map(|(reason, bytes)| format!("{reason} {}", HumanBytes(*bytes))).collect();
    if !wire.is_empty() {
        say!(out, "wire so far: {}", wire.join(", "));
    }
    if let Some(month) = &report.month {
        let reserve = match month.reserve_bytes {
            0 => String::new(),
            bytes => format!(", {} of that for model updates", HumanBytes(bytes)),
        };
        let (spent, budget) = (HumanBytes(month.spent_bytes), HumanBytes(month.budget_bytes));
        say!(out, "spent in {}: {spent} of {budget}{reserve}", month.month);
    }
    if let Some(cap) = report.up_cap_bytes_per_s {
        say!(out, "cap: {} up", HumanRate::of_bytes_per_s(cap));
    }
    if let Some(cap) = report.down_cap_bytes_per_s {
        say!(out, "cap: {} down", HumanRate::of_bytes_per_s(cap));
    }
    say!(out, "free disk: {}", HumanBytes(report.disk_free_bytes));
    if let Some(problem) = &report.last_error {
        print_problem(problem);
    }
}

fn room_line(room: &RoomReport) -> String {
    let quota = room.quota_bytes.map_or_else(String::new, |quota| format!(" of {}", HumanBytes(quota)));
    let excess = match room.excess_bytes {
        0 => String::new(),
        bytes => format!("; {} too much, which nothing can be freed for yet", HumanBytes(bytes)),
    };
    format!("{}{quota} on the disk{excess}", HumanBytes(room.disk_bytes))
}

fn log(out: &mut Out, report: &LogReport) {
    for event in &report.events {
        let place = if event.dataset.is_empty() { String::new() } else { format!(" [{}]", event.dataset) };
        let code = if event.code.is_empty() { String::new() } else { format!(" {}", event.code) };
        say!(out, "{} {:5}{code}{place} {}", crate::clock::shown(event.at_s), event.level.name(), event.text);
    }
}

fn verify(out: &mut Out, report: &VerifyReport) {
    say!(out, "{} chunks are good, {}", report.chunks_good, HumanBytes(report.bytes_good));
    if !report.catalog_whole {
        say!(out, "the catalog was damaged and has been rebuilt");
    }
    skipped(out, "not what the catalog says", &report.damaged, report.damaged_count);
}

fn free(out: &mut Out, report: &FreeReport) {
    say!(out, "freed {} files, {}", report.files, HumanBytes(report.bytes));
    skipped(out, "kept", &report.kept, report.kept.len() as u64);
}
