//! A run at its coordinator, as a pure machine.
//!
//! ```text
//!            enough devices are there                goal | all in | deadline with the minimum
//!   Between ─────────────────────────▶ Collecting ───────────────────────────────────▶ Combining
//!     ▲ ▲                                  │                                              │
//!     │ └──────────── failed ──────────────┘ deadline (and patience) without the minimum  │
//!     └──────────────────────────────── aggregated ───────────────────────────────────────┘
//!   any ── last round aggregated | too many failures | aborted ──▶ Over
//!
//!   a device in a round:   selected ──▶ counted | refused | left        (at most one of each base)
//! ```
//!
//! What is asked of it (`handle_*`) gives entries for the log ([`Entry`]); once these are durable they are applied
//! ([`Run::apply`]), and what must be done then is read from the state (`poll_*`): which task a device has, whether updates are to
//! be combined, when to look again. So nothing is announced that a coordinator could forget, and one that was killed does again
//! what it did not finish. Only the progress that devices report is not kept: they report it again.
//!
//! What always holds:
//! * an update counts at most once for each device, base and kind;
//! * what counts stays: it is combined in its round, or, if that fails, in the next one of the same base;
//! * a round that began ends: aggregated, or failed with the reason;
//! * the order in which updates came changes nothing of what is combined ([`Run::poll_combine`] sorts them).

mod apply;
mod metrics;
mod select;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use metrics::{Weighted, weighted};
pub use select::Candidate;

use super::{Closing, Counted, Entry, ModelVersion, Outcome, Participation, Plan, TaskKey, TaskKind};
use crate::id::VersionId;
use crate::time::Timestamp;

/// Where a run stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// No round runs.
    Between,
    /// A round takes updates.
    Collecting {
        /// When it began.
        since: Timestamp,
    },
    /// Its updates are combined.
    Combining {
        /// Why it takes no more.
        why: Closing,
    },
    /// The run is over.
    Over {
        /// How.
        outcome: Outcome,
        /// Why.
        reason: String,
    },
}

/// What a device was asked to do, and not yet settled.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The model that it was given.
    pub base: ModelVersion,
    /// What it is to do.
    pub kind: TaskKind,
    /// In which round it was selected.
    pub round: u64,
    /// When.
    pub since: Timestamp,
    /// What it said last, and when that was something new.
    pub said: Option<(Participation, Timestamp)>,
}

/// Updates that are to be combined.
#[derive(Clone, Debug, PartialEq)]
pub struct Combine<'a> {
    /// The round.
    pub round: u64,
    /// What the round is for.
    pub kind: TaskKind,
    /// The model that changes, or that was judged.
    pub base: ModelVersion,
    /// What counts, sorted by the hash of the update and the device's name.
    pub members: Vec<Member<'a>>,
}

/// An update that is to be combined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member<'a> {
    /// The update.
    pub counted: &'a Counted,
    /// How many models of the run came between the one that it was made from and the one that it changes.
    pub staleness: u64,
}

/// An update that a device committed, after whoever received it has looked into it.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// The version of the device's dataset of updates.
    pub update: VersionId,
    /// Which task it says it is for.
    pub task: TaskKey,
    /// BLAKE3 of its file, in hexadecimal.
    pub hash: String,
    /// Samples that it says it was made from.
    pub samples: u64,
    /// Length of its file, in bytes.
    pub bytes: u64,
    /// What the device measured.
    pub metrics: BTreeMap<String, f64>,
    /// What makes it useless, if something does.
    pub fault: Option<String>,
}

/// What becomes of a task that a device speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be done.
    Open,
    /// Its update counts.
    Counts,
    /// Nothing is to come of it, and why.
    Over(String),
}

/// A run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    plan: Plan,
    phase: Phase,
    paused: bool,
    /// The number of the round that runs or ran last.
    round: u64,
    kind: TaskKind,
    /// The newest model of the run.
    head: ModelVersion,
    /// All models of the run, in their order: how stale an update is.
    models: Vec<ModelVersion>,
    aggregated: u64,
    failures: u32,
    /// Rounds since the newest model was judged.
    judged: bool,
    assigned: BTreeMap<String, Assignment>,
    /// What counts and waits for its round to close.
    pending: Vec<Counted>,
    /// What is being combined.
    closed: Vec<Counted>,
    /// What has counted ever.
    counted: BTreeSet<(VersionId, TaskKind, String)>,
    /// Devices that were in the running round and will send nothing in it.
    gone: BTreeMap<String, String>,
    refusals: BTreeMap<String, u32>,
    participants: BTreeSet<String>,
}

impl Run {
    /// A run of `plan` that begins with `model`.
    pub fn new(plan: Plan, model: ModelVersion) -> Self {
        let kind = plan.kind;
        Self {
            plan,
            phase: Phase::Between,
            paused: false,
            round: 0,
            kind,
            head: model,
            models: vec![model],
            aggregated: 0,
            failures: 0,
            judged: true,
            assigned: BTreeMap::new(),
            pending: Vec::new(),
            closed: Vec::new(),
            counted: BTreeSet::new(),
            gone: BTreeMap::new(),
            refusals: BTreeMap::new(),
            participants: BTreeSet::new(),
        }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where it stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Whether no round is to begin.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over { .. })
    }

    /// The number of the round that runs or ran last; 0 before the first.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// What the round that runs or ran last is for.
    pub fn kind(&self) -> TaskKind {
        self.kind
    }

    /// Rounds that were aggregated.
    pub fn aggregated(&self) -> u64 {
        self.aggregated
    }

    /// The newest model of the run.
    pub fn head(&self) -> ModelVersion {
        self.head
    }

    /// Devices that have something to do, and what.
    pub fn assigned(&self) -> &BTreeMap<String, Assignment> {
        &self.assigned
    }

    /// What counts and is not yet combined: in the round that takes updates, or in the one whose updates are combined.
    pub fn pending(&self) -> &[Counted] {
        if matches!(self.phase, Phase::Combining { .. }) { &self.closed } else { &self.pending }
    }

    /// Devices that were in the running round and will send nothing in it, and why.
    pub fn gone(&self) -> &BTreeMap<String, String> {
        &self.gone
    }

    /// All devices that have had a task.
    pub fn participants(&self) -> impl Iterator<Item = &String> {
        self.participants.iter()
    }

    /// How often each device's updates were refused.
    pub fn refusals(&self) -> &BTreeMap<String, u32> {
        &self.refusals
    }

    /// What time brings, with the devices that are there: rounds begin, devices are selected, rounds close or fail. To be called
    /// again, after what it gave was applied, until it gives nothing.
    pub fn handle_timeout(&self, now: Timestamp, candidates: &[Candidate<'_>]) -> Vec<Entry> {
        match &self.phase {
            Phase::Between => self.begin(now, candidates),
            Phase::Collecting { since } => self.collect(*since, now, candidates),
            Phase::Combining { .. } | Phase::Over { .. } => Vec::new(),
        }
    }

    fn begin(&self, now: Timestamp, candidates: &[Candidate<'_>]) -> Vec<Entry> {
        if self.paused {
            return Vec::new();
        }
        let (kind, round) = match self.plan.kind {
            TaskKind::Train if !self.judged => (TaskKind::Evaluate, self.round),
            kind => (kind, self.round + 1),
        };
        let there = self.expected(kind) + self.assigned.len();
        let lacking = (self.plan.selected() as usize).saturating_sub(there);
        let devices = self.choose(round, kind, lacking, candidates);
        if there + devices.len() < self.plan.min_updates as usize {
            return Vec::new();
        }
        let at = millis(now);
        let began = Entry::RoundBegan { round, kind, base: self.head, at };
        let selected = (!devices.is_empty()).then_some(Entry::Selected { round, devices, at });
        std::iter::once(began).chain(selected).collect()
    }

    /// Updates that would count in a round of this kind and are in already.
    fn expected(&self, kind: TaskKind) -> usize {
        self.pending.iter().filter(|counted| counted.kind == kind).count()
    }

    fn collect(&self, since: Timestamp, now: Timestamp, candidates: &[Candidate<'_>]) -> Vec<Entry> {
        let (round, at) = (self.round, millis(now));
        let counted = self.expected(self.kind);
        let has_minimum = counted >= self.plan.min_updates as usize;
        let closed = |why| vec![Entry::Closed { round, why, at }];
        if counted >= self.plan.goal as usize {
            return closed(Closing::Goal);
        }
        let late = now.since(since + self.plan.deadline());
        let is_late = now >= since + self.plan.deadline();
        if is_late && has_minimum {
            return closed(Closing::Deadline);
        }
        if is_late {
            let moving = self.working().filter(|(_, work)| self.moves(work, now)).count();
            let may_wait = late < Duration::from_millis(self.plan.patience);
            if may_wait && counted + moving >= self.plan.min_updates as usize {
                return Vec::new();
            }
            let reason = format!(
                "{counted} of at least {} updates came within {}{}",
                self.plan.min_updates,
                seconds(now.since(since)),
                if moving > 0 { format!(", and {moving} devices still worked") } else { String::new() },
            );
            return self.failed(&reason, at);
        }
        // Others take the places of those that are gone or make no progress, as long as there is time for them.
        let moving = self.working().filter(|(_, work)| self.moves(work, now)).count();
        let lacking = (self.plan.selected() as usize).saturating_sub(counted + moving);
        let others = self.choose(round, self.kind, lacking, candidates);
        if !others.is_empty() {
            return vec![Entry::Selected { round, devices: others, at }];
        }
        if self.working().next().is_none() && has_minimum {
            return closed(Closing::AllIn);
        }
        Vec::new()
    }

    fn failed(&self, reason: &str, at: u64) -> Vec<Entry> {
        let mut entries = vec![Entry::RoundFailed { round: self.round, reason: reason.to_owned(), at }];
        if self.kind != self.plan.kind {
            // A model that could not be judged is a model all the same.
            entries.extend((self.aggregated >= self.plan.rounds).then(|| self.finished()));
            return entries;
        }
        if self.failures + 1 >= self.plan.failures_max {
            let reason = format!("{} rounds in a row failed, the last because {reason}", self.failures + 1);
            entries.push(Entry::Ended { outcome: Outcome::Failed, reason });
        }
        entries
    }

    fn finished(&self) -> Entry {
        let reason = format!("{} rounds were aggregated", self.plan.rounds);
        Entry::Ended { outcome: Outcome::Finished, reason }
    }

    /// Those whose work would count in the round that runs.
    fn working(&self) -> impl Iterator<Item = (&String, &Assignment)> {
        self.assigned.iter().filter(|(_, work)| work.kind == self.kind)
    }

    fn moves(&self, work: &Assignment, now: Timestamp) -> bool {
        let newest = work.said.as_ref().map_or(work.since, |(_, at)| *at);
        now.since(newest) < Duration::from_millis(self.plan.stall)
    }

    /// What a device says of a task. Progress is noted at once; what ends the task comes as entries.
    pub fn handle_stands(&mut self, device: &str, task: &TaskKey, state: Participation, now: Timestamp) -> Vec<Entry> {
        let Some(work) = self.assigned.get_mut(device).filter(|work| is_of(work, task)) else { return Vec::new() };
        if let Participation::Declined { reason } | Participation::Failed { reason } = &state {
            let (base, kind) = (work.base, work.kind);
            return vec![Entry::Left { device: device.to_owned(), base, kind, reason: reason.clone() }];
        }
        if work.said.as_ref().is_none_or(|(known, _)| *known != state) {
            work.said = Some((state, now));
        }
        Vec::new()
    }

    /// An update of `device` is durable.
    pub fn handle_update(&self, device: &str, arrival: Arrival) -> Vec<Entry> {
        let Some(work) = self.assigned.get(device).filter(|work| is_of(work, &arrival.task)) else { return Vec::new() };
        let (base, kind, update) = (work.base, work.kind, arrival.update);
        let refused = |reason| vec![Entry::Refused { device: device.to_owned(), base, kind, update, reason }];
        if let Some(fault) = arrival.fault {
            return refused(fault);
        }
        if self.counted.contains(&(base.id, kind, device.to_owned())) {
            return refused("an update of this device for this model counts already".to_owned());
        }
        if arrival.samples == 0 {
            return refused("it was made from 0 samples".to_owned());
        }
        vec![Entry::Counted(Counted {
            device: device.to_owned(),
            base,
            kind,
            update,
            hash: arrival.hash,
            samples: arrival.samples.min(self.plan.samples_max),
            bytes: arrival.bytes,
            metrics: arrival.metrics,
        })]
    }

    /// How many models of the run came after `base`.
    fn staleness(&self, base: ModelVersion) -> u64 {
        let after = self.models.iter().rev().take_while(|model| **model != base).count();
        after as u64
    }

    /// The updates were combined into `model`, or the metrics of the one that was judged are there.
    pub fn handle_combined(&self, model: ModelVersion) -> Vec<Entry> {
        if !matches!(self.phase, Phase::Combining { .. }) {
            return Vec::new();
        }
        let mut entries = vec![Entry::Aggregated { round: self.round, model }];
        let last = self.aggregated + u64::from(self.kind == self.plan.kind) >= self.plan.rounds;
        let is_judged = self.kind == TaskKind::Evaluate || !self.is_to_be_judged(self.aggregated + 1);
        entries.extend((last && is_judged).then(|| self.finished()));
        entries
    }

    fn is_to_be_judged(&self, aggregated: u64) -> bool {
        self.plan.evaluate_every > 0 && aggregated.is_multiple_of(self.plan.evaluate_every)
    }

    /// The updates can't be combined: the round fails, and what counted in it is named as the reason's own matter.
    pub fn handle_not_combined(&self, reason: &str, now: Timestamp) -> Vec<Entry> {
        if !matches!(self.phase, Phase::Combining { .. }) {
            return Vec::new();
        }
        self.failed(&format!("its updates could not be combined: {reason}"), millis(now))
    }

    /// Someone wants no further round to begin.
    pub fn handle_pause(&self) -> Vec<Entry> {
        if self.paused || self.is_over() { Vec::new() } else { vec![Entry::Paused] }
    }

    /// Someone wants it to go on.
    pub fn handle_continue(&self) -> Vec<Entry> {
        if self.paused && !self.is_over() { vec![Entry::Continued] } else { Vec::new() }
    }

    /// Someone wants it to end now.
    pub fn handle_abort(&self, reason: &str) -> Vec<Entry> {
        if self.is_over() {
            return Vec::new();
        }
        vec![Entry::Ended { outcome: Outcome::Aborted, reason: reason.to_owned() }]
    }

    /// The updates to combine, if it is time for that.
    pub fn poll_combine(&self) -> Option<Combine<'_>> {
        let Phase::Combining { .. } = self.phase else { return None };
        let mut sorted: Vec<_> = self.closed.iter().collect();
        sorted.sort_by(|left, right| (&left.hash, &left.device).cmp(&(&right.hash, &right.device)));
        let of = |counted: &'_ Counted| self.staleness(counted.base);
        let members = sorted.into_iter().map(|counted| Member { counted, staleness: of(counted) }).collect();
        Some(Combine { round: self.round, kind: self.kind, base: self.head, members })
    }

    /// What `device` is to do.
    pub fn poll_task(&self, device: &str) -> Option<&Assignment> {
        self.assigned.get(device)
    }

    /// How long the coordinator still waits for a device that was selected in the running round; none: no round runs.
    pub fn poll_wait(&self, now: Timestamp) -> Option<Duration> {
        match self.phase {
            Phase::Collecting { since } => Some((since + self.plan.deadline()).since(now)),
            _ => None,
        }
    }

    /// What becomes of a task of `device`.
    pub fn verdict(&self, device: &str, task: &TaskKey) -> Verdict {
        if self.counted.contains(&(task.base, task.kind, device.to_owned())) {
            return Verdict::Counts;
        }
        if self.assigned.get(device).is_some_and(|work| is_of(work, task)) {
            return Verdict::Open;
        }
        if let Phase::Over { reason, .. } = &self.phase {
            return Verdict::Over(format!("the run is over: {reason}"));
        }
        let here = task.base == self.head.id && task.kind == self.kind;
        match self.gone.get(device).filter(|_| here) {
            Some(reason) => Verdict::Over(reason.clone()),
            None => Verdict::Over("its round has ended".to_owned()),
        }
    }

    /// When to call [`Run::handle_timeout`] again if nothing happens meanwhile.
    pub fn poll_timeout(&self, now: Timestamp) -> Option<Timestamp> {
        let Phase::Collecting { since } = self.phase else { return None };
        let deadline = since + self.plan.deadline();
        let end = deadline + Duration::from_millis(self.plan.patience);
        let stall = Duration::from_millis(self.plan.stall);
        let stalls = self.working().map(|(_, work)| work.said.as_ref().map_or(work.since, |(_, at)| *at) + stall);
        stalls.chain([deadline, end]).filter(|at| *at > now).min()
    }
}

fn is_of(work: &Assignment, task: &TaskKey) -> bool {
    work.base.id == task.base && work.kind == task.kind
}

fn millis(at: Timestamp) -> u64 {
    at.as_nanos() / 1_000_000
}

fn from_millis(at: u64) -> Timestamp {
    Timestamp::ZERO + Duration::from_millis(at)
}

fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}
