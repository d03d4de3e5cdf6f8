//! What the sessions of one job agree on: which version a name stands for, and which version of a dataset they read. Pure.
//!
//! A job is known from its first session on until the grace time after its last one: ranks that start minutes apart, or all
//! of them again after a failure, read the same version although another was published meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_protocol::id::{ID_BYTES, PublicKey};
use headwater_protocol::time::Timestamp;

/// Jobs without sessions that are remembered; the one that ended first is forgotten for a new one.
const ENDED_MAX: usize = 16_384;
/// Names that one job resolves.
const NAMES_MAX: usize = 1024;

/// A job: an id, and whose. Who has another token has other jobs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JobKey {
    /// Whose.
    pub(crate) owner: PublicKey,
    /// Its id.
    pub(crate) job: String,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The number of the version or edition.
    pub(crate) number: u64,
    /// Its id.
    pub(crate) id: [u8; ID_BYTES],
}

/// The job has resolved as many names as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job reads up to {NAMES_MAX} names")]
pub(crate) struct TooManyNames;

/// Another session of the job reads another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disagreement {
    /// The rank that it declared.
    pub(crate) rank: u64,
    /// The number of its version.
    pub(crate) number: u64,
}

/// What one session reads of one dataset.
#[derive(Clone, Debug)]
struct Reads {
    rank: u64,
    dataset: String,
    what: Resolved,
}

#[derive(Debug, Default)]
struct Job {
    /// The sessions that live, each with what it declared of its sources.
    sessions: BTreeMap<u64, BTreeMap<u32, Reads>>,
    /// When the last session ended.
    ended: Option<Timestamp>,
    resolved: BTreeMap<String, Resolved>,
}

/// All jobs that are known.
#[derive(Debug)]
pub(crate) struct Jobs {
    grace: Duration,
    known: BTreeMap<JobKey, Job>,
}

impl Jobs {
    /// None yet; each is remembered for `grace` after its last session.
    pub(crate) fn new(grace: Duration) -> Self {
        Self { grace, known: BTreeMap::new() }
    }

    /// How many jobs have sessions.
    pub(crate) fn live(&self) -> usize {
        self.known.values().filter(|job| job.ended.is_none()).count()
    }

    /// A session of `key` begins.
    pub(crate) fn enter(&mut self, key: &JobKey, session: u64, now: Timestamp) {
        self.forget_ended(now);
        let job = self.known.entry(key.clone()).or_default();
        job.ended = None;
        job.sessions.insert(session, BTreeMap::new());
    }

    /// A session of `key` has ended.
    pub(crate) fn leave(&mut self, key: &JobKey, session: u64, now: Timestamp) {
        if let Some(job) = self.known.get_mut(key)
            && job.sessions.remove(&session).is_some()
            && job.sessions.is_empty()
        {
            job.ended = Some(now);
        }
        self.forget_ended(now);
    }

    fn forget_ended(&mut self, now: Timestamp) {
        let grace = self.grace;
        self.known.retain(|_, job| job.ended.is_none_or(|ended| now.since(ended) <= grace));
        let mut ended: Vec<_> = self.known.iter().filter_map(|(key, job)| Some((job.ended?, key.clone()))).collect();
        if ended.len() > ENDED_MAX {
            ended.sort();
            for (_, key) in ended.drain(..ended.len() - ENDED_MAX) {
                self.known.remove(&key);
            }
        }
    }

    /// What `name` stands for in the job, if that was settled.
    pub(crate) fn resolved(&self, key: &JobKey, name: &str) -> Option<Resolved> {
        self.known.get(key)?.resolved.get(name).copied()
    }

    /// Settles what `name` stands for in the job, if it was not; gives what it stands for.
    pub(crate) fn settle(&mut self, key: &JobKey, name: &str, found: Resolved) -> Result<Resolved, TooManyNames> {
        let Some(job) = self.known.get_mut(key) else { return Ok(found) };
        if !job.resolved.contains_key(name) && job.resolved.len() >= NAMES_MAX {
            return Err(TooManyNames);
        }
        Ok(*job.resolved.entry(name.to_owned()).or_insert(found))
    }

    /// What `name` stood for has gone.
    pub(crate) fn unsettle(&mut self, key: &JobKey, name: &str, gone: Resolved) {
        if let Some(job) = self.known.get_mut(key)
            && job.resolved.get(name) == Some(&gone)
        {
            job.resolved.remove(name);
        }
    }

    /// Source number `source` of a session is read by rank `rank` as `what` of `dataset`. Refused while another session of
    /// the job reads something else of it.
    pub(crate) fn declare(
        &mut self,
        key: &JobKey,
        (session, source): (u64, u32),
        rank: u64,
        dataset: &str,
        what: Resolved,
    ) -> Result<(), Disagreement> {
        let Some(job) = self.known.get_mut(key) else { return Ok(()) };
        let others = job.sessions.iter().filter(|(other, _)| **other != session).flat_map(|(_, reads)| reads.values());
        if let Some(other) = others.into_iter().find(|other| other.dataset == dataset && other.what != what) {
            return Err(Disagreement { rank: other.rank, number: other.what.number });
        }
        if let Some(reads) = job.sessions.get_mut(&session) {
            reads.insert(source, Reads { rank, dataset: dataset.to_owned(), what });
        }
        Ok(())
    }

    /// A session reads no more of one of its sources.
    pub(crate) fn close(&mut self, key: &JobKey, session: u64, source: u32) {
        if let Some(reads) = self.known.get_mut(key).and_then(|job| job.sessions.get_mut(&session)) {
            reads.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_mins(1);

    fn key(owner: u8, job: &str) -> JobKey {
        JobKey { owner: PublicKey([owner; 32]), job: job.to_owned() }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }

    fn version(number: u64) -> Resolved {
        Resolved { number, id: [u8::try_from(number).expect("small"); ID_BYTES] }
    }

    #[test]
    fn a_name_is_settled_once_while_the_job_lives_and_for_the_grace_time() {
        let (mut jobs, job) = (Jobs::new(GRACE), key(1, "a"));
        jobs.enter(&job, 1, at(0));
        assert_eq!(jobs.settle(&job, "cam@latest", version(7)), Ok(version(7)));
        jobs.enter(&job, 2, at(1));
        assert_eq!(jobs.settle(&job, "cam@latest", version(8)), Ok(version(7)), "another rank, later");
        jobs.enter(&key(2, "a"), 3, at(1));
        assert_eq!(jobs.resolved(&key(2, "a"), "cam@latest"), None, "another token's job of the same name");
        jobs.leave(&job, 1, at(2));
        jobs.leave(&job, 2, at(1000));
        jobs.enter(&job, 4, at(1060));
        assert_eq!(jobs.resolved(&job, "cam@latest"), Some(version(7)), "started again");
        jobs.leave(&job, 4, at(1060));
        jobs.enter(&job, 5, at(1121));
        assert_eq!(jobs.resolved(&job, "cam@latest"), None, "long after");
    }

    #[test]
    fn what_has_gone_is_resolved_anew() {
        let (mut jobs, job) = (Jobs::new(GRACE), key(1, "a"));
        jobs.enter(&job, 1, at(0));
        assert_eq!(jobs.settle(&job, "cam@latest", version(7)), Ok(version(7)));
        jobs.unsettle(&job, "cam@latest", version(6));
        assert_eq!(jobs.resolved(&job, "cam@latest"), Some(version(7)), "somebody else did so already");
        jobs.unsettle(&job, "cam@latest", version(7));
        assert_eq!(jobs.settle(&job, "cam@latest", version(9)), Ok(version(9)));
    }

    #[test]
    fn ranks_that_read_another_version_are_found() {
        let (mut jobs, job) = (Jobs::new(GRACE), key(1, "a"));
        for session in 1..=3 {
            jobs.enter(&job, session, at(0));
        }
        assert_eq!(jobs.declare(&job, (1, 1), 0, "cam", version(7)), Ok(()));
        assert_eq!(jobs.declare(&job, (2, 1), 1, "cam", version(7)), Ok(()));
        assert_eq!(jobs.declare(&job, (2, 2), 1, "lidar", version(8)), Ok(()), "another dataset");
        let other = Err(Disagreement { rank: 0, number: 7 });
        assert_eq!(jobs.declare(&job, (3, 1), 2, "cam", version(8)), other);
        jobs.leave(&job, 1, at(1));
        jobs.close(&job, 2, 1);
        assert_eq!(jobs.declare(&job, (3, 1), 2, "cam", version(8)), Ok(()), "nobody reads the other any more");
    }

    #[test]
    fn no_job_resolves_without_end() {
        let (mut jobs, job) = (Jobs::new(GRACE), key(1, "a"));
        jobs.enter(&job, 1, at(0));
        for number in 0..NAMES_MAX {
            jobs.settle(&job, &format!("cam@{number}x"), version(1)).expect("few enough");
        }
        assert_eq!(jobs.settle(&job, "one more", version(1)), Err(TooManyNames));
        assert_eq!(jobs.settle(&job, "cam@0x", version(2)), Ok(version(1)));
    }
}
