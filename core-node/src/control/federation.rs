//! Federated runs, as people ask for them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use headwater_host::config::Validate;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::federated::run::{Phase, weighted};
use headwater_protocol::federated::{Closing, Counted, Entry, ModelVersion, Outcome, Program, RunName};
use serde_json::json;

use super::datasets::resolve;
use super::handler::{Asker, Emitter, catalog_failed, not_found};
use super::training::{EventRow, FederationRow, ParticipantRow, RoundRow};
use super::{Answer, models};
use crate::catalog::{BeginRunError, Principal, RunRecord};
use crate::core::Core;
use crate::federation::{LiveRun, RunSettings, is_path};

/// Entries that are read at once.
const ENTRIES_BATCH: u64 = 1000;
/// Numbers that are tried for a run that has no name.
const NAMES_TRIED_MAX: u32 = 10_000;
/// Milliseconds of a second.
const SECOND_MS: u64 = 1000;

pub(super) fn start(core: &Arc<Core>, asker: &Asker, settings: &RunSettings, out: &Emitter) -> Result<(), CodedError> {
    if let Some(problem) = settings.problems().first() {
        return Err(CodedError::new(&codes::RUN_SENSELESS, problem.to_string()));
    }
    if is_path(&settings.strategy) && !asker.sees_all() {
        let message = "only an administrator may have a program of the core's machine combine updates";
        return Err(CodedError::new(&codes::FORBIDDEN, message).with_hint("name one of the strategies"));
    }
    if is_path(&settings.strategy) && !is_program(Path::new(&settings.strategy)) {
        let message = format!("`strategy`: `{}` is no program on this machine that can be run", settings.strategy);
        return Err(CodedError::new(&codes::RUN_SENSELESS, message));
    }
    let (dataset, version) = resolve(core, asker, &settings.model)?;
    if dataset.writer != Principal::Core {
        let writer = core.writer_name(dataset.writer);
        let message =
            format!("`{}` is written by `{writer}`, and rounds make versions of the core's own", dataset.name);
        return Err(CodedError::new(&codes::RUN_SENSELESS, message).with_hint(format!(
            "publish it as a model: `core-node model publish FILE --model NAME`, or `core-node dataset hand-over {} --to-core`",
            dataset.name
        )));
    }
    let model = ModelVersion { number: version.summary.number, id: version.summary.version };
    // That it is a model shows before devices are asked for anything.
    models::describe(core, &dataset.name, &version)?;
    let program = match settings.program.as_str() {
        "" => None,
        text => {
            let (dataset, version) = resolve(core, asker, text)?;
            let (number, version) = (version.summary.number, version.summary.version);
            Some(Program { dataset: dataset.name, number, version })
        }
    };
    let plan = settings.plan(program).map_err(|problem| CodedError::new(&codes::RUN_SENSELESS, problem.to_string()))?;
    let rounds = plan.rounds;
    let name = begin(core, settings, &dataset.name, |name| core.federation.begin(core, name, plan.clone(), model))?;
    out.done(
        format!(
            "the run `{name}` of {rounds} rounds has begun; watch it: `core-node federation status {name} --watch`"
        ),
        json!({ "run": name.as_str(), "model": dataset.name, "number": model.number }),
    )
}

fn is_program(path: &Path) -> bool {
    const EXECUTABLE_MODES: u32 = 0o111;
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & EXECUTABLE_MODES != 0)
}

/// Begins under the name that was asked for, or the first free one.
fn begin(
    core: &Core,
    settings: &RunSettings,
    model: &str,
    mut try_name: impl FnMut(&RunName) -> Result<(), BeginRunError>,
) -> Result<RunName, CodedError> {
    let failed = |error| match error {
        BeginRunError::Exists(name) => {
            CodedError::new(&codes::RUN_SENSELESS, format!("there is a run `{name}` already"))
                .with_hint("give it another name with --run, or none")
        }
        BeginRunError::Catalog(error) => catalog_failed(error),
    };
    let named =
        |text: &str| RunName::new(text).map_err(|error| CodedError::new(&codes::RUN_SENSELESS, error.to_string()));
    if !settings.run.is_empty() {
        let name = named(&settings.run)?;
        return try_name(&name).map_err(failed).map(|()| name);
    }
    let stem: String = model.rsplit('/').next().unwrap_or(model).chars().take(48).collect();
    let taken: Vec<_> = core.catalog.runs().map_err(catalog_failed)?.into_iter().map(|run| run.name).collect();
    let free = (1..NAMES_TRIED_MAX).map(|number| format!("{stem}-{number}")).find(|name| !taken.contains(name));
    let name = named(&free.unwrap_or(stem))?;
    try_name(&name).map_err(failed).map(|()| name)
}

pub(super) fn status(core: &Arc<Core>, asker: &Asker, run: Option<&str>, out: &Emitter) -> Result<(), CodedError> {
    let records = core.catalog.runs().map_err(catalog_failed)?;
    let Some(name) = run else {
        for record in records.iter().filter(|record| sees(core, asker, record)) {
            with_run(core, record, |live| out.send(&Answer::Federation(row(live))))??;
        }
        return Ok(());
    };
    let record = find(core, asker, name)?;
    // At one moment: a run that is over has no round that is not.
    let (row, devices, is_over, entries) = with_run(core, &record, |live| {
        (row(live), core.federation.devices(core, live), live.run.is_over(), entries_of(core, name))
    })?;
    let entries = entries?;
    out.send(&Answer::Federation(row))?;
    for round in rounds_of(entries.iter().map(|(_, entry)| entry)) {
        out.send(&Answer::Round(round))?;
    }
    if is_over {
        return Ok(());
    }
    for device in devices {
        let of_device = |what: &dyn Fn(&Entry) -> Option<&str>| {
            entries.iter().filter(|(_, entry)| what(entry) == Some(device.device.as_str())).count() as u64
        };
        out.send(&Answer::Participant(ParticipantRow {
            counted: of_device(&|entry| match entry {
                Entry::Counted(counted) => Some(&counted.device),
                _ => None,
            }),
            refused: of_device(&|entry| match entry {
                Entry::Refused { device, .. } => Some(device),
                _ => None,
            }),
            device: device.device.clone(),
            state: device.state.clone(),
        }))?;
    }
    Ok(())
}

pub(super) fn log(core: &Arc<Core>, asker: &Asker, run: &str, out: &Emitter) -> Result<(), CodedError> {
    find(core, asker, run)?;
    for (event, _) in entries_of(core, run)? {
        out.send(&Answer::Event(event))?;
    }
    Ok(())
}

/// What a person can change in a run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Pause,
    Resume,
    Abort,
}

pub(super) fn change(
    core: &Arc<Core>,
    asker: &Asker,
    run: &str,
    change: Change,
    out: &Emitter,
) -> Result<(), CodedError> {
    let record = find(core, asker, run)?;
    let name = RunName::new(run).map_err(|error| CodedError::new(&codes::NAME_INVALID, error.to_string()))?;
    let changed = core.federation.tell(core, &name, |live| match change {
        Change::Pause => live.run.handle_pause(),
        Change::Resume => live.run.handle_continue(),
        Change::Abort => live.run.handle_abort(&format!("`{}` ended it", asker.who)),
    });
    let said = match (changed.map_err(catalog_failed)?, change) {
        (None, _) => {
            let message = if record.is_over {
                format!("the run `{run}` is over")
            } else {
                format!("the run `{run}` can't be read; see the core's log")
            };
            return Err(CodedError::new(&codes::RUN_SENSELESS, message));
        }
        (Some(true), Change::Pause) => format!("`{run}` is paused: its round ends, and no other begins"),
        (Some(false), Change::Pause) => format!("`{run}` is paused already"),
        (Some(true), Change::Resume) => format!("`{run}` goes on"),
        (Some(false), Change::Resume) => format!("`{run}` is not paused"),
        (Some(_), Change::Abort) => format!("`{run}` is over; what devices do for it is stopped"),
    };
    out.done(said, json!({ "run": run }))
}

/// Why a run stands where it stands, and who is waited for.
pub(super) fn explain(core: &Arc<Core>, asker: &Asker, run: &str, out: &Emitter) -> Result<(), CodedError> {
    let record = find(core, asker, run)?;
    let (said, devices) = with_run(core, &record, |live| (explanation(live), core.federation.devices(core, live)))?;
    if !record.is_over {
        for device in devices {
            out.send(&Answer::Participant(ParticipantRow {
                device: device.device,
                state: device.state,
                ..ParticipantRow::default()
            }))?;
        }
    }
    out.done(said.clone(), json!({ "run": run, "explanation": said }))
}

fn explanation(live: &LiveRun) -> String {
    let (run, plan) = (&live.run, live.run.plan());
    let (round, updates) = (run.round(), run.pending().len());
    let paused = if run.is_paused() { " It is paused: no other round begins." } else { "" };
    match run.phase() {
        Phase::Between => format!(
            "Round {} has not begun: {} devices at least have to be ready.{paused}",
            round + 1,
            plan.min_updates
        ),
        Phase::Collecting { .. } => {
            let wait = run.poll_wait(live.now()).unwrap_or_default();
            format!(
                "Round {round} has {updates} of {} updates, and needs {}; {} devices are at work, and it waits for {} s more.{paused}",
                plan.goal,
                plan.min_updates,
                run.assigned().len(),
                wait.as_secs()
            )
        }
        Phase::Combining { .. } => format!("Round {round} is being combined.{paused}"),
        Phase::Over { outcome, reason } => {
            format!("It is over ({}): {reason}; {} rounds were aggregated.", outcome_name(*outcome), run.aggregated())
        }
    }
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Finished => "finished",
        Outcome::Failed => "failed",
        Outcome::Aborted => "aborted",
    }
}

fn sees(core: &Core, asker: &Asker, record: &RunRecord) -> bool {
    let model = serde_json::from_str::<serde_json::Value>(&record.plan);
    let model = model.ok().and_then(|plan| plan["model"].as_str().map(str::to_owned)).unwrap_or_default();
    asker.sees_all()
        || core.catalog.dataset(&model).is_ok_and(|found| found.is_some_and(|found| asker.may_read(core, &found)))
}

fn find(core: &Core, asker: &Asker, run: &str) -> Result<RunRecord, CodedError> {
    let records = core.catalog.runs().map_err(catalog_failed)?;
    let found = records.into_iter().find(|record| record.name == run && sees(core, asker, record));
    found.ok_or_else(|| not_found("run", run).with_hint("see `core-node federation status` for those that there are"))
}

/// Looks at a run, whether it goes on or not.
fn with_run<T>(core: &Core, record: &RunRecord, look: impl FnOnce(&LiveRun) -> T) -> Result<T, CodedError> {
    let mut look = Some(look);
    if let Some(seen) = core.federation.look(&record.name, |live| look.take().map(|look| look(live)))
        && let Some(seen) = seen
    {
        return Ok(seen);
    }
    let live = LiveRun::load(core, record.clone()).map_err(|error| {
        CodedError::new(&codes::CATALOG_DAMAGED, format!("the run `{}` can't be read", record.name)).with_source(error)
    })?;
    let look = look.take().expect("not looked yet");
    Ok(look(&live))
}

fn row(live: &LiveRun) -> FederationRow {
    let run = &live.run;
    let (state, reason) = match run.phase() {
        Phase::Over { outcome, reason } => (outcome_name(*outcome), reason.clone()),
        _ if run.is_paused() => ("paused", String::new()),
        Phase::Between => ("begins", String::new()),
        Phase::Collecting { .. } => ("collects", String::new()),
        Phase::Combining { .. } => ("combines", String::new()),
    };
    FederationRow {
        run: live.record.name.clone(),
        model: run.plan().model.clone(),
        number: run.head().number,
        state: state.to_owned(),
        round: run.round(),
        aggregated: run.aggregated(),
        rounds: run.plan().rounds,
        updates: run.pending().len() as u64,
        goal: u64::from(run.plan().goal),
        reason,
        began_unix_s: live.record.began_at.0 / SECOND_MS,
    }
}

fn entries_of(core: &Core, run: &str) -> Result<Vec<(EventRow, Entry)>, CodedError> {
    let mut rows = Vec::new();
    loop {
        let batch = core.catalog.run_entries(run, rows.len() as u64, ENTRIES_BATCH).map_err(catalog_failed)?;
        if batch.is_empty() {
            return Ok(rows);
        }
        for stored in batch {
            let unreadable = |error| {
                CodedError::new(&codes::CATALOG_DAMAGED, format!("an entry of the run `{run}` can't be read"))
                    .with_source(error)
            };
            let entry: Entry = serde_json::from_str(&stored.body).map_err(unreadable)?;
            let event = EventRow {
                at_unix_s: stored.at.0 / SECOND_MS,
                elapsed_ms: stored.elapsed_ms,
                said: said(&entry),
                entry: serde_json::from_str(&stored.body).map_err(unreadable)?,
            };
            rows.push((event, entry));
        }
    }
}

/// An entry in words.
fn said(entry: &Entry) -> String {
    match entry {
        Entry::RoundBegan { round, kind, base, .. } => {
            format!("round {round} ({}) begins with model {}", kind.as_str(), base.number)
        }
        Entry::Selected { round, devices, .. } => format!("round {round} asks {}", devices.join(", ")),
        Entry::Counted(counted) => format!(
            "the update of {} counts: {} samples, {} bytes, from model {}",
            counted.device, counted.samples, counted.bytes, counted.base.number
        ),
        Entry::Refused { device, reason, .. } => format!("the update of {device} is refused: {reason}"),
        Entry::Left { device, reason, .. } => format!("{device} leaves: {reason}"),
        Entry::Closed { round, why, .. } => format!("round {round} takes no more updates: {}", closing(*why)),
        Entry::Aggregated { round, model } => format!("round {round} is aggregated: model {}", model.number),
        Entry::RoundFailed { round, reason, .. } => format!("round {round} fails: {reason}"),
        Entry::Paused => "the run is paused".to_owned(),
        Entry::Continued => "the run goes on".to_owned(),
        Entry::Ended { outcome, reason } => format!("the run is over ({}): {reason}", outcome_name(*outcome)),
    }
}

fn closing(why: Closing) -> &'static str {
    match why {
        Closing::Goal => "there are enough",
        Closing::AllIn => "nobody else was asked",
        Closing::Deadline => "it is time",
    }
}

/// The rounds of a run, from its log.
fn rounds_of<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<RoundRow> {
    let mut rounds: Vec<RoundRow> = Vec::new();
    let (mut began, mut pending): (u64, Vec<&Counted>) = (0, Vec::new());
    for entry in entries {
        if let Entry::RoundBegan { round, kind, base, at } = entry {
            began = *at;
            rounds.push(RoundRow {
                round: *round,
                for_what: kind.as_str().to_owned(),
                state: "runs".to_owned(),
                number: base.number,
                ..RoundRow::default()
            });
        }
        let Some(row) = rounds.last_mut() else { continue };
        match entry {
            Entry::Selected { devices, .. } => row.selected += devices.len() as u64,
            Entry::Counted(counted) => pending.push(counted),
            Entry::Refused { .. } => row.refused += 1,
            Entry::Left { .. } => row.left += 1,
            Entry::Closed { why, at, .. } => {
                closing(*why).clone_into(&mut row.reason);
                row.took_ms = at.saturating_sub(began);
            }
            Entry::Aggregated { model, .. } => {
                "aggregated".clone_into(&mut row.state);
                row.number = model.number;
                pending.clear();
            }
            Entry::RoundFailed { reason, at, .. } => {
                "failed".clone_into(&mut row.state);
                row.reason.clone_from(reason);
                row.took_ms = at.saturating_sub(began);
            }
            _ => {}
        }
        if !pending.is_empty() {
            row.updates = pending.len() as u64;
            row.metrics = weighted(pending.iter().copied());
        }
    }
    rounds
}
