//! Who is selected for a round: a draw that depends on the plan's seed and on nothing else, among those who may take part.

use super::super::{DeviceReport, Eligibility, TaskKind};
use super::Run;

/// A device that is connected and that the plan's selector selects.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it says of itself.
    pub report: &'a DeviceReport,
    /// Whether it has as much to do as it does at once, for other runs.
    pub is_busy: bool,
    /// The minute of the day, in UTC.
    pub minute: u16,
}

impl Eligibility {
    /// What keeps a device from taking part, if something does.
    pub fn obstacle(&self, report: &DeviceReport, minute: u16) -> Option<String> {
        if self.on_power && report.on_power != Some(true) {
            return Some("it is not on mains power, or can't tell".to_owned());
        }
        if self.unmetered && report.unmetered != Some(true) {
            return Some("its link is metered, or it can't tell".to_owned());
        }
        if report.memory_free_bytes < self.memory_min {
            return Some(format!("{} bytes of memory are free, under {}", report.memory_free_bytes, self.memory_min));
        }
        if report.samples < self.samples_min {
            return Some(format!("it has {} samples, under {}", report.samples, self.samples_min));
        }
        let is_time = self.minutes.is_none_or(|(from, to)| {
            if from < to { (from..to).contains(&minute) } else { minute >= from || minute < to }
        });
        (!is_time).then(|| "it is not the time of day".to_owned())
    }
}

impl Run {
    /// What keeps a device from being selected for rounds of this kind, if something does.
    pub fn obstacle(&self, candidate: &Candidate<'_>, kind: TaskKind) -> Option<String> {
        let (plan, name, report) = (&self.plan, candidate.name, candidate.report);
        if self.counted.contains(&(self.head.id, kind, name.to_owned())) {
            return Some("its update is in".to_owned());
        }
        if self.assigned.contains_key(name) {
            return Some("it is at work".to_owned());
        }
        if let Some(reason) = self.gone.get(name).filter(|_| self.phase != super::Phase::Between) {
            return Some(reason.clone());
        }
        if self.refusals.get(name).is_some_and(|count| *count >= plan.refusals_max) {
            return Some(format!("its updates were refused {} times", plan.refusals_max));
        }
        if candidate.is_busy {
            return Some("it works for another run".to_owned());
        }
        if plan.program.is_some() && !report.takes_programs {
            return Some("it takes no programs from others".to_owned());
        }
        if plan.program.is_none() && !report.has_program {
            return Some("it has no training program".to_owned());
        }
        if !plan.encodings.iter().any(|encoding| report.encodings.contains(encoding)) {
            return Some(format!("it sends none of the encodings {}", plan.encodings.join(", ")));
        }
        plan.eligible.obstacle(report, candidate.minute)
    }

    /// At most `count` devices for a round: those whose hash with the seed and the round is least.
    pub(super) fn choose(&self, round: u64, kind: TaskKind, count: usize, candidates: &[Candidate<'_>]) -> Vec<String> {
        let free = candidates.iter().filter(|candidate| self.obstacle(candidate, kind).is_none());
        let mut drawn: Vec<_> = free.map(|candidate| (self.lot(round, candidate.name), candidate.name)).collect();
        drawn.sort_unstable();
        drawn.dedup();
        let mut chosen: Vec<_> = drawn.into_iter().take(count).map(|(_, name)| name.to_owned()).collect();
        chosen.sort_unstable();
        chosen
    }

    fn lot(&self, round: u64, name: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("headwater 2026 selection of devices for a round");
        hasher.update(&self.plan.seed.to_le_bytes());
        hasher.update(&round.to_le_bytes());
        hasher.update(name.as_bytes());
        *hasher.finalize().as_bytes()
    }
}
