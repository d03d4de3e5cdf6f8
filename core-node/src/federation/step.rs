//! One step of all runs: what was heard goes to the machines, what they say becomes durable, and what follows is given back to
//! be done: messages to devices, updates to combine, and when to look again. Blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use headwater_protocol::federated::run::{Candidate, Phase, Verdict};
use headwater_protocol::federated::{
    DeviceReport, Entry, Participation, RunName, Settled, Task, TaskKey, TrainingMessage, cut_reason,
};
use headwater_protocol::trust::Principal as Peer;
use headwater_protocol::wire::Following;

use super::combine::Job;
use super::live::LiveRun;
use super::presence::say;
use super::staging::Staging;
use super::{Federation, Heard, Present, key_of, minute_of, updates};
use crate::catalog::CatalogError;
use crate::core::Core;

/// What is to be done after a step.
#[derive(Default)]
pub(super) struct After {
    /// Updates to combine.
    pub(super) jobs: Vec<Job>,
    /// When something happens by itself.
    pub(super) wait: Option<Duration>,
    /// Devices have rights that they had not.
    pub(super) has_new_rights: bool,
}

/// What the machines heard, by run.
#[derive(Default)]
struct Sorted {
    stands: Vec<(String, TaskKey, Participation)>,
    updates: BTreeMap<RunName, BTreeSet<String>>,
    any_update: bool,
    combined: Vec<(RunName, u64, Result<headwater_protocol::federated::ModelVersion, String>)>,
}

impl Sorted {
    fn of(heard: Vec<Heard>) -> Self {
        let mut sorted = Self::default();
        for heard in heard {
            match heard {
                Heard::Stands { device, task, state } => sorted.stands.push((device, task, state)),
                Heard::Update { run, device } => {
                    sorted.updates.entry(run).or_default().insert(device);
                }
                Heard::AnyUpdate => sorted.any_update = true,
                Heard::Combined { run, round, result } => sorted.combined.push((run, round, result)),
            }
        }
        sorted
    }
}

impl Federation {
    /// Makes a step. On an error nothing that was announced is lost: the next step looks at everything again.
    pub(super) fn step(&self, core: &Arc<Core>) -> Result<After, CatalogError> {
        let heard = Sorted::of(self.take_inbox());
        let result = self.step_with(core, heard);
        if result.is_err() {
            self.hear(Heard::AnyUpdate);
        }
        result
    }

    fn step_with(&self, core: &Arc<Core>, heard: Sorted) -> Result<After, CatalogError> {
        let minute = minute_of(core);
        let mut after = After::default();
        let mut runs = self.runs();
        // Copied, so that sessions never wait for the catalog.
        let present: Vec<_> = {
            let present = self.present();
            present.values().map(|known| (known.peer.clone(), known.report.clone())).collect()
        };
        let mut busy = busy(&runs);
        for (device, task, state) in heard.stands {
            let Some(live) = runs.values_mut().find(|live| live.record.name == task.run) else { continue };
            let now = live.now();
            let entries = live.run.handle_stands(&device, &task, state, now);
            live.take(core, &entries)?;
        }
        for (name, round, result) in heard.combined {
            let Some(live) = runs.get_mut(&name).filter(|live| live.run.round() == round) else { continue };
            let entries = match result {
                Ok(model) => live.run.handle_combined(model),
                Err(reason) => live.run.handle_not_combined(&reason, live.now()),
            };
            live.is_combining = false;
            live.take(core, &entries)?;
        }
        for live in runs.values_mut() {
            let named = heard.updates.get(&live.name);
            let devices: Vec<_> = if heard.any_update {
                live.run.assigned().keys().cloned().collect()
            } else {
                named.into_iter().flatten().cloned().collect()
            };
            for device in devices {
                if let Some(arrival) = updates::look(core, live, &device)? {
                    let entries = live.run.handle_update(&device, arrival);
                    live.take(core, &entries)?;
                }
            }
        }
        // Whose work came to nothing hears so before the same can be asked again: else it would wait for a word, and the run for it.
        self.settle_all(&runs);
        for live in runs.values_mut() {
            advance(core, live, &present, &mut busy, minute)?;
            let participants = core.rights.participants();
            after.has_new_rights |= participants.admit(live.name.as_str(), live.run.assigned().keys());
            if let Some(combine) = live.run.poll_combine().filter(|_| !live.is_combining) {
                after.jobs.push(Job::new(live, &combine));
                live.is_combining = true;
            }
            let wait = live.run.poll_timeout(live.now()).map(|at| live.until(at));
            after.wait = [after.wait, wait].into_iter().flatten().min();
        }
        self.tell_devices(&runs);
        let over: Vec<_> = runs.iter().filter(|(_, live)| live.run.is_over()).map(|(name, _)| name.clone()).collect();
        for name in over {
            core.rights.participants().close(name.as_str());
            Staging::of_run(core, name.as_str()).remove();
            let Some(live) = runs.remove(&name) else { continue };
            // Those that were refused, or came too late.
            if let Err(error) = updates::forget_all(core, &name, live.run.participants()) {
                tracing::warn!(run = %name, error = format!("{error:#}"), "the run's updates can't be forgotten");
            }
        }
        Ok(after)
    }

    /// What each device is to hear: tasks that its session has not heard of, and what became of those that it has.
    fn tell_devices(&self, runs: &BTreeMap<RunName, LiveRun>) {
        let mut present = self.present();
        for known in present.values_mut() {
            let device = known.peer.name.clone();
            for live in runs.values() {
                let Some(work) = live.run.poll_task(&device) else { continue };
                if known.told.insert(key_of(live.name.as_str(), work.base, work.kind)) {
                    known.say(TrainingMessage::Do(task(live, work)));
                }
            }
        }
        drop(present);
        self.settle_all(runs);
    }

    /// What became of the tasks that devices know of, each told once.
    fn settle_all(&self, runs: &BTreeMap<RunName, LiveRun>) {
        for known in self.present().values_mut() {
            settle(known, runs);
        }
    }
}

/// Lets time do what it brings to a run, with the devices that are there.
fn advance(
    core: &Arc<Core>,
    live: &mut LiveRun,
    present: &[(Arc<Peer>, DeviceReport)],
    busy: &mut BTreeMap<String, u32>,
    minute: u16,
) -> Result<(), CatalogError> {
    loop {
        let candidates: Vec<_> = present
            .iter()
            .filter(|(peer, _)| live.run.plan().devices.selects(peer))
            .map(|(peer, report)| Candidate {
                name: &peer.name,
                report,
                is_busy: busy.get(&peer.name).is_some_and(|tasks| *tasks >= report.tasks_max.max(1)),
                minute,
            })
            .collect();
        let entries = live.run.handle_timeout(live.now(), &candidates);
        if entries.is_empty() {
            return Ok(());
        }
        for entry in &entries {
            let Entry::Selected { devices, .. } = entry else { continue };
            for device in devices {
                *busy.entry(device.clone()).or_default() += 1;
            }
        }
        live.take(core, &entries)?;
    }
}

/// Tells a device what became of the tasks that it knows of, each once.
fn settle(known: &mut Present, runs: &BTreeMap<RunName, LiveRun>) {
    let (device, outbox) = (known.peer.name.as_str(), &known.outbox);
    known.told.retain(|task| {
        let live = runs.values().find(|live| live.record.name == task.run);
        let verdict = live.map_or_else(
            || Verdict::Over("there is no such run, or it is over".to_owned()),
            |live| live.run.verdict(device, task),
        );
        let (accepted, reason) = match verdict {
            Verdict::Open => return true,
            Verdict::Counts => (true, String::new()),
            Verdict::Over(reason) => (false, cut_reason(reason)),
        };
        let settled = Settled { task: task.clone(), accepted, reason };
        say(outbox, TrainingMessage::Settled(settled));
        false
    });
}

fn task(live: &LiveRun, work: &headwater_protocol::federated::run::Assignment) -> Task {
    let plan = live.run.plan();
    let wait = live.run.poll_wait(live.now());
    Task {
        run: live.name.to_string(),
        round: work.round,
        kind: work.kind,
        model: Following { dataset: plan.model.clone(), number: work.base.number, version: work.base.id },
        config: plan.config.clone(),
        encodings: plan.encodings.clone(),
        wait_ms: wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        program: plan.program.as_ref().map(|program| Following {
            dataset: program.dataset.clone(),
            number: program.number,
            version: program.version,
        }),
    }
}

/// How many tasks each device has, over all runs.
fn busy(runs: &BTreeMap<RunName, LiveRun>) -> BTreeMap<String, u32> {
    let mut busy = BTreeMap::new();
    for live in runs.values().filter(|live| !matches!(live.run.phase(), Phase::Over { .. })) {
        for device in live.run.assigned().keys() {
            *busy.entry(device.clone()).or_default() += 1;
        }
    }
    busy
}
