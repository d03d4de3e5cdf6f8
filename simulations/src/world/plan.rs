//! What runs are to be like: ranges and probabilities in a file, from which each seed draws its own world.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::random::Random;
use crate::recording;

/// The plan of runs for which nobody names one.
const DEFAULT: &str = include_str!("../../plans/default.toml");

/// A range of whole numbers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "(u64, u64)")]
pub struct Range {
    first: u64,
    last: u64,
}

impl TryFrom<(u64, u64)> for Range {
    type Error = String;

    fn try_from((first, last): (u64, u64)) -> Result<Self, String> {
        if first <= last { Ok(Self { first, last }) } else { Err(format!("[{first}, {last}] is no range")) }
    }
}

impl Range {
    /// From one number to another.
    pub(super) const fn of(first: u64, last: u64) -> Self {
        Self { first, last }
    }

    /// A number of it, each as likely.
    pub fn draw(self, random: &mut Random) -> u64 {
        random.between(self.first, self.last)
    }

    /// A number of it, each order of magnitude as likely.
    pub fn draw_scaled(self, random: &mut Random) -> u64 {
        let low = self.first.max(1);
        let doublings = u64::from((self.last / low).max(1).ilog2()) + 1;
        let most = low.saturating_mul(1 << random.below(doublings + 1)).min(self.last);
        random.between(self.first.min(most), most)
    }
}

/// A probability, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub struct Percent(u64);

impl TryFrom<u64> for Percent {
    type Error = String;

    fn try_from(percent: u64) -> Result<Self, String> {
        if percent <= 100 { Ok(Self(percent)) } else { Err(format!("{percent} is more than 100 percent")) }
    }
}

impl Percent {
    /// Whether it comes to pass.
    pub fn draw(self, random: &mut Random) -> bool {
        random.below(100) < self.0
    }
}

/// Why a plan can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file can't be read.
    #[error("the plan {path} can't be read")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A recorded link that it names can't be used.
    #[error("the plan {path} can't be used: {reason}")]
    Recording {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// It is no plan.
    #[error("the plan {path} can't be used: {source}")]
    Parse {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: Box<toml::de::Error>,
    },
}

/// A plan. What a file leaves out is as in the default one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Devices.
    pub devices: Range,
    /// How long there is trouble, in seconds; after that all is well until everything has come to rest.
    pub seconds: Range,
    /// Links.
    pub link: LinkPlan,
    /// Machines.
    pub machine: MachinePlan,
    /// What happens to links and machines.
    pub trouble: TroublePlan,
    /// What people do.
    pub users: UserPlan,
}

/// How links are. Drawn anew whenever a link changes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkPlan {
    /// Kilobits per second, scaled.
    pub rate_kbit: Range,
    /// A line's rate wanders.
    pub wandering: Percent,
    /// Travelling time one way, in milliseconds, scaled.
    pub delay_ms: Range,
    /// More of it for some, in milliseconds, scaled.
    pub jitter_ms: Range,
    /// A line loses anything at all.
    pub lossy: Percent,
    /// Then so many of ten thousand, while it is good.
    pub loss_good: Range,
    /// And so many of ten thousand while it is bad.
    pub loss_bad: Range,
    /// Datagrams between two bursts of losses, scaled.
    pub burst_every: Range,
    /// Datagrams of a burst, scaled.
    pub burst_length: Range,
    /// Of ten thousand datagrams, so many come twice.
    pub twice: Range,
    /// So many have a bit flipped.
    pub flipped: Range,
    /// So many are cut short.
    pub truncated: Range,
    /// Beside so many an old one comes again.
    pub replayed: Range,
    /// Beside so many one comes that nobody sent.
    pub garbage: Range,
    /// A device may send no more than so much in any second.
    pub capped: Percent,
    /// That cap, in kilobits, scaled.
    pub cap_kbit: Range,
    /// The core may send a device no more than so much in a second.
    pub down_capped: Percent,
    /// That cap, in kilobits, scaled.
    pub down_cap_kbit: Range,
    /// A device's link is closed for some minutes of each day of its clock.
    pub scheduled: Percent,
    /// The first of these minutes; clocks begin at midnight, but for wrong ones.
    pub closes_minute: Range,
    /// How many they are.
    pub closed_minutes: Range,
    /// A device's month may cost no more than so much.
    pub budgeted: Percent,
    /// So much for everything, in MiB; at least 10.
    pub month_mib: Range,
    /// And so much more for model updates alone.
    pub reserve_mib: Range,
    /// Files with recorded links, from the plan's own folder on: lines that wander are one of these.
    pub recorded: Vec<PathBuf>,
    /// What is in them.
    #[serde(skip)]
    pub(super) recordings: Vec<Arc<[u32]>>,
    /// A device checks in every minute, instead of staying connected.
    pub checks_in: Percent,
    /// Between a device and the core is a NAT.
    pub nat: Percent,
    /// It forgets a device after so many seconds of silence.
    pub nat_seconds: Range,
    /// How long a line's queue may be, in milliseconds, scaled.
    pub queue_ms: Range,
}

/// How machines are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachinePlan {
    /// How long a piece of work on the disk takes at most, in milliseconds, scaled.
    pub disk_ms: Range,
    /// Seconds between two scans of a folder.
    pub scan_seconds: Range,
    /// KiB after which a pack is sealed, scaled.
    pub pack_kib: Range,
    /// A device joins with a token, in the middle of everything.
    pub joins: Percent,
    /// Newest versions that the core keeps of a dataset; 0 keeps all.
    pub keep_last: Range,
    /// The clock begins at another time than the true one.
    pub clock_wrong: Percent,
    /// Parts in a million by which a clock is too fast.
    pub clock_drift: Range,
}

/// What happens, how often in a run. Whatever is for a device happens to a random one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TroublePlan {
    /// A link is cut.
    pub cuts: Range,
    /// For so many milliseconds, scaled.
    pub cut_ms: Range,
    /// A cut is of one direction only.
    pub one_way: Percent,
    /// A link stalls with the connection open: it carries small talk, and no payload.
    pub stalls: Range,
    /// For so many milliseconds, scaled.
    pub stall_ms: Range,
    /// The device's address changes.
    pub address_changes: Range,
    /// A link becomes another one.
    pub link_changes: Range,
    /// The core's process is killed.
    pub core_kills: Range,
    /// The core's process is killed in the middle of something that it does to its disk.
    pub core_kills_at_disk: Range,
    /// Somebody with the core's keys takes its place for a while, and asks devices for what is not its own.
    pub impostors: Range,
    /// A device's process is killed.
    pub device_kills: Range,
    /// A kill is a power cut: what was not synced goes in part.
    pub power: Percent,
    /// How long a machine is down, in milliseconds, scaled.
    pub down_ms: Range,
    /// The core's disk is full for a while.
    pub core_full: Range,
    /// For so many milliseconds, scaled.
    pub full_ms: Range,
    /// A device's disk is full for a while.
    pub device_full: Range,
    /// Operations of the core's disk fail.
    pub core_disk_errors: Range,
    /// The core collects garbage.
    pub collections: Range,
    /// The core reads everything again.
    pub verifications: Range,
    /// Bytes of the core's packs become others.
    pub damages: Range,
    /// A clock is set.
    pub clock_jumps: Range,
}

/// What people do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserPlan {
    /// Published folders of a device.
    pub folders: Range,
    /// A folder is published as a mirror.
    pub mirror: Percent,
    /// A dataset may be read by subscribers.
    pub open: Percent,
    /// A device subscribes to what it may read.
    pub subscribes: Percent,
    /// A device has a folder that never leaves it.
    pub local: Percent,
    /// Files in a folder at the start, scaled.
    pub files: Range,
    /// Bytes of a file, scaled.
    pub file_bytes: Range,
    /// How often somebody changes something in the folders of a device.
    pub changes: Range,
    /// How often somebody frees files.
    pub frees: Range,
    /// How often somebody deletes files by command.
    pub deletions: Range,
}

impl Plan {
    /// The default plan.
    pub fn standard() -> Self {
        toml::from_str(DEFAULT).expect("the default plan is a plan")
    }

    /// Links with caps, hours and budgets.
    pub(super) fn metered() -> Self {
        Self::parse(include_str!("../../plans/metered.toml")).expect("the plan is one")
    }

    /// The same with a budget for every device, and many a restart.
    pub(super) fn with_months(mut self) -> Self {
        self.link.budgeted = Percent(100);
        self.trouble.device_kills = Range::of(6, 9);
        self
    }

    /// A core whose packs are damaged.
    pub(super) fn damage() -> Self {
        Self::parse(include_str!("../../plans/damage.toml")).expect("the plan is one")
    }

    /// The plan in a file: what it says, and the default plan for the rest.
    pub fn load(path: &Path) -> Result<Self, PlanError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| PlanError::Read { path: name.clone(), source })?;
        let parsed = Self::parse(&text);
        let mut plan = parsed.map_err(|source| PlanError::Parse { path: name.clone(), source: Box::new(source) })?;
        for file in &plan.link.recorded {
            let read = recording::read(&path.parent().unwrap_or(Path::new("")).join(file));
            let times = read.map_err(|reason| PlanError::Recording { path: name.clone(), reason })?;
            let times = times.into_iter().map(|time| u32::try_from(time).unwrap_or(u32::MAX)).collect();
            plan.link.recordings.push(times);
        }
        Ok(plan)
    }

    fn parse(text: &str) -> Result<Self, toml::de::Error> {
        let mut whole: toml::Table = toml::from_str(DEFAULT)?;
        for (key, value) in toml::from_str::<toml::Table>(text)? {
            match (whole.get_mut(&key), value) {
                (Some(toml::Value::Table(section)), toml::Value::Table(said)) => section.extend(said),
                (_, value) => {
                    whole.insert(key, value);
                }
            }
        }
        whole.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_plans_can_be_used_and_unknown_keys_can_not() {
        Plan::standard();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans");
        let mut count = 0;
        for file in std::fs::read_dir(folder).expect("plans") {
            let path = file.expect("a plan").path();
            Plan::load(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            count += 1;
        }
        assert!(count > 1);
        for wrong in ["device = [1, 2]", "[link]\nrate = [1, 2]", "devices = [2, 1]", "[users]\nlocal = 101"] {
            assert!(Plan::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_in_their_range() {
        let mut random = Random::new(5);
        for (first, last) in [(0, 0), (0, 7), (1, 1), (3, 1000), (0, 1 << 40), (5, 5)] {
            let range = Range { first, last };
            for _ in 0..200 {
                assert!((first..=last).contains(&range.draw(&mut random)));
                let scaled = range.draw_scaled(&mut random);
                assert!((first..=last).contains(&scaled), "{scaled} of {range:?}");
            }
        }
    }
}
