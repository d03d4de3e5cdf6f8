//! Does what the machine wants done: hears the core, starts and stops work, keeps tasks over restarts, and says how they stand.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use headwater_host::control::ReplySender;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::codec::decode_stored;
use headwater_protocol::commit::CommitRecord;
use headwater_protocol::federated::participant::{Held, Stage, Work};
use headwater_protocol::federated::{
    DeviceReport, Participation, Task, TaskKey, TaskKind, TrainingMessage, cut_reason,
};
use headwater_protocol::wire::Following;
use headwater_quic::work;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::place::Place;
use super::process::{Keeper, Program, run, words};
use super::{contract, encode, report};
use crate::agent::Agent;
use crate::blocking::blocking;
use crate::catalog::{EventLevel, Role};
use crate::session::Connected;
use crate::session::collect::Collector;
use crate::session::subscribe::{Wanted, fetch};
use crate::session::sync::count_wire;

/// How often is looked whether the device still is as it was reported.
const REPORT_EVERY: Duration = Duration::from_secs(30);
/// How often is said how far a task is.
const STEP_EVERY: Duration = Duration::from_secs(1);
/// The wait before a model is asked for again.
const FETCH_AGAIN: Duration = Duration::from_secs(5);
/// Times that a model is asked for over sessions that stand.
const FETCHES_MAX: u32 = 5;
/// A change of free memory by less than so many parts of it is not told.
const MEMORY_PARTS: u64 = 4;
/// The file of a program's version that is run.
const RUN_FILE: &str = "run";

/// Something that work on a task has come to.
enum Event {
    Fetched(TaskKey),
    Step(TaskKey, u64, u64),
    Trained(TaskKey),
    Encoded(TaskKey, u64),
    Failed(TaskKey, String),
}

/// Work that is being done.
struct Job {
    work: Work,
    task: JoinHandle<()>,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes part in runs until dropped, where this device is meant to.
pub(crate) async fn keep(agent: Arc<Agent>) -> Infallible {
    if !agent.settings().training.is_configured() {
        std::future::pending::<()>().await;
    }
    let (events, mut coming) = mpsc::unbounded_channel();
    let mut shell = Shell {
        agent: Arc::clone(&agent),
        events,
        jobs: HashMap::new(),
        kept: BTreeMap::new(),
        session: None,
        said: HashMap::new(),
        reported: None,
        sent_before: HashMap::new(),
    };
    shell.restore();
    let mut link = agent.link().subscribe();
    let mut looked = tokio::time::Instant::now();
    loop {
        shell.hear().await;
        shell.reconcile();
        shell.speak(&mut looked).await;
        let wake = agent.training().wake.notified();
        tokio::select! {
            biased;
            () = wake => {}
            event = coming.recv() => {
                if let Some(event) = event {
                    shell.take(event);
                }
                while let Ok(event) = coming.try_recv() {
                    shell.take(event);
                }
            }
            _ = link.changed() => {}
            () = tokio::time::sleep(shell.wait()) => {}
        }
    }
}

struct Shell {
    agent: Arc<Agent>,
    events: mpsc::UnboundedSender<Event>,
    jobs: HashMap<TaskKey, Job>,
    /// What is on the disk of tasks, by run.
    kept: BTreeMap<String, (TaskKey, Stage)>,
    session: Option<Arc<Connected>>,
    /// What the core was told in this session.
    said: HashMap<TaskKey, Participation>,
    reported: Option<DeviceReport>,
    /// What had gone over the session when an update began to be sent.
    sent_before: HashMap<TaskKey, u64>,
}

impl Shell {
    fn place(&self, run: &str) -> Place {
        Place::new(self.agent.data(), run)
    }

    /// Goes on with what an earlier process left.
    fn restore(&mut self) {
        let mut participant = self.agent.training().participant();
        participant.set_at_once(self.agent.settings().training.at_once as usize);
        for standing in Place::kept(self.agent.data()) {
            let place = self.place(&standing.task.run);
            if let Err(error) = encode::settle_residual(&place) {
                tracing::warn!(%error, "the residual of an update can't be put in place");
            }
            // An update that is in place is sent, also where the process ended before it was noted.
            let bytes = std::fs::metadata(place.update_file()).map(|metadata| metadata.len()).ok();
            let stage = match (standing.stage, bytes) {
                (over @ Stage::Over { .. }, _) => over,
                (_, Some(bytes)) => Stage::Sending { bytes, sent: 0 },
                // Whatever came before the update is done again.
                (_, None) => Stage::Fetching,
            };
            participant.restore(standing.task, stage);
        }
        drop(participant);
        Place::tidy(self.agent.data());
        self.agent.look_again();
    }

    /// Takes what the core has said.
    async fn hear(&mut self) {
        let session = self.agent.link().borrow().connected.clone().filter(|connected| !connected.link.has_ended());
        let is_same = match (&session, &self.session) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            self.said.clear();
            self.sent_before.clear();
            self.reported = None;
            self.session = session;
        }
        for message in self.agent.training().heard() {
            match message {
                TrainingMessage::Do(task) => {
                    let refusal = self.refusal(&task).await;
                    // It may have been told how the same task stands before it asked again.
                    self.said.remove(&task.key());
                    self.agent.training().participant().handle_do(task, refusal);
                }
                TrainingMessage::Settled(settled) => {
                    let (run, accepted, reason) = (settled.task.run.clone(), settled.accepted, settled.reason.clone());
                    let known = self.agent.training().participant().handle_settled(settled);
                    if let Some(task) = known {
                        self.say_settled(&run, &task, accepted, &reason);
                    }
                }
                TrainingMessage::Report(_) | TrainingMessage::Stands { .. } => {
                    tracing::debug!("the core spoke like a device");
                }
            }
        }
    }

    fn say_settled(&self, run: &str, task: &Task, accepted: bool, reason: &str) {
        let round = task.round;
        let (level, text) = if accepted {
            (EventLevel::Info, format!("round {round} of `{run}` counts this device in"))
        } else {
            (EventLevel::Warn, format!("round {round} of `{run}` goes on without this device: {reason}"))
        };
        self.agent.note(level, "", "", text);
    }

    /// Why this device will not do a task, if it won't.
    async fn refusal(&self, task: &Task) -> Option<String> {
        let settings = self.agent.settings();
        let training = &settings.training;
        if task.program.is_none() && training.command.is_empty() {
            return Some("the device has no training program".to_owned());
        }
        if task.program.is_some() && training.trust.is_empty() {
            return Some("the device takes no programs from others".to_owned());
        }
        let report = match &self.reported {
            Some(report) => report.clone(),
            None => self.look().await.ok()?,
        };
        report::obstacle(training, &report, i64::from(settings.link.utc_offset.minutes))
    }

    async fn look(&self) -> Result<DeviceReport, CodedError> {
        let unmetered = crate::link::is_unmetered(&self.agent).await;
        let agent = Arc::clone(&self.agent);
        blocking(move || Ok(report::report(&agent, unmetered)?)).await
    }

    fn take(&mut self, event: Event) {
        let mut participant = self.agent.training().participant();
        match event {
            Event::Fetched(key) => participant.handle_fetched(&key),
            Event::Step(key, step, steps) => participant.handle_step(&key, step, steps),
            Event::Trained(key) => participant.handle_trained(&key),
            Event::Encoded(key, bytes) => participant.handle_encoded(&key, bytes),
            Event::Failed(key, reason) => {
                tracing::warn!(run = key.run, reason, "a task failed");
                participant.handle_failed(&key, cut_reason(reason));
            }
        }
    }

    /// Starts what is missing, stops what is not wanted any more, and keeps on the disk how tasks stand.
    fn reconcile(&mut self) {
        let held: Vec<Held> = {
            let mut participant = self.agent.training().participant();
            participant.take_turns();
            participant.tasks().cloned().collect()
        };
        let wanted: HashMap<TaskKey, Work> =
            held.iter().filter_map(|held| Some((held.task.key(), held.work()?))).collect();
        self.jobs.retain(|key, job| wanted.get(key) == Some(&job.work));
        self.keep_standings(&held);
        for held in held {
            let key = held.task.key();
            let Some(work) = held.work().filter(|work| *work != Work::Send && !self.jobs.contains_key(&key)) else {
                continue;
            };
            let (agent, events, place) = (Arc::clone(&self.agent), self.events.clone(), self.place(&key.run));
            let doing = Doing { agent, events, place, task: held.task, key: key.clone() };
            let task = match work {
                Work::Fetch => work::spawn(doing.fetch()),
                Work::Train => work::spawn(doing.train()),
                Work::Encode => work::spawn(doing.encode()),
                Work::Send => continue,
            };
            self.jobs.insert(key, Job { work, task });
        }
    }

    /// Writes down what changed in a way that a restart has to know.
    fn keep_standings(&mut self, held: &[Held]) {
        let mut folders_changed = false;
        let gone: Vec<_> =
            self.kept.keys().filter(|run| !held.iter().any(|held| held.task.run == **run)).cloned().collect();
        for run in gone {
            if let Err(error) = self.place(&run).forget() {
                tracing::warn!(run, %error, "what is left of a task can't be removed");
            }
            self.kept.remove(&run);
            folders_changed = true;
        }
        for held in held {
            let now = (held.task.key(), after_restart(&held.stage));
            let before = self.kept.get(&held.task.run);
            if before == Some(&now) {
                continue;
            }
            let place = self.place(&held.task.run);
            if before.is_some_and(|(key, _)| *key != now.0)
                && let Err(error) = place.forget()
            {
                tracing::warn!(run = held.task.run, %error, "what is left of a task can't be removed");
            }
            if let Err(error) = place.keep(&held.task, &now.1) {
                tracing::warn!(run = held.task.run, %error, "a task can't be kept over a restart");
            }
            let is_sent = |stage: &Stage| matches!(stage, Stage::Sending { .. });
            folders_changed |= is_sent(&now.1) || before.is_some_and(|(_, stage)| is_sent(stage));
            self.kept.insert(held.task.run.clone(), now);
        }
        if folders_changed {
            self.agent.look_again();
        }
    }

    /// Tells the core what it does not know yet.
    async fn speak(&mut self, looked: &mut tokio::time::Instant) {
        let Some(session) = self.session.clone() else { return };
        if self.reported.is_none() || looked.elapsed() >= REPORT_EVERY {
            *looked = tokio::time::Instant::now();
            match self.look().await {
                Ok(report) if self.reported.as_ref().is_none_or(|known| is_news(known, &report)) => {
                    if session.link.say_of_training(TrainingMessage::Report(report.clone())).await.is_ok() {
                        self.reported = Some(report);
                    }
                }
                Ok(_) => {}
                Err(error) => self.agent.note_error("", &error),
            }
        }
        let held: Vec<Held> = {
            let mut participant = self.agent.training().participant();
            let gone = session.link.stats().udp_bytes_sent;
            let sending: Vec<_> = participant
                .tasks()
                .filter(|held| matches!(held.stage, Stage::Sending { .. }))
                .map(|held| held.task.key())
                .collect();
            for key in sending {
                let before = *self.sent_before.entry(key.clone()).or_insert(gone);
                participant.handle_sent(&key, gone.saturating_sub(before));
            }
            participant.tasks().cloned().collect()
        };
        for held in held {
            let (task, state) = (held.task.key(), held.stands());
            if self.said.get(&task) == Some(&state) {
                continue;
            }
            let message = TrainingMessage::Stands { task: task.clone(), state: state.clone() };
            if session.link.say_of_training(message).await.is_ok() {
                self.said.insert(task, state);
            }
        }
        let known: Vec<_> = self.agent.training().participant().tasks().map(|held| held.task.key()).collect();
        self.said.retain(|key, _| known.contains(key));
    }

    fn wait(&self) -> Duration {
        let moves = |held: &Held| matches!(held.stage, Stage::Sending { .. });
        if self.agent.training().participant().tasks().any(moves) { STEP_EVERY } else { REPORT_EVERY }
    }
}

/// The stage as a restart takes it up: only that an update is made, or that a task is over, is worth a write.
fn after_restart(stage: &Stage) -> Stage {
    match stage {
        Stage::Sending { bytes, .. } => Stage::Sending { bytes: *bytes, sent: 0 },
        Stage::Over { .. } => stage.clone(),
        Stage::Fetching | Stage::Waiting | Stage::Training { .. } | Stage::Encoding => Stage::Fetching,
    }
}

/// Whether a report says something that the core has to know.
fn is_news(known: &DeviceReport, new: &DeviceReport) -> bool {
    let difference = known.memory_free_bytes.abs_diff(new.memory_free_bytes);
    let same_memory = DeviceReport { memory_free_bytes: known.memory_free_bytes, ..new.clone() };
    same_memory != *known || difference > known.memory_free_bytes / MEMORY_PARTS
}

/// One piece of work on a task.
struct Doing {
    agent: Arc<Agent>,
    events: mpsc::UnboundedSender<Event>,
    place: Place,
    task: Task,
    key: TaskKey,
}

impl Doing {
    fn come_to(&self, event: Event) {
        // Nobody listens when the agent ends.
        let _ = self.events.send(event);
    }

    async fn fetch(self) {
        let mut failures = 0;
        loop {
            let mut link = self.agent.link().subscribe();
            let connected = match link.wait_for(|state| state.connected.is_some()).await {
                Ok(state) => state.connected.clone(),
                Err(_) => return,
            };
            let Some(connected) = connected else { continue };
            // What is kept for updates does not pay for models.
            self.agent.gate().opens_to_all().await;
            let _at_work = self.agent.begin_work();
            let fetched = async {
                self.bring(&connected, &self.task.model, &self.place.model()).await?;
                if let Some(program) = &self.task.program {
                    self.bring(&connected, program, &self.place.program()).await?;
                    let (agent, place, program) = (Arc::clone(&self.agent), self.place.clone(), program.clone());
                    blocking(move || check_author(&agent, &place, &program)).await?;
                }
                Ok::<(), CodedError>(())
            };
            match Box::pin(fetched).await {
                Ok(()) => return self.come_to(Event::Fetched(self.key.clone())),
                Err(error) if error.is(&codes::UNTRUSTED_PROGRAM) => {
                    return self.come_to(Event::Failed(self.key.clone(), crate::agent::one_line(&error)));
                }
                // What a lost session cuts goes on in the next one.
                Err(_) if connected.link.has_ended() => {}
                Err(error) => {
                    failures += 1;
                    self.agent.note_error(&self.task.model.dataset, &error);
                    if failures == FETCHES_MAX {
                        let reason = format!("the model can't be had: {}", crate::agent::one_line(&error));
                        return self.come_to(Event::Failed(self.key.clone(), reason));
                    }
                }
            }
            tokio::time::sleep(FETCH_AGAIN).await;
        }
    }

    async fn bring(
        &self,
        connected: &Connected,
        version: &Following,
        folder: &std::path::Path,
    ) -> Result<(), CodedError> {
        let wanted = Wanted { folder: Ok(folder.to_owned()), keep: 1, newest: version.clone() };
        let collector = Collector::new(ReplySender::ignored());
        let work = || Box::pin(fetch(&self.agent, &wanted, &connected.link, &collector));
        let fetched = self.agent.healing(work).await;
        count_wire(&self.agent, &collector);
        fetched
    }

    async fn train(self) {
        let settings = self.agent.settings();
        let training = settings.training.clone();
        let (agent, place, task) = (Arc::clone(&self.agent), self.place.clone(), self.task.clone());
        let prepared = blocking(move || {
            let shown = report::shown(&agent)?;
            contract::prepare(&place, &task, &shown)
                .map_err(|error| CodedError::io(&codes::WRITE_FAILED, "the task's folder can't be made", error))
        });
        if let Err(error) = prepared.await {
            return self.come_to(Event::Failed(self.key.clone(), crate::agent::one_line(&error)));
        }
        let (argv, home) = match &self.task.program {
            Some(_) => {
                let version = self.place.program().join("current");
                (words(&[version.join(RUN_FILE)]), version)
            }
            None => (words(&training.command), self.place.task()),
        };
        let program = Program {
            argv,
            folder: training.folder.clone().filter(|_| self.task.program.is_none()).unwrap_or(home),
            task: self.place.task(),
            log: self.place.log(),
            memory_bytes: training.memory.map(|bytes| bytes.0),
            time: training.time.0,
            disk_bytes: training.disk.0,
            nice: training.nice,
        };
        let (events, key) = (self.events.clone(), self.key.clone());
        let stepped = move |step, steps| drop(events.send(Event::Step(key.clone(), step, steps)));
        match Box::pin(run(&program, Keeper::of_this_machine(), stepped)).await {
            Ok(()) => self.come_to(Event::Trained(self.key.clone())),
            Err(reason) => self.come_to(Event::Failed(self.key.clone(), reason)),
        }
    }

    async fn encode(self) {
        let (agent, place, task) = (Arc::clone(&self.agent), self.place.clone(), self.task.clone());
        let made = blocking(move || {
            let samples = report::shown(&agent)?.iter().map(|dataset| dataset.samples).sum();
            let encodings = agent.settings().training.encodings.clone();
            let made = contract::measured(&place.task(), samples)
                .and_then(|measured| encode::make(&place, &task, &encodings, &measured));
            made.map_err(|reason| CodedError::new(&codes::TRAINING_FAILED, reason))
        });
        match made.await {
            Ok(bytes) => self.come_to(Event::Encoded(self.key.clone(), bytes)),
            Err(error) => {
                let what = if self.task.kind == TaskKind::Train { "no update: " } else { "" };
                let reason = format!("{what}{}", crate::agent::one_line(&error));
                self.come_to(Event::Failed(self.key.clone(), reason));
            }
        }
    }
}

/// Checks that a program was published by somebody whom this device trusts. Blocks.
fn check_author(agent: &Agent, place: &Place, program: &Following) -> Result<(), CodedError> {
    let catalog = agent.catalog();
    let row = catalog.dataset(&program.dataset, Role::Subscribe, &place.program())?;
    let version = catalog.version(row.id, &program.version)?;
    let record = version.and_then(|version| decode_stored::<CommitRecord>(&version.record).ok());
    let untrusted = |text: String| {
        CodedError::new(&codes::UNTRUSTED_PROGRAM, text)
            .with_hint("put the author's key into `[training] trust` if its programs may run here")
    };
    // Its signatures were checked when it came.
    let author = record.ok_or_else(|| untrusted("the program's author is not known".to_owned()))?.author;
    if agent.settings().training.trusted().contains(&author) {
        return Ok(());
    }
    Err(untrusted(format!(
        "the program `{}@{}` is by {author}, whom this device does not trust",
        program.dataset, program.number
    )))
}
