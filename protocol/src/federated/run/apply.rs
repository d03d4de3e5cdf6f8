//! What an entry of the log makes of a run: the one place where its lasting state changes.

use super::super::{Entry, Late, ModelVersion, TaskKind};
use super::{Assignment, Phase, Run, from_millis};

impl Run {
    /// Takes an entry that is durable.
    pub fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::RoundBegan { round, kind, at, .. } => {
                self.round = *round;
                self.kind = *kind;
                self.gone.clear();
                self.phase = Phase::Collecting { since: from_millis(*at) };
            }
            Entry::Selected { round, devices, at } => {
                for device in devices {
                    let work = Assignment {
                        base: self.head,
                        kind: self.kind,
                        round: *round,
                        since: from_millis(*at),
                        said: None,
                    };
                    self.gone.remove(device);
                    self.participants.insert(device.clone());
                    self.assigned.insert(device.clone(), work);
                }
            }
            Entry::Counted(counted) => {
                self.assigned.remove(&counted.device);
                self.counted.insert((counted.base.id, counted.kind, counted.device.clone()));
                self.pending.push(counted.clone());
            }
            Entry::Refused { device, reason, .. } => {
                self.assigned.remove(device);
                *self.refusals.entry(device.clone()).or_default() += 1;
                self.gone.insert(device.clone(), format!("its update was refused: {reason}"));
            }
            Entry::Left { device, reason, .. } => {
                self.assigned.remove(device);
                self.gone.insert(device.clone(), reason.clone());
            }
            Entry::Closed { why, .. } => {
                let kind = self.kind;
                self.phase = Phase::Combining { why: *why };
                (self.closed, self.pending) =
                    std::mem::take(&mut self.pending).into_iter().partition(|counted| counted.kind == kind);
                self.release();
            }
            Entry::Aggregated { model, .. } => self.take_model(*model),
            Entry::RoundFailed { .. } => self.round_failed(),
            Entry::Paused => self.paused = true,
            Entry::Continued => self.paused = false,
            Entry::Ended { outcome, reason } => {
                self.phase = Phase::Over { outcome: *outcome, reason: reason.clone() };
                self.assigned.clear();
            }
        }
    }

    fn take_model(&mut self, model: ModelVersion) {
        self.closed.clear();
        self.failures = 0;
        self.phase = Phase::Between;
        if self.kind == self.plan.kind {
            self.aggregated += 1;
        }
        if self.kind == TaskKind::Train {
            self.judged = !self.is_to_be_judged(self.aggregated);
            self.head = model;
            self.models.push(model);
        } else {
            self.judged = true;
        }
        self.release();
    }

    fn round_failed(&mut self) {
        self.pending.append(&mut self.closed);
        self.phase = Phase::Between;
        if self.kind == self.plan.kind {
            self.failures += 1;
        } else {
            self.judged = true;
            self.pending.retain(|counted| counted.kind == self.plan.kind);
        }
        self.release();
    }

    /// At the end of a round: whose work can't count any more has nothing to do.
    fn release(&mut self) {
        let (late, models, kind) = (self.plan.late, &self.models, self.plan.kind);
        self.assigned.retain(|_, work| match late {
            Late::Refused => false,
            Late::Counts { rounds_max } => {
                let staleness = models.iter().rev().take_while(|model| **model != work.base).count() as u64;
                work.kind == kind && staleness <= rounds_max
            }
        });
    }
}
