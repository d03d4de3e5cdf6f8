//! What a run is to do, fixed when it begins.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::TaskKind;
use crate::id::VersionId;
use crate::trust::LabelSelector;

/// Most devices of one round.
pub const SELECTED_MAX: u32 = 100_000;
/// Most rounds of one run.
pub const ROUNDS_MAX: u64 = 1_000_000;

/// What the plan of a run says; times in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Plan {
    /// The model, as a dataset of the core's.
    pub model: String,
    /// What the rounds are for.
    pub kind: TaskKind,
    /// Rounds that are to be aggregated.
    pub rounds: u64,
    /// Which devices may take part.
    pub devices: LabelSelector,
    /// Fewer updates than these make no round.
    pub min_updates: u32,
    /// With so many updates a round is closed; at its deadline it makes do with the minimum.
    pub goal: u32,
    /// So many thousandths of the goal are selected, because some devices drop out.
    pub over_select: u32,
    /// How long a round may take.
    pub deadline: u64,
    /// How much longer it waits for devices that make progress, where it would fail without them.
    pub patience: u64,
    /// A device of which nothing new was heard for so long makes no progress; another may be selected beside it.
    pub stall: u64,
    /// What happens to updates that come after their round.
    pub late: Late,
    /// What a device must be to be selected.
    pub eligible: Eligibility,
    /// An update counts as if made from at most so many samples.
    pub samples_max: u64,
    /// A device whose updates were refused so often is selected no more.
    pub refusals_max: u32,
    /// After so many failed rounds in a row the run ends.
    pub failures_max: u32,
    /// After each so many rounds the new model is judged by devices; 0: never.
    pub evaluate_every: u64,
    /// Encodings of updates, the one that is liked best first.
    pub encodings: Vec<String>,
    /// The configuration for training programs: a JSON object.
    pub config: String,
    /// How updates are combined: a JSON object, which means something to whoever combines them.
    pub strategy: String,
    /// The program that devices run instead of their own.
    pub program: Option<Program>,
    /// Seed of the selection.
    pub seed: u64,
}

/// A version of a dataset that is a training program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// The dataset.
    pub dataset: String,
    /// The version's number.
    pub number: u64,
    /// Its id.
    pub version: VersionId,
}

/// What happens to an update that comes after its round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Late {
    /// It is refused.
    Refused,
    /// It counts in the round that then runs, if it was made from a model at most so many rounds older. Devices go on over the
    /// ends of rounds.
    Counts {
        /// Rounds.
        rounds_max: u64,
    },
}

/// What a device must report to be selected. What it can't tell counts as if it were not so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Eligibility {
    /// On mains power.
    pub on_power: bool,
    /// On a link that costs nothing by the byte.
    pub unmetered: bool,
    /// Bytes of memory for the program.
    pub memory_min: u64,
    /// Samples in the datasets that programs see.
    pub samples_min: u64,
    /// Minutes of the day in UTC, by the core's clock, between which devices are selected; from after to goes over midnight.
    pub minutes: Option<(u16, u16)>,
}

/// Minutes of a day.
pub const DAY_MINUTES: u16 = 24 * 60;

impl Default for Plan {
    fn default() -> Self {
        Self {
            model: String::new(),
            kind: TaskKind::Train,
            rounds: 1,
            devices: LabelSelector::default(),
            min_updates: 1,
            goal: 1,
            over_select: 1000,
            deadline: 3_600_000,
            patience: 600_000,
            stall: 120_000,
            late: Late::Refused,
            eligible: Eligibility::default(),
            samples_max: 1_000_000,
            refusals_max: 3,
            failures_max: 5,
            evaluate_every: 0,
            encodings: vec!["full".to_owned()],
            config: "{}".to_owned(),
            strategy: "{}".to_owned(),
            program: None,
            seed: 0,
        }
    }
}

/// A plan that can't be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A number is out of its bounds.
    #[error("`{key}` is {value}{unit}, and can be from {min}{unit} to {max}{unit}")]
    OutOfBounds {
        /// Which.
        key: &'static str,
        /// In what it is told, with a space before it, if in anything.
        unit: &'static str,
        /// What it is.
        value: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// More updates are needed than are waited for.
    #[error("a round needs {min_updates} updates (`min-updates`), but is closed with {goal} (`goal`)")]
    MoreThanGoal {
        /// Needed.
        min_updates: u32,
        /// Waited for.
        goal: u32,
    },
    /// The span of a day is none.
    #[error("`hours` from minute {from} to minute {to} are no part of a day")]
    Hours {
        /// From.
        from: u16,
        /// To.
        to: u16,
    },
    /// A model is judged again and again.
    #[error("a run that evaluates has one round, not {0}")]
    Rounds(u64),
    /// No encoding is left.
    #[error("`encodings` names none")]
    NoEncoding,
}

impl Plan {
    /// Devices that a round selects.
    pub fn selected(&self) -> u32 {
        let wanted = (u64::from(self.goal) * u64::from(self.over_select)).div_ceil(1000);
        u32::try_from(wanted).unwrap_or(SELECTED_MAX).min(SELECTED_MAX).max(self.goal)
    }

    /// How long a round may take.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline)
    }

    /// Checks what only shows when all is seen together.
    pub fn check(&self) -> Result<(), PlanError> {
        let bounds = [
            ("rounds", self.rounds, 1, ROUNDS_MAX),
            ("min-updates", u64::from(self.min_updates), 1, u64::from(SELECTED_MAX)),
            ("goal", u64::from(self.goal), 1, u64::from(SELECTED_MAX)),
            ("over-select", u64::from(self.over_select), 1000, 100_000),
            ("deadline", self.deadline, 1, 366 * 86_400_000),
            ("samples-max", self.samples_max, 1, 1 << 31),
            ("failures-max", u64::from(self.failures_max), 1, 1_000_000),
            ("refusals-max", u64::from(self.refusals_max), 1, 1_000_000),
        ];
        for (key, value, min, max) in bounds {
            if !(min..=max).contains(&value) {
                let unit = if key == "deadline" { " ms" } else { "" };
                return Err(PlanError::OutOfBounds { key, unit, value, min, max });
            }
        }
        if self.min_updates > self.goal {
            return Err(PlanError::MoreThanGoal { min_updates: self.min_updates, goal: self.goal });
        }
        if self.kind == TaskKind::Evaluate && self.rounds != 1 {
            return Err(PlanError::Rounds(self.rounds));
        }
        if let Some((from, to)) = self.eligible.minutes
            && (from == to || from >= DAY_MINUTES || to > DAY_MINUTES)
        {
            return Err(PlanError::Hours { from, to });
        }
        if self.encodings.is_empty() { Err(PlanError::NoEncoding) } else { Ok(()) }
    }
}
