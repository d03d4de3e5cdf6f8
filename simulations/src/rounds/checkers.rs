//! What must hold of a whole run.

use std::collections::{BTreeMap, BTreeSet};

use headwater_protocol::federated::{Entry, TaskKind};

use super::{Fact, History};

/// What is wrong with a run; nothing if all is well.
pub(super) fn check(history: &History) -> Vec<String> {
    let mut problems = Vec::new();
    once(history, &mut problems);
    nothing_lost(history, &mut problems);
    rounds_end(history, &mut problems);
    told_the_truth(history, &mut problems);
    made_once(history, &mut problems);
    same_combination(history, &mut problems);
    if !history.is_over {
        problems.push("end: the run is not over although all has been well for long".to_owned());
    }
    problems
}

/// An update counts at most once, and a device at most once for a model.
fn once(history: &History, problems: &mut Vec<String>) {
    let (mut updates, mut places) = (BTreeSet::new(), BTreeSet::new());
    for entry in &history.log {
        let Entry::Counted(counted) = entry else { continue };
        if !updates.insert((counted.device.clone(), counted.update)) {
            problems.push(format!("once: the update {} of {} counts twice", counted.update, counted.device));
        }
        if !places.insert((counted.base.id, counted.kind, counted.device.clone())) {
            problems.push(format!("once: {} counts twice for one model", counted.device));
        }
    }
}

/// What counts is in the combination of a round, or waits for one when the run ends. Judgements of a model that could not be judged
/// are of no use to anybody.
fn nothing_lost(history: &History, problems: &mut Vec<String>) {
    let mut known: BTreeSet<&String> = history.waiting.iter().collect();
    for fact in &history.facts {
        if let Fact::Combined(_, _, members) = fact {
            known.extend(members);
        }
    }
    for entry in &history.log {
        if let Entry::Counted(counted) = entry
            && counted.kind == TaskKind::Train
            && !known.contains(&counted.update.to_string())
        {
            problems
                .push(format!("lost: the update {} of {} counts, and is in no round", counted.update, counted.device));
        }
    }
}

/// Each round that begins ends before the next one does.
fn rounds_end(history: &History, problems: &mut Vec<String>) {
    let mut open = None;
    for entry in &history.log {
        match entry {
            Entry::RoundBegan { round, .. } => {
                if let Some(before) = open.replace(*round) {
                    problems.push(format!("rounds: round {round} began while round {before} had not ended"));
                }
            }
            Entry::Aggregated { .. } | Entry::RoundFailed { .. } | Entry::Ended { .. } => open = None,
            _ => {}
        }
    }
}

/// A device that was told that its update counts finds it in the log.
fn told_the_truth(history: &History, problems: &mut Vec<String>) {
    let counted: BTreeSet<_> = history
        .log
        .iter()
        .filter_map(|entry| match entry {
            Entry::Counted(counted) => Some((counted.device.clone(), counted.base.id, counted.kind)),
            _ => None,
        })
        .collect();
    for fact in &history.facts {
        if let Fact::ToldCounts(device, key) = fact
            && !counted.contains(&(super::device::name(*device), key.base, key.kind))
        {
            problems.push(format!(
                "told: {} was told that its update counts, which is not in the log",
                super::device::name(*device)
            ));
        }
    }
}

/// No update is made twice for one task, unless the core was done with the first.
fn made_once(history: &History, problems: &mut Vec<String>) {
    let mut made = BTreeSet::new();
    for fact in &history.facts {
        match fact {
            Fact::Made(device, key) if !made.insert((*device, key.clone())) => {
                problems.push(format!("again: {} made its update of {} twice", super::device::name(*device), key.base));
            }
            Fact::Wrote(Entry::Left { device, base, kind, .. } | Entry::Refused { device, base, kind, .. }) => {
                made.retain(|(other, key)| {
                    super::device::name(*other) != *device || key.base != base.id || key.kind != *kind
                });
            }
            Fact::ToldOver(device, key) => {
                made.remove(&(*device, key.clone()));
            }
            Fact::Wrote(Entry::RoundFailed { .. } | Entry::Aggregated { .. }) => made.clear(),
            _ => {}
        }
    }
}

/// A round that is combined again, after a kill, is combined of the same updates in the same order.
fn same_combination(history: &History, problems: &mut Vec<String>) {
    let mut known: BTreeMap<(u64, TaskKind), &Vec<String>> = BTreeMap::new();
    let mut failed = BTreeSet::new();
    for fact in &history.facts {
        match fact {
            Fact::Wrote(Entry::RoundFailed { round, .. }) => {
                failed.insert(*round);
            }
            Fact::Combined(round, kind, members)
                if !failed.contains(round)
                    && known.insert((*round, *kind), members).is_some_and(|before| before != members) =>
            {
                problems.push(format!("same: round {round} was combined of other updates after a kill"));
            }
            _ => {}
        }
    }
}
