//! The coordinator: the shipping machine, its durable log, and what devices have committed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headwater_protocol::federated::run::{Arrival, Candidate, Phase, Run, Verdict};
use headwater_protocol::federated::{
    DeviceReport, Entry, ModelVersion, Participation, Plan, Settled, Task, TaskKey, TaskKind, TrainingMessage,
};
use headwater_protocol::id::VersionId;
use headwater_protocol::time::Timestamp;
use headwater_protocol::wire::Following;

use super::device::name;
use super::{Bug, Fact};

/// The core died in the middle of something.
pub(super) struct Died;

/// An update that a device has committed.
#[derive(Clone, Debug)]
pub(super) struct Committed {
    pub(super) task: TaskKey,
    pub(super) id: VersionId,
    pub(super) fault: bool,
}

/// A device that is connected.
pub(super) struct Present {
    pub(super) session: u64,
    report: DeviceReport,
    told: BTreeSet<TaskKey>,
}

/// What a step wants done.
#[derive(Default)]
pub(super) struct After {
    pub(super) messages: Vec<(usize, u64, TrainingMessage)>,
    pub(super) combine: Option<u64>,
    pub(super) wait: Option<Duration>,
}

/// The coordinator.
pub(super) struct Core {
    plan: Plan,
    /// None while the process is dead.
    pub(super) run: Option<Run>,
    pub(super) life: u64,
    /// On the disk: entries, each with the run's own time.
    pub(super) log: Vec<(Entry, u64)>,
    /// On the disk: models that rounds have made.
    models: BTreeMap<u64, ModelVersion>,
    /// On the disk: the newest update of each device.
    pub(super) updates: BTreeMap<usize, Committed>,
    pub(super) present: BTreeMap<usize, Present>,
    stands: Vec<(usize, TaskKey, Participation)>,
    changed: BTreeSet<usize>,
    combined: Vec<(u64, ModelVersion)>,
    is_combining: bool,
    elapsed_ms: u64,
    since_ms: u64,
    /// It dies after so many more entries.
    pub(super) dies_after: Option<u64>,
    /// Tasks that were said in any session.
    said_ever: BTreeSet<(usize, TaskKey)>,
    pub(super) held_max: usize,
}

impl Core {
    pub(super) fn new(plan: Plan) -> Self {
        let run = Some(Run::new(plan.clone(), first_model()));
        Self {
            plan,
            run,
            life: 0,
            log: Vec::new(),
            models: BTreeMap::new(),
            updates: BTreeMap::new(),
            present: BTreeMap::new(),
            stands: Vec::new(),
            changed: BTreeSet::new(),
            combined: Vec::new(),
            is_combining: false,
            elapsed_ms: 0,
            since_ms: 0,
            dies_after: None,
            said_ever: BTreeSet::new(),
            held_max: 0,
        }
    }

    pub(super) fn kill(&mut self, bug: Option<Bug>) {
        if bug == Some(Bug::EntryNotSynced) {
            self.log.pop();
        }
        self.run = None;
        self.life += 1;
        self.present.clear();
        self.stands.clear();
        self.changed.clear();
        self.combined.clear();
        self.is_combining = false;
        self.dies_after = None;
    }

    pub(super) fn start(&mut self, now_ms: u64) {
        let mut run = Run::new(self.plan.clone(), first_model());
        for (entry, _) in &self.log {
            run.apply(entry);
        }
        self.run = Some(run);
        self.elapsed_ms = self.log.last().map_or(0, |(_, at)| *at);
        self.since_ms = now_ms;
        // Whatever came while it was dead is looked into.
        self.changed = self.updates.keys().copied().collect();
    }

    fn clock(&self, now_ms: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(self.elapsed_ms + now_ms - self.since_ms)
    }

    pub(super) fn hear(&mut self, device: usize, session: u64, message: TrainingMessage) {
        match message {
            TrainingMessage::Report(report) => {
                self.present.insert(device, Present { session, report, told: BTreeSet::new() });
            }
            TrainingMessage::Stands { task, state } => {
                if let Some(known) = self.present.get_mut(&device) {
                    known.told.insert(task.clone());
                }
                self.stands.push((device, task, state));
            }
            TrainingMessage::Do(_) | TrainingMessage::Settled(_) => {}
        }
    }

    /// A device has committed an update.
    pub(super) fn commit(&mut self, device: usize, update: Committed) {
        self.updates.insert(device, update);
        self.changed.insert(device);
    }

    /// Updates were combined; what was made of a round is durable, and made of a round again it is the same.
    pub(super) fn combine(&mut self, round: u64, facts: &mut Vec<Fact>) {
        let Some(combine) = self.run.as_ref().and_then(Run::poll_combine).filter(|combine| combine.round == round)
        else {
            return;
        };
        let members: Vec<_> = combine.members.iter().map(|member| member.counted.update.to_string()).collect();
        let (kind, number) = (combine.kind, combine.base.number + 1);
        let id = VersionId::of(format!("{round} {}", members.join(" ")).as_bytes());
        let model = match kind {
            TaskKind::Train => *self.models.entry(round).or_insert(ModelVersion { number, id }),
            TaskKind::Evaluate => combine.base,
        };
        facts.push(Fact::Combined(round, kind, members));
        self.combined.push((round, model));
    }

    fn take(&mut self, entries: &[Entry], now_ms: u64, facts: &mut Vec<Fact>) -> Result<(), Died> {
        let at = self.clock(now_ms).as_nanos() / 1_000_000;
        // The catalog takes them in one transaction.
        for entry in entries {
            self.log.push((entry.clone(), at));
            facts.push(Fact::Wrote(entry.clone()));
        }
        if let Some(left) = &mut self.dies_after {
            *left = left.saturating_sub(entries.len() as u64);
            if *left == 0 {
                return Err(Died);
            }
        }
        let Some(run) = &mut self.run else { return Ok(()) };
        for entry in entries {
            run.apply(entry);
        }
        if !matches!(run.phase(), Phase::Combining { .. }) {
            self.is_combining = false;
        }
        self.held_max = self.held_max.max(run.assigned().len() + run.pending().len());
        Ok(())
    }

    /// One step, as the daemon makes it.
    pub(super) fn step(&mut self, now_ms: u64, bug: Option<Bug>, facts: &mut Vec<Fact>) -> Result<After, Died> {
        let mut after = After::default();
        let now = self.clock(now_ms);
        for (device, task, state) in std::mem::take(&mut self.stands) {
            let Some(run) = &mut self.run else { return Ok(after) };
            let entries = run.handle_stands(&name(device), &task, state, now);
            self.take(&entries, now_ms, facts)?;
        }
        for (round, model) in std::mem::take(&mut self.combined) {
            let Some(run) = self.run.as_ref().filter(|run| run.round() == round) else { continue };
            let entries = run.handle_combined(model);
            self.is_combining = false;
            self.take(&entries, now_ms, facts)?;
        }
        for device in std::mem::take(&mut self.changed) {
            let Some(run) = &self.run else { return Ok(after) };
            let Some(arrival) = self.arrival(run, device, bug) else { continue };
            let entries = run.handle_update(&name(device), arrival);
            self.take(&entries, now_ms, facts)?;
        }
        // Who left hears so before it can be asked for the same again.
        self.settle(&mut after);
        loop {
            let Some(run) = &self.run else { return Ok(after) };
            let names: Vec<_> = self.present.keys().map(|device| name(*device)).collect();
            let candidates: Vec<_> = self
                .present
                .values()
                .zip(&names)
                .map(|(known, name)| Candidate { name, report: &known.report, is_busy: false, minute: 0 })
                .collect();
            let entries = run.handle_timeout(now, &candidates);
            if entries.is_empty() {
                break;
            }
            self.take(&entries, now_ms, facts)?;
        }
        let Some(run) = &self.run else { return Ok(after) };
        if let Some(combine) = run.poll_combine().filter(|_| !self.is_combining) {
            after.combine = Some(combine.round);
            self.is_combining = true;
        }
        after.wait = run.poll_timeout(now).map(|at| at.since(now));
        self.tell(bug, &mut after);
        Ok(after)
    }

    fn arrival(&self, run: &Run, device: usize, bug: Option<Bug>) -> Option<Arrival> {
        let work = run.poll_task(&name(device))?;
        let update = self.updates.get(&device)?;
        if run.pending().iter().any(|counted| counted.update == update.id) {
            return None;
        }
        let mut task = update.task.clone();
        if bug == Some(Bug::AnyBase) {
            task = TaskKey { base: work.base.id, kind: work.kind, ..task };
        }
        Some(Arrival {
            update: update.id,
            task,
            hash: update.id.to_string(),
            samples: 10,
            bytes: 100,
            metrics: BTreeMap::new(),
            fault: update.fault.then(|| "element 7 of tensor `w` is NaN".to_owned()),
        })
    }

    fn tell(&mut self, bug: Option<Bug>, after: &mut After) {
        let Some(run) = &self.run else { return };
        for (device, known) in &mut self.present {
            let (of, session) = (name(*device), known.session);
            if let Some(work) = run.poll_task(&of) {
                let key = TaskKey { run: RUN.to_owned(), base: work.base.id, kind: work.kind };
                let is_new = known.told.insert(key.clone());
                let is_first = self.said_ever.insert((*device, key));
                if is_new && (is_first || bug != Some(Bug::SaidOnce)) {
                    let task = Task {
                        run: RUN.to_owned(),
                        round: work.round,
                        kind: work.kind,
                        model: Following { dataset: "m".to_owned(), number: work.base.number, version: work.base.id },
                        config: "{}".to_owned(),
                        encodings: vec!["full".to_owned()],
                        wait_ms: None,
                        program: None,
                    };
                    after.messages.push((*device, session, TrainingMessage::Do(task)));
                }
            }
        }
        self.settle(after);
    }

    fn settle(&mut self, after: &mut After) {
        let Some(run) = &self.run else { return };
        for (device, known) in &mut self.present {
            let (of, session) = (name(*device), known.session);
            known.told.retain(|task| {
                let (accepted, reason) = match run.verdict(&of, task) {
                    Verdict::Open => return true,
                    Verdict::Counts => (true, String::new()),
                    Verdict::Over(reason) => (false, reason),
                };
                let settled = Settled { task: task.clone(), accepted, reason };
                after.messages.push((*device, session, TrainingMessage::Settled(settled)));
                false
            });
        }
    }
}

/// The name of the run.
pub(super) const RUN: &str = "run";

fn first_model() -> ModelVersion {
    ModelVersion { number: 1, id: VersionId::of(b"model") }
}
