//! What a person says of a run, as flags and as `run.toml`, and the plan that it means.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_aggregate::Strategy;
use headwater_host::config::{HumanBytes, HumanDuration, Problem, Validate};
use headwater_protocol::federated::{CONFIG_BYTES_MAX, Eligibility, Late, Plan, Program, RunName, TaskKind};
use headwater_protocol::tensors::encoding::Encoding;
use headwater_protocol::trust::LabelSelector;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Combiner;

/// Rounds for which updates count after their own, where the strategy takes late ones and nobody says otherwise.
const LATE_ROUNDS_DEFAULT: u64 = 10;
/// Thousandths of one.
const THOUSAND: f64 = 1000.0;

/// What a person says of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSettings {
    /// Its name; empty: the model's last part, with a number if that is taken.
    pub run: String,
    /// The model: `NAME`, or `NAME@3`.
    pub model: String,
    /// How updates are combined, as `fedadam:eta=0.01`; or the path of a program on the core's machine that does it.
    pub strategy: String,
    /// `train`, or `evaluate` for one round of metrics alone.
    pub kind: String,
    /// Rounds.
    pub rounds: u64,
    /// Which devices, as `site=berlin,line=3`; empty: all.
    pub devices: String,
    /// Fewest updates of a round.
    pub min_updates: u32,
    /// With so many updates a round is closed; 0: with `min_updates`.
    pub goal: u32,
    /// So many times the goal are selected.
    pub over_select: f64,
    /// How long a round may take.
    pub deadline: HumanDuration,
    /// How much longer it waits for devices that make progress, where it would fail without them.
    pub patience: HumanDuration,
    /// After so long a silence a device makes no progress.
    pub stall: HumanDuration,
    /// For how many rounds after its own an update still counts; none: what the strategy wants.
    pub late_rounds: Option<u64>,
    /// After each so many rounds the new model is judged by devices; 0: never.
    pub evaluate_every: u64,
    /// Encodings of updates, the one that is liked best first: `full`, `bf16`, `int8`.
    pub encodings: Vec<String>,
    /// An update counts as at most so many samples.
    pub samples_max: u64,
    /// A device whose updates were refused so often is left out.
    pub refusals_max: u32,
    /// After so many failed rounds in a row the run ends.
    pub failures_max: u32,
    /// A program that devices run instead of their own: a dataset's version, as `programs/digits@2`.
    pub program: String,
    /// Seed of the selection.
    pub seed: u64,
    /// What a device must be to be selected.
    pub eligible: EligibleSettings,
    /// What training programs find in their task.
    pub config: BTreeMap<String, Value>,
}

/// What a device must be to be selected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EligibleSettings {
    /// On mains power.
    pub on_power: bool,
    /// On a link that costs nothing by the byte.
    pub unmetered: bool,
    /// Memory that a program can have.
    pub memory: HumanBytes,
    /// Samples in the datasets that programs see.
    pub samples: u64,
    /// Hours in which devices are selected, in UTC, as `22:00-06:00`; empty: all.
    pub hours: String,
}

impl Default for RunSettings {
    fn default() -> Self {
        let plan = Plan::default();
        let span = |milliseconds| HumanDuration(Duration::from_millis(milliseconds));
        Self {
            run: String::new(),
            model: String::new(),
            strategy: "fedavg".to_owned(),
            kind: "train".to_owned(),
            rounds: plan.rounds,
            devices: String::new(),
            min_updates: plan.min_updates,
            goal: 0,
            over_select: 1.0,
            deadline: span(plan.deadline),
            patience: span(plan.patience),
            stall: span(plan.stall),
            late_rounds: None,
            evaluate_every: 0,
            encodings: plan.encodings,
            samples_max: plan.samples_max,
            refusals_max: plan.refusals_max,
            failures_max: plan.failures_max,
            program: String::new(),
            seed: 0,
            eligible: EligibleSettings::default(),
            config: BTreeMap::new(),
        }
    }
}

impl RunSettings {
    /// The plan, but for the program, whose version is `program`.
    pub(crate) fn plan(&self, program: Option<Program>) -> Result<Plan, Problem> {
        let of_key = |key: &str, error: &dyn std::fmt::Display| Problem::of_key(key, error.to_string());
        let combiner: Combiner = self.strategy.parse().map_err(|error| of_key("strategy", &error))?;
        let strategy = combiner.strategy();
        let devices = LabelSelector::parse(&self.devices).map_err(|error| of_key("devices", &error))?;
        for encoding in &self.encodings {
            encoding.parse::<Encoding>().map_err(|error| of_key("encodings", &error))?;
        }
        if let Some(strategy) = strategy.filter(|strategy| self.samples_max > strategy.samples_max()) {
            let message = format!("`{}` can weigh {} samples at most", strategy.name(), strategy.samples_max());
            return Err(Problem::of_key("samples_max", message));
        }
        if let Some(strategy) = strategy.filter(|strategy| u64::from(self.min_updates) < strategy.updates_min()) {
            let message = format!("`{}` needs {} updates in each round", self.strategy, strategy.updates_min());
            return Err(Problem::of_key("min_updates", message));
        }
        let kind = match self.kind.as_str() {
            "train" => TaskKind::Train,
            "evaluate" => TaskKind::Evaluate,
            other => return Err(Problem::of_key("kind", format!("`{other}` is neither `train` nor `evaluate`"))),
        };
        let takes_late = strategy.is_some_and(Strategy::is_asynchronous);
        let late_rounds = self.late_rounds.unwrap_or(if takes_late { LATE_ROUNDS_DEFAULT } else { 0 });
        let mut config = self.config.clone();
        if let Some((key, value)) = strategy.and_then(Strategy::for_devices) {
            config.insert(key.to_owned(), value.into());
        }
        let config = serde_json::to_string(&config).expect("JSON of JSON");
        if config.len() > CONFIG_BYTES_MAX {
            return Err(Problem::of_key("config", format!("it has {} bytes, over {CONFIG_BYTES_MAX}", config.len())));
        }
        let over_select = self.over_select * THOUSAND;
        if !(THOUSAND..=100.0 * THOUSAND).contains(&over_select) {
            return Err(Problem::of_key("over_select", format!("{} is not from 1 to 100", self.over_select)));
        }
        let plan = Plan {
            model: self.model.split('@').next().unwrap_or_default().to_owned(),
            kind,
            rounds: self.rounds,
            devices,
            min_updates: self.min_updates,
            goal: if self.goal == 0 { self.min_updates } else { self.goal },
            over_select: over_select.round() as u32,
            deadline: millis(self.deadline),
            patience: millis(self.patience),
            stall: millis(self.stall),
            late: if late_rounds == 0 { Late::Refused } else { Late::Counts { rounds_max: late_rounds } },
            eligible: self.eligible.checked()?,
            samples_max: self.samples_max,
            refusals_max: self.refusals_max,
            failures_max: self.failures_max,
            evaluate_every: self.evaluate_every,
            encodings: self.encodings.clone(),
            config,
            strategy: serde_json::to_string(&combiner).expect("a strategy is plain data"),
            program,
            seed: self.seed,
        };
        plan.check().map_err(|error| of_key("", &error))?;
        Ok(plan)
    }
}

impl Validate for RunSettings {
    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<_> = self.plan(None).err().into_iter().collect();
        if self.model.is_empty() {
            problems.push(Problem::of_key("model", "say which model is trained"));
        }
        if !self.run.is_empty()
            && let Err(error) = RunName::new(self.run.as_str())
        {
            problems.push(Problem::of_key("run", error.to_string()));
        }
        problems
    }
}

impl EligibleSettings {
    fn checked(&self) -> Result<Eligibility, Problem> {
        let minutes = match self.hours.as_str() {
            "" => None,
            hours => Some(minutes(hours).ok_or_else(|| {
                Problem::of_key("eligible.hours", format!("`{hours}` are no hours, as `22:00-06:00`"))
            })?),
        };
        Ok(Eligibility {
            on_power: self.on_power,
            unmetered: self.unmetered,
            memory_min: self.memory.0,
            samples_min: self.samples,
            minutes,
        })
    }
}

/// Minutes of a day from `22:00-06:00`.
fn minutes(hours: &str) -> Option<(u16, u16)> {
    let minute = |text: &str| {
        let (hour, minute) = text.trim().split_once(':')?;
        let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
        (hour <= 24 && minute < 60).then_some(hour * 60 + minute)
    };
    let (from, to) = hours.split_once('-')?;
    Some((minute(from)?, minute(to)?))
}

fn millis(span: HumanDuration) -> u64 {
    u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> RunSettings {
        RunSettings { model: "digits".to_owned(), ..RunSettings::default() }
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let plan = settings().plan(None).expect("a plan");
        assert_eq!((plan.goal, plan.late), (1, Late::Refused));
        let late = RunSettings { strategy: "fedbuff".to_owned(), ..settings() }.plan(None).expect("a plan").late;
        assert_eq!(late, Late::Counts { rounds_max: 10 });
        let prox = RunSettings { strategy: "fedprox:mu=0.5".to_owned(), ..settings() }.plan(None).expect("a plan");
        assert_eq!(prox.config, r#"{"proximal-mu":0.5}"#);
    }

    #[test]
    fn what_can_t_be_is_placed() {
        let said =
            |settings: RunSettings| settings.problems().iter().map(Problem::to_string).collect::<Vec<_>>().join("\n");
        assert!(said(RunSettings::default()).contains("model"));
        assert!(said(RunSettings { strategy: "fedavgg".to_owned(), ..settings() }).contains("`fedavg`?"));
        assert!(said(RunSettings { strategy: "krum".to_owned(), ..settings() }).contains("5 updates"));
        assert!(said(RunSettings { over_select: 0.5, ..settings() }).contains("over_select"));
        assert!(said(RunSettings { goal: 1, min_updates: 2, ..settings() }).contains("min-updates"));
        let eligible = EligibleSettings { hours: "10-12".to_owned(), ..EligibleSettings::default() };
        assert!(said(RunSettings { eligible, ..settings() }).contains("eligible.hours"));
    }

    #[test]
    fn hours_are_minutes() {
        assert_eq!(minutes("22:00-06:30"), Some((1320, 390)));
        for bad in ["22-6", "22:61-23:00", "", "a:b-c:d"] {
            assert_eq!(minutes(bad), None, "{bad}");
        }
    }
}
