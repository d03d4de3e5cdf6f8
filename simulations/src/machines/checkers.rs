//! What must hold of every run. Each checker looks at a whole history and knows nothing of how it came about.

use std::collections::{BTreeMap, BTreeSet};

use headwater_protocol::id::ChunkId;

use super::facts::{Fact, History};

/// Things that a receiver of the simulation's small versions may remember: its bound for any version, whatever its size.
const REMEMBERED_MAX: usize = 40_000;

/// A checker: none, or what it found.
type Checker = fn(&History) -> Option<String>;

/// All checkers by name.
pub const CHECKERS: &[(&str, Checker)] = &[
    ("what was acknowledged is kept", acknowledged_is_kept),
    ("versions are committed whole", committed_whole),
    ("versions are committed once", committed_once),
    ("a commit is heard only after it happened", heard_after_commit),
    ("wire bytes are bounded", wire_is_bounded),
    ("honest peers keep to the protocol", nobody_is_broken),
    ("memory is bounded", memory_is_bounded),
    ("the newest version arrives", newest_arrives),
];

/// What all checkers found in a history.
pub fn check(history: &History) -> Vec<String> {
    CHECKERS.iter().filter_map(|(name, checker)| Some(format!("{name}: {}", checker(history)?))).collect()
}

fn acknowledged_is_kept(history: &History) -> Option<String> {
    let (mut durable, mut acknowledged) = (BTreeSet::new(), BTreeSet::new());
    for fact in &history.facts {
        match fact {
            Fact::Durable(ids) => durable.extend(ids),
            Fact::Lost(ids) => durable.retain(|id| !ids.contains(id)),
            Fact::Acknowledged(ids) => acknowledged.extend(ids),
            _ => continue,
        }
        if let Some(lost) = acknowledged.iter().find(|id| !durable.contains(**id)) {
            let lost: &ChunkId = lost;
            return Some(format!("chunk {} is acknowledged and not durable", lost.short()));
        }
    }
    None
}

fn committed_whole(history: &History) -> Option<String> {
    let mut durable = BTreeSet::new();
    for fact in &history.facts {
        match fact {
            Fact::Durable(ids) => durable.extend(ids),
            Fact::Lost(ids) => durable.retain(|id| !ids.contains(id)),
            Fact::Committed(version) => {
                let parts = &history.versions[*version].bytes;
                if let Some(lacking) = parts.keys().find(|id| !durable.contains(id)) {
                    return Some(format!("version {version} was committed without {}", lacking.short()));
                }
            }
            _ => {}
        }
    }
    None
}

fn committed_once(history: &History) -> Option<String> {
    let mut times = BTreeMap::<usize, usize>::new();
    for fact in &history.facts {
        if let Fact::Committed(version) = fact {
            *times.entry(*version).or_default() += 1;
        }
    }
    times.into_iter().find(|(_, times)| *times > 1).map(|(version, times)| format!("version {version}, {times} times"))
}

fn heard_after_commit(history: &History) -> Option<String> {
    let mut committed = BTreeSet::new();
    history.facts.iter().find_map(|fact| match fact {
        Fact::Committed(version) => {
            committed.insert(*version);
            None
        }
        Fact::HeardCommit(version) if !committed.contains(version) => Some(format!("version {version}")),
        _ => None,
    })
}

/// Everything travels once, but for what was of no use and at most a window for each transfer that did not end well.
fn wire_is_bounded(history: &History) -> Option<String> {
    let mut distinct = BTreeMap::new();
    for version in &history.versions {
        distinct.extend(version.bytes.iter().map(|(id, bytes)| (*id, *bytes)));
    }
    let mut allowed: u64 = distinct.values().sum();
    let (mut sent, mut began, mut well) = (0, 0, 0);
    for fact in &history.facts {
        match fact {
            Fact::Sent(bytes) => sent += bytes,
            Fact::Unusable(bytes) => allowed += bytes,
            Fact::Began => began += 1,
            Fact::HeardCommit(_) => well += 1,
            _ => {}
        }
    }
    allowed += (began - well) * history.window_bytes;
    (sent > allowed).then(|| format!("{sent} bytes were sent where {allowed} suffice"))
}

fn nobody_is_broken(history: &History) -> Option<String> {
    history.facts.iter().find_map(|fact| match fact {
        Fact::Broken(what) => Some(what.clone()),
        _ => None,
    })
}

fn memory_is_bounded(history: &History) -> Option<String> {
    history.facts.iter().find_map(|fact| match fact {
        Fact::Remembered(things) if *things > REMEMBERED_MAX => Some(format!("{things} things were remembered")),
        _ => None,
    })
}

fn newest_arrives(history: &History) -> Option<String> {
    for fact in &history.facts {
        match fact {
            Fact::StoodStill => return Some("nothing was left to do, and it was not over".into()),
            Fact::Endless => return Some("it did not end".into()),
            _ => {}
        }
    }
    let newest = history.versions.len() - 1;
    let heard = history.facts.contains(&Fact::HeardCommit(newest));
    (!heard).then(|| format!("version {newest} was never heard to be committed"))
}
