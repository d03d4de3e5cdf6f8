//! A device: the shipping machine, and what its shell keeps over a kill.

use std::collections::BTreeMap;

use headwater_protocol::federated::participant::{Held, Participant, Stage, Work};
use headwater_protocol::federated::{DeviceReport, Participation, Task, TaskKey, TrainingMessage};

use super::Bug;

/// The name of device number `number`.
pub(super) fn name(number: usize) -> String {
    format!("device-{number}")
}

/// A device.
pub(super) struct Device {
    /// None while the process is dead.
    pub(super) participant: Option<Participant>,
    /// Grows with each life: what an earlier one began comes to nothing.
    pub(super) life: u64,
    /// The session, where there is one.
    pub(super) session: Option<u64>,
    /// What is being done.
    pub(super) jobs: BTreeMap<TaskKey, Work>,
    said: BTreeMap<TaskKey, Participation>,
    /// On the disk: the task and where it stood.
    standing: Option<(Task, Stage)>,
    /// On the disk: the update that was made.
    made: Option<TaskKey>,
}

impl Device {
    pub(super) fn new() -> Self {
        Self {
            participant: Some(Participant::new(1)),
            life: 0,
            session: None,
            jobs: BTreeMap::new(),
            said: BTreeMap::new(),
            standing: None,
            made: None,
        }
    }

    /// The process dies.
    pub(super) fn kill(&mut self) {
        self.participant = None;
        self.life += 1;
        self.session = None;
        self.jobs.clear();
        self.said.clear();
    }

    /// The process starts again, with what is on its disk.
    pub(super) fn start(&mut self, bug: Option<Bug>) {
        if bug == Some(Bug::UpdateForgotten) {
            self.made = None;
        }
        let mut participant = Participant::new(1);
        if let Some((task, stage)) = self.standing.clone() {
            let stage = match (stage, self.made.as_ref() == Some(&task.key())) {
                (over @ Stage::Over { .. }, _) => over,
                (_, true) => Stage::Sending { bytes: 100, sent: 0 },
                (_, false) => Stage::Fetching,
            };
            participant.restore(task, stage);
        }
        self.participant = Some(participant);
    }

    /// A session begins: it says how it is.
    pub(super) fn connected(&mut self, session: u64) -> TrainingMessage {
        self.session = Some(session);
        self.said.clear();
        TrainingMessage::Report(DeviceReport {
            on_power: Some(true),
            unmetered: Some(true),
            memory_free_bytes: 1 << 30,
            samples: 100,
            tasks_max: 1,
            encodings: vec!["full".to_owned()],
            has_program: true,
            takes_programs: false,
        })
    }

    /// A session is gone.
    pub(super) fn cut(&mut self) {
        self.session = None;
        // What was on its way is sent again.
        self.jobs.retain(|_, work| *work != Work::Send);
    }

    /// The core says something.
    pub(super) fn hear(&mut self, message: TrainingMessage) {
        let Some(participant) = &mut self.participant else { return };
        match message {
            TrainingMessage::Do(task) => {
                self.said.remove(&task.key());
                participant.handle_do(task, None);
            }
            TrainingMessage::Settled(settled) => drop(participant.handle_settled(settled)),
            TrainingMessage::Report(_) | TrainingMessage::Stands { .. } => {}
        }
    }

    /// The update of a task is durable.
    pub(super) fn make(&mut self, key: &TaskKey) {
        self.made = Some(key.clone());
    }

    /// What is to be begun now, and what is to be said.
    pub(super) fn reconcile(&mut self) -> (Vec<(TaskKey, Work)>, Vec<TrainingMessage>) {
        let Some(participant) = &mut self.participant else { return (Vec::new(), Vec::new()) };
        participant.take_turns();
        let held: Vec<Held> = participant.tasks().cloned().collect();
        let wanted: BTreeMap<TaskKey, Work> =
            held.iter().filter_map(|held| Some((held.task.key(), held.work()?))).collect();
        self.jobs.retain(|key, work| wanted.get(key) == Some(work));
        self.standing = held.first().map(|held| (held.task.clone(), held.stage.clone()));
        if self.made.as_ref().is_some_and(|made| !held.iter().any(|held| held.task.key() == *made)) {
            self.made = None;
        }
        let is_connected = self.session.is_some();
        let fresh = wanted.into_iter().filter(|(key, work)| {
            let can = is_connected || !matches!(work, Work::Fetch | Work::Send);
            can && !self.jobs.contains_key(key)
        });
        let fresh: Vec<_> = fresh.collect();
        self.jobs.extend(fresh.iter().cloned());
        let mut messages = Vec::new();
        if is_connected {
            for held in held {
                let (task, state) = (held.task.key(), held.stands());
                if self.said.get(&task) != Some(&state) {
                    self.said.insert(task.clone(), state.clone());
                    messages.push(TrainingMessage::Stands { task, state });
                }
            }
        }
        (fresh, messages)
    }
}
