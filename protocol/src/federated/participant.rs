//! A device's side of federated runs, as a machine without a clock, files or sockets.
//!
//! ```text
//!  Do ──▶ Fetching ──model is here──▶ Waiting ──its turn──▶ Training ──▶ Encoding ──▶ Sending ──Settled──▶ (forgotten)
//!             │                          │                      │            │            │
//!             └──────────────────────────┴── can't, or won't ───┴────────────┴──▶ Over    └─ killed here, it goes on here
//! ```
//!
//! A device has at most one task of a run: another one takes the place of the one before. What is to be done is read from the state
//! ([`Participant::work`]), level by level and not edge by edge: whoever carries it out compares it with what it does, starts what
//! is missing and stops what is not wanted any more. A task is trained again only if its update was not made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Participation, Settled, Task, TaskKey, TaskKind};

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "lowercase")]
pub enum Stage {
    /// The model, and the program where the core sends one, are on their way.
    Fetching,
    /// All is here; others come first.
    Waiting,
    /// The program runs.
    Training {
        /// Steps done.
        step: u64,
        /// Of so many; 0 where the program doesn't say.
        steps: u64,
    },
    /// The program has ended well; the update is being made.
    Encoding,
    /// The update is made.
    Sending {
        /// Its length.
        bytes: u64,
        /// So much of it has gone.
        sent: u64,
    },
    /// Nothing more comes of it.
    Over {
        /// What the core is told.
        said: Participation,
    },
}

/// What is to be done for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Fetch the model and the program.
    Fetch,
    /// Run the program.
    Train,
    /// Make the update of what the program left.
    Encode,
    /// Publish the update.
    Send,
}

/// A task and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The task.
    pub task: Task,
    /// Where it stands.
    pub stage: Stage,
    /// The order in which tasks came.
    turn: u64,
}

/// What became of the last task of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    /// Its round.
    pub round: u64,
    /// What it was for.
    pub kind: TaskKind,
    /// Whether it counts.
    pub accepted: bool,
    /// Why not, or empty.
    pub reason: String,
}

/// A device's tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Participant {
    tasks: BTreeMap<String, Held>,
    settled: BTreeMap<String, Settlement>,
    at_once: usize,
    turns: u64,
}

impl Participant {
    /// A device without tasks, which trains `at_once` at a time.
    pub fn new(at_once: usize) -> Self {
        Self { tasks: BTreeMap::new(), settled: BTreeMap::new(), at_once: at_once.max(1), turns: 0 }
    }

    /// A task of an earlier process: one whose update is made goes on being sent, any other begins anew, but for what is over.
    pub fn restore(&mut self, task: Task, stage: Stage) {
        let stage = match stage {
            Stage::Sending { bytes, .. } => Stage::Sending { bytes, sent: 0 },
            over @ Stage::Over { .. } => over,
            _ => Stage::Fetching,
        };
        self.put(task, stage);
    }

    fn put(&mut self, task: Task, stage: Stage) {
        self.turns += 1;
        self.tasks.insert(task.run.clone(), Held { task, stage, turn: self.turns });
    }

    /// How many tasks are trained at a time from now on.
    pub fn set_at_once(&mut self, at_once: usize) {
        self.at_once = at_once.max(1);
    }

    /// The core asks for this. It is believed that it may ask; whether the device wants to is `refusal`.
    pub fn handle_do(&mut self, task: Task, refusal: Option<String>) {
        if self.tasks.get(&task.run).is_some_and(|held| held.task.key() == task.key()) {
            return;
        }
        let stage = match refusal {
            Some(reason) => Stage::Over { said: Participation::Declined { reason } },
            None => Stage::Fetching,
        };
        self.put(task, stage);
    }

    /// The core is done with a task. Gives the task, if it was known.
    pub fn handle_settled(&mut self, settled: Settled) -> Option<Task> {
        let held = self.tasks.get(&settled.task.run).filter(|held| held.task.key() == settled.task)?;
        let Settled { accepted, reason, .. } = settled;
        let settlement = Settlement { round: held.task.round, kind: held.task.kind, accepted, reason };
        let run = settled.task.run;
        let held = self.tasks.remove(&run);
        self.settled.insert(run, settlement);
        held.map(|held| held.task)
    }

    /// The device's operator wants nothing more of a run's task. False if there is none that goes on.
    pub fn handle_abort(&mut self, run: &str, reason: &str) -> bool {
        let Some(held) = self.tasks.get_mut(run).filter(|held| !matches!(held.stage, Stage::Over { .. })) else {
            return false;
        };
        held.stage = Stage::Over { said: Participation::Declined { reason: reason.to_owned() } };
        true
    }

    /// Model and program are here.
    pub fn handle_fetched(&mut self, task: &TaskKey) {
        self.advance(task, |stage| matches!(stage, Stage::Fetching).then_some(Stage::Waiting));
    }

    /// The program says how far it is.
    pub fn handle_step(&mut self, task: &TaskKey, step: u64, steps: u64) {
        self.advance(task, |stage| matches!(stage, Stage::Training { .. }).then_some(Stage::Training { step, steps }));
    }

    /// The program has ended well.
    pub fn handle_trained(&mut self, task: &TaskKey) {
        self.advance(task, |stage| matches!(stage, Stage::Training { .. }).then_some(Stage::Encoding));
    }

    /// The update is made and durable.
    pub fn handle_encoded(&mut self, task: &TaskKey, bytes: u64) {
        self.advance(task, |stage| matches!(stage, Stage::Encoding).then_some(Stage::Sending { bytes, sent: 0 }));
    }

    /// So much of the update has gone. It never becomes less.
    pub fn handle_sent(&mut self, task: &TaskKey, now: u64) {
        self.advance(task, |stage| match stage {
            Stage::Sending { bytes, sent } if now > *sent => {
                Some(Stage::Sending { bytes: *bytes, sent: now.min(*bytes) })
            }
            _ => None,
        });
    }

    /// What was being done can't be.
    pub fn handle_failed(&mut self, task: &TaskKey, reason: String) {
        self.advance(task, |stage| match stage {
            Stage::Over { .. } | Stage::Sending { .. } => None,
            _ => Some(Stage::Over { said: Participation::Failed { reason } }),
        });
    }

    fn advance(&mut self, task: &TaskKey, next: impl FnOnce(&Stage) -> Option<Stage>) {
        let Some(held) = self.tasks.get_mut(&task.run).filter(|held| held.task.key() == *task) else { return };
        if let Some(stage) = next(&held.stage) {
            held.stage = stage;
        }
    }

    /// Begins what has its turn now. Called after each of the others.
    pub fn take_turns(&mut self) {
        let busy = self.tasks.values().filter(|held| matches!(held.stage, Stage::Training { .. })).count();
        let mut waiting: Vec<_> = self.tasks.values_mut().filter(|held| matches!(held.stage, Stage::Waiting)).collect();
        waiting.sort_by_key(|held| held.turn);
        for held in waiting.into_iter().take(self.at_once.saturating_sub(busy)) {
            held.stage = Stage::Training { step: 0, steps: 0 };
        }
    }

    /// The tasks.
    pub fn tasks(&self) -> impl Iterator<Item = &Held> {
        self.tasks.values()
    }

    /// What became of the last task of each run.
    pub fn settled(&self) -> &BTreeMap<String, Settlement> {
        &self.settled
    }
}

impl Held {
    /// What is to be done for it now.
    pub fn work(&self) -> Option<Work> {
        match self.stage {
            Stage::Fetching => Some(Work::Fetch),
            Stage::Training { .. } => Some(Work::Train),
            Stage::Encoding => Some(Work::Encode),
            Stage::Sending { .. } => Some(Work::Send),
            Stage::Waiting | Stage::Over { .. } => None,
        }
    }

    /// What the core is told of it.
    pub fn stands(&self) -> Participation {
        let waiting = |reason: &str| Participation::Waiting { reason: reason.to_owned() };
        match &self.stage {
            Stage::Fetching => waiting("the model is on its way"),
            Stage::Waiting => waiting("another task is being trained"),
            Stage::Training { step, steps } => Participation::Training { step: *step, steps: *steps },
            Stage::Encoding => waiting("the update is being made"),
            Stage::Sending { bytes, sent } => Participation::Sending { bytes: *bytes, acknowledged: *sent },
            Stage::Over { said } => said.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::VersionId;
    use crate::wire::Following;

    fn task(run: u8, base: u8) -> Task {
        Task {
            run: format!("run-{run}"),
            round: u64::from(base),
            kind: TaskKind::Train,
            model: Following { dataset: "m".to_owned(), number: u64::from(base), version: VersionId([base; 32]) },
            config: "{}".to_owned(),
            encodings: vec!["full".to_owned()],
            wait_ms: None,
            program: None,
        }
    }

    #[derive(Clone, Debug)]
    enum Happening {
        Do(u8, u8),
        Settled(u8, u8),
        Fetched(u8, u8),
        Trained(u8, u8),
        Encoded(u8, u8),
        Failed(u8, u8),
        Abort(u8),
        Restart,
    }

    fn happening() -> impl Strategy<Value = Happening> {
        let of = (0..3_u8, 0..3_u8);
        prop_oneof![
            3 => of.clone().prop_map(|(run, base)| Happening::Do(run, base)),
            1 => of.clone().prop_map(|(run, base)| Happening::Settled(run, base)),
            3 => of.clone().prop_map(|(run, base)| Happening::Fetched(run, base)),
            3 => of.clone().prop_map(|(run, base)| Happening::Trained(run, base)),
            3 => of.clone().prop_map(|(run, base)| Happening::Encoded(run, base)),
            1 => of.prop_map(|(run, base)| Happening::Failed(run, base)),
            1 => (0..3_u8).prop_map(Happening::Abort),
            1 => Just(Happening::Restart),
        ]
    }

    fn apply(participant: &mut Participant, happening: &Happening) {
        match happening {
            Happening::Do(run, base) => participant.handle_do(task(*run, *base), None),
            Happening::Settled(run, base) => {
                let settled = Settled { task: task(*run, *base).key(), accepted: true, reason: String::new() };
                participant.handle_settled(settled);
            }
            Happening::Fetched(run, base) => participant.handle_fetched(&task(*run, *base).key()),
            Happening::Trained(run, base) => participant.handle_trained(&task(*run, *base).key()),
            Happening::Encoded(run, base) => participant.handle_encoded(&task(*run, *base).key(), 10),
            Happening::Failed(run, base) => participant.handle_failed(&task(*run, *base).key(), "no".to_owned()),
            Happening::Abort(run) => {
                participant.handle_abort(&format!("run-{run}"), "no");
            }
            Happening::Restart => {
                let mut restarted = Participant::new(participant.at_once);
                for held in participant.tasks() {
                    restarted.restore(held.task.clone(), held.stage.clone());
                }
                *participant = restarted;
            }
        }
        participant.take_turns();
    }

    proptest! {
        #[test]
        fn few_train_at_once_and_a_made_update_is_never_made_again(
            at_once in 1..3_usize,
            happenings in prop::collection::vec(happening(), 0..60),
        ) {
            let mut participant = Participant::new(at_once);
            for happening in &happenings {
                let sending: Vec<_> = participant
                    .tasks()
                    .filter(|held| matches!(held.stage, Stage::Sending { .. }))
                    .map(|held| held.task.key())
                    .collect();
                apply(&mut participant, happening);
                let training = participant.tasks().filter(|held| held.work() == Some(Work::Train)).count();
                prop_assert!(training <= at_once);
                for key in sending {
                    let now = participant.tasks().find(|held| held.task.key() == key);
                    let stays = now.is_none_or(|held| matches!(held.stage, Stage::Sending { .. } | Stage::Over { .. }));
                    prop_assert!(stays, "{happening:?} had {key:?} made again");
                }
                // Nobody waits while there is room.
                let waits = participant.tasks().any(|held| held.stage == Stage::Waiting);
                prop_assert!(!waits || training == at_once);
            }
        }
    }

    #[test]
    fn a_task_goes_its_way() {
        let mut participant = Participant::new(1);
        participant.handle_do(task(0, 1), None);
        participant.handle_do(task(1, 1), None);
        let keys = [task(0, 1).key(), task(1, 1).key()];
        for key in &keys {
            participant.handle_fetched(key);
            participant.take_turns();
        }
        let stages = |participant: &Participant| participant.tasks().map(|held| held.stage.clone()).collect::<Vec<_>>();
        assert_eq!(stages(&participant), [Stage::Training { step: 0, steps: 0 }, Stage::Waiting]);
        participant.handle_trained(&keys[0]);
        participant.take_turns();
        participant.handle_encoded(&keys[0], 7);
        participant.handle_sent(&keys[0], 5);
        participant.handle_sent(&keys[0], 3);
        assert_eq!(stages(&participant), [Stage::Sending { bytes: 7, sent: 5 }, Stage::Training { step: 0, steps: 0 }]);
        let settled = Settled { task: keys[0].clone(), accepted: false, reason: "late".to_owned() };
        assert!(participant.handle_settled(settled).is_some());
        assert_eq!(participant.settled()["run-0"].reason, "late");
        participant.handle_do(task(1, 2), Some("it is not the time".to_owned()));
        assert_eq!(participant.tasks().count(), 1);
        assert!(matches!(stages(&participant)[0], Stage::Over { said: Participation::Declined { .. } }));
    }
}
