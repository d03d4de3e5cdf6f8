//! Runs: what single events lead to, and what always holds whatever happens in whatever order.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::{DeviceReport, Eligibility, Late};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn model(number: u64) -> ModelVersion {
    ModelVersion { number, id: VersionId::of(&number.to_le_bytes()) }
}

fn report() -> DeviceReport {
    DeviceReport {
        on_power: Some(true),
        unmetered: Some(true),
        memory_free_bytes: 1 << 30,
        samples: 100,
        tasks_max: 1,
        encodings: vec!["full".into()],
        has_program: true,
        takes_programs: false,
    }
}

fn plan() -> Plan {
    Plan {
        model: "models/m".into(),
        rounds: 2,
        min_updates: 2,
        goal: 3,
        deadline: 60_000,
        patience: 30_000,
        stall: 10_000,
        ..Plan::default()
    }
}

/// A run, its log, and the devices that are connected.
struct Play {
    run: Run,
    plan: Plan,
    log: Vec<Entry>,
    now: Timestamp,
    there: BTreeSet<String>,
    report: DeviceReport,
}

impl Play {
    fn new(plan: Plan, devices: &[&str]) -> Self {
        let there = devices.iter().map(|device| (*device).to_owned()).collect();
        let run = Run::new(plan.clone(), model(1));
        let mut play = Self { run, plan, log: Vec::new(), now: Timestamp::ZERO, there, report: report() };
        play.settle();
        play
    }

    fn take(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.run.apply(&entry);
            self.log.push(entry);
        }
    }

    fn settle(&mut self) {
        loop {
            let there: Vec<_> = self.there.iter().cloned().collect();
            let candidate = |name| Candidate { name, report: &self.report, is_busy: false, minute: 0 };
            let candidates: Vec<_> = there.iter().map(|name| candidate(name.as_str())).collect();
            let entries = self.run.handle_timeout(self.now, &candidates);
            if entries.is_empty() {
                return;
            }
            self.take(entries);
        }
    }

    fn wait(&mut self, span: Duration) {
        self.now = self.now + span;
        self.settle();
    }

    fn task(&self, device: &str) -> Option<TaskKey> {
        let work = self.run.poll_task(device)?;
        Some(TaskKey { run: "r".into(), base: work.base.id, kind: work.kind })
    }

    fn arrival(device: &str, task: TaskKey) -> Arrival {
        let name = format!("{device} {}", task.base);
        Arrival {
            update: VersionId::of(name.as_bytes()),
            task,
            hash: VersionId::of(name.as_bytes()).to_string(),
            samples: 10,
            bytes: 1000,
            metrics: BTreeMap::from([("loss".to_owned(), 0.5)]),
            fault: None,
        }
    }

    fn send(&mut self, device: &str) {
        let task = self.task(device).expect("it has a task");
        let entries = self.run.handle_update(device, Self::arrival(device, task));
        self.take(entries);
        self.settle();
    }

    fn fail(&mut self, device: &str) {
        let task = self.task(device).expect("it has a task");
        let state = Participation::Failed { reason: "exit status 1".into() };
        let entries = self.run.handle_stands(device, &task, state, self.now);
        self.take(entries);
        self.settle();
    }

    fn moves(&mut self, device: &str, step: u64) {
        let task = self.task(device).expect("it has a task");
        let state = Participation::Training { step, steps: 100 };
        assert!(self.run.handle_stands(device, &task, state, self.now).is_empty());
    }

    fn combine(&mut self) -> Vec<String> {
        let combine = self.run.poll_combine().expect("it is time");
        let members = combine.members.iter().map(|member| member.counted.device.clone()).collect();
        let model = match combine.kind {
            TaskKind::Train => model(combine.base.number + 1),
            TaskKind::Evaluate => combine.base,
        };
        let entries = self.run.handle_combined(model);
        self.take(entries);
        self.settle();
        members
    }

    fn outcome(&self) -> Option<Outcome> {
        match self.run.phase() {
            Phase::Over { outcome, .. } => Some(*outcome),
            _ => None,
        }
    }
}

#[test]
fn rounds_follow_each_other_until_the_last() {
    let mut play = Play::new(plan(), &["a", "b", "c"]);
    for round in 1..=2 {
        assert_eq!(play.run.round(), round);
        for device in ["a", "b", "c"] {
            play.send(device);
        }
        let mut members = play.combine();
        members.sort();
        assert_eq!(members, ["a", "b", "c"]);
    }
    assert_eq!(play.outcome(), Some(Outcome::Finished));
    assert_eq!(play.run.head(), model(3));
}

#[test]
fn no_round_begins_without_the_minimum() {
    let mut play = Play::new(plan(), &["a"]);
    play.wait(600 * SECOND);
    assert_eq!(play.run.phase(), &Phase::Between);
    play.there.insert("b".into());
    play.settle();
    assert_eq!(play.run.round(), 1);
    // The third comes later, and is selected as long as the round runs.
    play.there.insert("c".into());
    play.settle();
    assert!(play.task("c").is_some());
}

#[test]
fn the_deadline_closes_with_the_minimum_and_fails_without() {
    let mut play = Play::new(plan(), &["a", "b", "c"]);
    play.send("a");
    play.send("b");
    play.wait(59 * SECOND);
    assert!(play.run.poll_combine().is_none());
    play.wait(SECOND);
    assert_eq!(play.run.phase(), &Phase::Combining { why: Closing::Deadline });
    assert!(play.task("c").is_none(), "what comes later is for nothing");
    play.combine();
    play.send("a");
    play.wait(61 * SECOND);
    assert!(
        matches!(&play.log[..], [.., Entry::RoundFailed { round: 2, reason, .. }, Entry::RoundBegan { round: 3, .. }, Entry::Selected { .. }] if reason.contains("1 of at least 2"))
    );
    // What came in the round that failed counts in the next of the same model.
    assert!(play.task("a").is_none());
    play.send("b");
    play.send("c");
    assert_eq!(play.combine().len(), 3);
}

#[test]
fn who_makes_progress_is_waited_for_but_not_for_ever() {
    let mut play = Play::new(plan(), &["a", "b"]);
    play.send("a");
    for step in 0..29 {
        play.moves("b", step);
        play.wait(3 * SECOND);
    }
    assert_eq!(play.run.phase(), &Phase::Collecting { since: Timestamp::ZERO }, "at 87 s it still moves");
    play.moves("b", 99);
    play.wait(3 * SECOND);
    assert!(play.log.iter().any(|entry| matches!(entry, Entry::RoundFailed { .. })), "at 90 s patience ends");
    let mut play = Play::new(plan(), &["a", "b"]);
    play.send("a");
    play.moves("b", 1);
    play.wait(61 * SECOND);
    assert!(play.log.iter().any(|entry| matches!(entry, Entry::RoundFailed { .. })), "nobody moves");
}

#[test]
fn others_take_the_places_of_those_that_fail_or_stall() {
    let mut play = Play::new(Plan { goal: 2, ..plan() }, &["a", "b", "c", "d"]);
    let first: Vec<_> = play.run.assigned().keys().cloned().collect();
    assert_eq!(first.len(), 2);
    play.fail(&first[0]);
    let second: BTreeSet<_> = play.run.assigned().keys().cloned().collect();
    assert_eq!(second.len(), 2);
    assert!(!second.contains(&first[0]), "who failed is not asked again in the round");
    play.wait(11 * SECOND);
    assert_eq!(play.run.assigned().len(), 3, "nobody moved for 10 s, and one was left to ask");
    assert!(
        matches!(play.run.verdict(&first[0], &TaskKey { run: "r".into(), base: model(1).id, kind: TaskKind::Train }), Verdict::Over(reason) if reason == "exit status 1")
    );
}

#[test]
fn an_update_counts_once_and_says_why_not() {
    let mut play = Play::new(plan(), &["a", "b", "c"]);
    let task = play.task("a").expect("a task");
    let arrival = Play::arrival("a", task.clone());
    play.send("a");
    assert!(play.run.handle_update("a", arrival.clone()).is_empty(), "it has no task any more");
    assert_eq!(play.run.verdict("a", &task), Verdict::Counts);
    let of_b = Arrival { fault: Some("tensor `w` has a NaN at 3".into()), ..arrival.clone() };
    let entries = play.run.handle_update("b", of_b);
    assert!(matches!(&entries[..], [Entry::Refused { reason, .. }] if reason.contains("NaN")));
    play.take(entries);
    assert_eq!(play.run.refusals().get("b"), Some(&1));
    let none = play.run.handle_update("c", Arrival { samples: 0, ..arrival });
    assert!(matches!(&none[..], [Entry::Refused { reason, .. }] if reason.contains("0 samples")));
}

#[test]
fn who_is_refused_often_is_left_out() {
    let mut play = Play::new(Plan { rounds: 9, refusals_max: 2, min_updates: 1, goal: 2, ..plan() }, &["a", "b"]);
    for round in 1..=2 {
        assert_eq!(play.run.round(), round);
        let task = play.task("b").expect("a task");
        let fault = Some("no".to_owned());
        let entries = play.run.handle_update("b", Arrival { fault, ..Play::arrival("b", task) });
        play.take(entries);
        play.send("a");
        play.combine();
    }
    assert!(play.task("b").is_none());
    assert!(play.task("a").is_some());
}

#[test]
fn buffered_runs_take_late_updates_and_tell_how_late() {
    let buffered =
        Plan { min_updates: 1, goal: 1, over_select: 3000, late: Late::Counts { rounds_max: 2 }, rounds: 9, ..plan() };
    let mut play = Play::new(buffered, &["a", "b", "c"]);
    assert_eq!(play.run.assigned().len(), 3);
    play.send("a");
    // One that comes while the round is combined counts in the next.
    let task = play.task("b").expect("still");
    let entries = play.run.handle_update("b", Play::arrival("b", task));
    play.take(entries);
    assert_eq!(play.combine(), ["a"]);
    let combine = play.run.poll_combine().expect("b was enough for a round");
    assert_eq!(combine.members[0].staleness, 1);
    assert_eq!(play.combine(), ["b"]);
    play.send("a");
    play.combine();
    assert!(play.task("c").is_some_and(|task| task.base == model(4).id), "three models later c has a task anew");
}

#[test]
fn models_are_judged_between_rounds_and_at_the_end() {
    let mut play = Play::new(Plan { evaluate_every: 2, goal: 2, ..plan() }, &["a", "b"]);
    for kind in [TaskKind::Train, TaskKind::Train, TaskKind::Evaluate] {
        assert_eq!(play.run.kind(), kind);
        play.send("a");
        play.send("b");
        play.combine();
    }
    assert_eq!(play.outcome(), Some(Outcome::Finished));
    assert_eq!(play.run.aggregated(), 2);
}

#[test]
fn a_model_that_could_not_be_judged_ends_the_run_as_well() {
    let mut play = Play::new(Plan { evaluate_every: 2, goal: 2, ..plan() }, &["a", "b"]);
    for _ in 0..2 {
        play.send("a");
        play.send("b");
        play.combine();
    }
    play.wait(61 * SECOND);
    assert_eq!(play.outcome(), Some(Outcome::Finished));
}

#[test]
fn a_run_ends_after_too_many_failures_or_by_a_word() {
    let mut play = Play::new(Plan { failures_max: 2, ..plan() }, &["a", "b"]);
    play.wait(61 * SECOND);
    play.wait(61 * SECOND);
    assert_eq!(play.outcome(), Some(Outcome::Failed));
    let mut play = Play::new(plan(), &["a", "b"]);
    let task = play.task("a").expect("a task");
    let entries = play.run.handle_abort("the data were wrong");
    play.take(entries);
    assert_eq!(play.outcome(), Some(Outcome::Aborted));
    assert!(matches!(play.run.verdict("a", &task), Verdict::Over(reason) if reason.contains("the data were wrong")));
    assert!(play.run.handle_abort("again").is_empty());
}

#[test]
fn nothing_begins_while_paused() {
    let mut play = Play::new(plan(), &["a", "b", "c"]);
    let entries = play.run.handle_pause();
    play.take(entries);
    for device in ["a", "b", "c"] {
        play.send(device);
    }
    play.combine();
    assert_eq!((play.run.round(), play.run.phase()), (1, &Phase::Between));
    let entries = play.run.handle_continue();
    play.take(entries);
    play.settle();
    assert_eq!(play.run.round(), 2);
}

#[test]
fn who_may_not_take_part_is_told_why() {
    let obstacle = |plan: Plan, report: DeviceReport, minute| {
        let run = Run::new(plan, model(1));
        run.obstacle(&Candidate { name: "a", report: &report, is_busy: false, minute }, TaskKind::Train)
    };
    let with = |eligible| Plan { eligible, ..plan() };
    let power = Eligibility { on_power: true, ..Eligibility::default() };
    let night = Eligibility { minutes: Some((22 * 60, 6 * 60)), ..Eligibility::default() };
    assert_eq!(obstacle(plan(), report(), 0), None);
    assert!(obstacle(with(power.clone()), DeviceReport { on_power: None, ..report() }, 0).is_some());
    assert_eq!(obstacle(with(power), report(), 0), None);
    assert_eq!(obstacle(with(night.clone()), report(), 23 * 60), None);
    assert_eq!(obstacle(with(night.clone()), report(), 5), None);
    assert!(obstacle(with(night), report(), 12 * 60).is_some());
    assert!(obstacle(plan(), DeviceReport { has_program: false, ..report() }, 0).is_some());
    assert!(obstacle(plan(), DeviceReport { encodings: vec!["int8".into()], ..report() }, 0).is_some());
}

#[test]
fn plans_that_cannot_be_are_refused() {
    let cases = [
        (Plan { min_updates: 4, ..plan() }, "a round needs 4 updates"),
        (Plan { rounds: 0, ..plan() }, "`rounds` is 0"),
        (Plan { over_select: 999, ..plan() }, "`over-select` is 999"),
        (Plan { kind: TaskKind::Evaluate, ..plan() }, "has one round"),
        (Plan { encodings: vec![], ..plan() }, "names none"),
        (
            Plan { eligible: Eligibility { minutes: Some((5, 5)), ..Eligibility::default() }, ..plan() },
            "no part of a day",
        ),
    ];
    for (plan, expected) in cases {
        let error = plan.check().expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    plan().check().expect("it can be");
    assert_eq!(Plan { goal: 10, over_select: 1250, ..plan() }.selected(), 13);
}

#[derive(Clone, Debug)]
enum Act {
    Come(u8),
    Go(u8),
    Wait(u32),
    Send(u8),
    Replay(u8),
    Fault(u8),
    Fail(u8),
    Move(u8, u64),
    Combine,
    CannotCombine,
    Pause,
    Continue,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let device = || 0..6_u8;
    let act = prop_oneof![
        4 => device().prop_map(Act::Come),
        1 => device().prop_map(Act::Go),
        3 => (0..40_u32).prop_map(Act::Wait),
        8 => device().prop_map(Act::Send),
        2 => device().prop_map(Act::Replay),
        1 => device().prop_map(Act::Fault),
        1 => device().prop_map(Act::Fail),
        3 => (device(), 0..100_u64).prop_map(|(device, step)| Act::Move(device, step)),
        4 => Just(Act::Combine),
        1 => Just(Act::CannotCombine),
        1 => Just(Act::Pause),
        2 => Just(Act::Continue),
    ];
    proptest::collection::vec(act, 1..120)
}

fn plans() -> impl Strategy<Value = Plan> {
    let late = prop_oneof![Just(Late::Refused), (0..3_u64).prop_map(|rounds_max| Late::Counts { rounds_max })];
    (1..4_u32, 0..3_u32, 1000..3000_u32, late, 0..3_u64, 1..6_u64).prop_map(
        |(min_updates, more, over_select, late, evaluate_every, rounds)| Plan {
            min_updates,
            goal: min_updates + more,
            over_select,
            late,
            evaluate_every,
            rounds,
            ..plan()
        },
    )
}

impl Play {
    fn act(&mut self, act: &Act, sent: &mut Vec<(String, Arrival)>) {
        let name = |device: &u8| format!("device-{device}");
        let entries = match act {
            Act::Come(device) => {
                self.there.insert(name(device));
                Vec::new()
            }
            Act::Go(device) => {
                self.there.remove(&name(device));
                Vec::new()
            }
            Act::Wait(seconds) => {
                self.now = self.now + *seconds * SECOND;
                Vec::new()
            }
            Act::Send(device) | Act::Fault(device) => match self.task(&name(device)) {
                Some(task) => {
                    let fault = matches!(act, Act::Fault(_)).then(|| "garbage".to_owned());
                    let arrival = Arrival { fault, ..Self::arrival(&name(device), task) };
                    sent.push((name(device), arrival.clone()));
                    self.run.handle_update(&name(device), arrival)
                }
                None => Vec::new(),
            },
            Act::Replay(index) => match sent.get(usize::from(*index)) {
                Some((device, arrival)) => self.run.handle_update(device, arrival.clone()),
                None => Vec::new(),
            },
            Act::Fail(device) => match self.task(&name(device)) {
                Some(task) => {
                    let state = Participation::Failed { reason: "no".into() };
                    self.run.handle_stands(&name(device), &task, state, self.now)
                }
                None => Vec::new(),
            },
            Act::Move(device, step) => match self.task(&name(device)) {
                Some(task) => {
                    let state = Participation::Training { step: *step, steps: 0 };
                    self.run.handle_stands(&name(device), &task, state, self.now)
                }
                None => Vec::new(),
            },
            Act::Combine => match self.run.poll_combine() {
                Some(Combine { kind: TaskKind::Train, base, .. }) => self.run.handle_combined(model(base.number + 1)),
                Some(Combine { base, .. }) => self.run.handle_combined(base),
                None => Vec::new(),
            },
            Act::CannotCombine => self.run.handle_not_combined("overflow", self.now),
            Act::Pause => self.run.handle_pause(),
            Act::Continue => self.run.handle_continue(),
        };
        self.take(entries);
        self.settle();
    }

    /// What must hold of a whole history.
    fn check(&self) -> Result<(), TestCaseError> {
        let mut counted = BTreeSet::new();
        let mut open: Option<u64> = None;
        let mut combined: Vec<String> = Vec::new();
        let mut waiting: Vec<String> = Vec::new();
        let mut closed: Vec<String> = Vec::new();
        for entry in &self.log {
            match entry {
                Entry::RoundBegan { round, .. } => {
                    prop_assert_eq!(open.replace(*round), None, "a round began in a round");
                }
                Entry::Counted(update) => {
                    let key = (update.device.clone(), update.base.id, update.kind);
                    prop_assert!(counted.insert(key), "an update counts twice");
                    waiting.push(update.hash.clone());
                }
                Entry::Closed { .. } => closed.append(&mut waiting),
                Entry::Aggregated { round, .. } => {
                    prop_assert_eq!(open.take(), Some(*round));
                    combined.append(&mut closed);
                }
                Entry::RoundFailed { round, .. } => {
                    prop_assert_eq!(open.take(), Some(*round));
                    waiting.append(&mut closed);
                }
                _ => {}
            }
        }
        let of_run: BTreeSet<_> = self.run.pending.iter().chain(&self.run.closed).map(|update| &update.hash).collect();
        let of_training = |update: &&Counted| update.kind == TaskKind::Train && !combined.contains(&update.hash);
        let all =
            self.log.iter().filter_map(|entry| if let Entry::Counted(update) = entry { Some(update) } else { None });
        for lost in all.filter(of_training) {
            prop_assert!(of_run.contains(&lost.hash), "an update that counts was lost: {}", lost.device);
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn every_history_is_sound_and_a_restart_changes_nothing(plan in plans(), acts in acts(), restart in 0..120_usize) {
        let mut play = Play::new(plan.clone(), &[]);
        let mut sent = Vec::new();
        for (index, act) in acts.iter().enumerate() {
            play.act(act, &mut sent);
            if index == restart {
                let mut again = Run::new(play.plan.clone(), model(1));
                play.log.iter().for_each(|entry| again.apply(entry));
                let mut known = play.run.clone();
                known.assigned.values_mut().for_each(|work| work.said = None);
                prop_assert_eq!(&again, &known);
                play.run = again;
            }
        }
        play.check()?;
        // Left alone with nobody, every round that began ends.
        play.there.clear();
        while play.run.poll_combine().is_some() || matches!(play.run.phase(), Phase::Collecting { .. }) {
            if play.run.poll_combine().is_some() {
                play.act(&Act::Combine, &mut sent);
            } else {
                let at = play.run.poll_timeout(play.now).expect("a round that takes updates has an end");
                play.now = at;
                play.settle();
            }
        }
        play.check()?;
    }
}
