//! How updates are combined, as people write it: `fedadam:eta=0.01,clip=adaptive`.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a staleness factor of one is as an integer weight: factors are rounded to such parts before anything is summed.
pub const STALENESS_ONE: u64 = 256;

/// How updates are combined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Strategy {
    /// What is made of the updates.
    #[serde(flatten)]
    pub rule: Rule,
    /// Updates whose L2 norm is over this are scaled down to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<Bound>,
    /// Updates with an element whose magnitude is over this count as if they changed nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero: Option<Bound>,
}

/// What is made of the updates. `eta` is the server's learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "strategy", rename_all = "kebab-case")]
pub enum Rule {
    /// x += η·Δ, Δ the mean of the updates, weighted by samples (McMahan et al. 2017).
    Fedavg {
        /// η.
        eta: f64,
    },
    /// v = β·v + Δ; x += η·v (Hsu et al. 2019).
    Fedavgm {
        /// η.
        eta: f64,
        /// β.
        momentum: f64,
    },
    /// m = β₁·m + (1−β₁)·Δ; v += Δ²; x += η·m/(√v+τ) (Reddi et al. 2021, algorithm 2; v begins as τ²).
    Fedadagrad {
        /// η.
        eta: f64,
        /// β₁.
        beta1: f64,
        /// τ.
        tau: f64,
    },
    /// The same with v = β₂·v + (1−β₂)·Δ².
    Fedadam {
        /// η.
        eta: f64,
        /// β₁.
        beta1: f64,
        /// β₂.
        beta2: f64,
        /// τ.
        tau: f64,
    },
    /// The same with v −= (1−β₂)·Δ²·sign(v−Δ²).
    Fedyogi {
        /// η.
        eta: f64,
        /// β₁.
        beta1: f64,
        /// β₂.
        beta2: f64,
        /// τ.
        tau: f64,
    },
    /// Combined like `fedavg`; devices add μ/2·‖x−x₀‖² to their loss (Li et al. 2020): μ is in their task as `proximal-mu`.
    Fedprox {
        /// η.
        eta: f64,
        /// μ.
        mu: f64,
    },
    /// Buffered asynchronous rounds (Nguyen et al. 2022): x += η·Σ n·s(τ)·Δ / Σ n with n samples, staleness τ in models and
    /// s(τ) = (1+τ)^−½, rounded to 1/256. As in the paper, what is stale moves the model less: s is not in the divisor.
    Fedbuff {
        /// η.
        eta: f64,
    },
    /// x += η·median of each element; devices count alike.
    Median {
        /// η.
        eta: f64,
    },
    /// x += η·mean of each element without the ⌊β·n⌋ least and the ⌊β·n⌋ largest; devices count alike (Yin et al. 2018).
    TrimmedMean {
        /// η.
        eta: f64,
        /// β.
        beta: f64,
    },
    /// x += η·the update with the least sum of squared distances to its n−f−2 nearest (Blanchard et al. 2017).
    Krum {
        /// η.
        eta: f64,
        /// f, the devices that may send anything; n has to be at least 2f+3.
        byzantine: u32,
    },
    /// x += η·mean of the `keep` updates that Krum likes best; devices count alike.
    MultiKrum {
        /// η.
        eta: f64,
        /// f.
        byzantine: u32,
        /// How many; 0: n−f.
        keep: u32,
    },
}

/// A bound on updates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Bound {
    /// This.
    Fixed(f64),
    /// An estimate of a quantile of what updates have, made better each round: e ·= exp(−rate·(share of updates at most e − quantile))
    /// (Andrew et al. 2021). The bound is multiplier·e + increment.
    Adaptive {
        /// The estimate of the first round.
        initial: f64,
        /// Which quantile.
        quantile: f64,
        /// How fast.
        rate: f64,
        /// Of the estimate.
        multiplier: f64,
        /// Added.
        increment: f64,
    },
}

impl Bound {
    /// TensorFlow Federated's default for clipping.
    pub const CLIP: Self = Self::Adaptive { initial: 1.0, quantile: 0.8, rate: 0.2, multiplier: 1.0, increment: 0.0 };
    /// TensorFlow Federated's default for zeroing: ln 10 is the rate.
    pub const ZERO: Self = Self::Adaptive {
        initial: 10.0,
        quantile: 0.98,
        rate: std::f64::consts::LN_10,
        multiplier: 2.0,
        increment: 1.0,
    };

    /// The bound, where `estimate` is what the round before left.
    pub(crate) fn value(self, estimate: Option<f64>) -> f64 {
        match self {
            Self::Fixed(value) => value,
            Self::Adaptive { initial, multiplier, increment, .. } => {
                multiplier * estimate.unwrap_or(initial) + increment
            }
        }
    }

    /// The estimate for the next round, where this round's updates have `norms`.
    pub(crate) fn next(self, estimate: Option<f64>, norms: &[f64]) -> Option<f64> {
        let Self::Adaptive { initial, quantile, rate, .. } = self else { return None };
        let now = estimate.unwrap_or(initial);
        let below = norms.iter().filter(|norm| **norm <= now).count();
        let share = below as f64 / norms.len().max(1) as f64;
        Some((now * libm::exp(-rate * (share - quantile))).clamp(1e-30, 1e30))
    }
}

/// A text that is no strategy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrategyError {
    /// There is none of this name.
    #[error("there is no strategy `{name}`{}", meant(.nearest.as_deref()))]
    Unknown {
        /// What was written.
        name: String,
        /// What it is most like.
        nearest: Option<String>,
    },
    /// It has no such parameter.
    #[error("`{strategy}` has no parameter `{key}`{}", meant(.nearest.as_deref()))]
    Parameter {
        /// The strategy.
        strategy: String,
        /// What was written.
        key: String,
        /// What it is most like.
        nearest: Option<String>,
    },
    /// A parameter is no number within its bounds.
    #[error("`{key}={value}`: it can be from {min} to {max}")]
    Value {
        /// Which.
        key: String,
        /// What was written.
        value: String,
        /// The least.
        min: String,
        /// The most.
        max: String,
    },
    /// A part is no `key=value`.
    #[error("`{0}` is no `parameter=value`")]
    Form(String),
}

fn meant(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// All names.
const NAMES: [&str; 11] = [
    "fedavg",
    "fedavgm",
    "fedadagrad",
    "fedadam",
    "fedyogi",
    "fedprox",
    "fedbuff",
    "median",
    "trimmed-mean",
    "krum",
    "multi-krum",
];

/// Names that are further apart than this are not taken for each other.
const LIKENESS_MIN: f64 = 0.7;

fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let likeness = |name: &str| strsim::jaro_winkler(word, name);
    let best = known.max_by(|left, right| likeness(left).total_cmp(&likeness(right)));
    best.filter(|name| likeness(name) >= LIKENESS_MIN).map(str::to_owned)
}

impl Strategy {
    /// Only this rule.
    pub fn of(rule: Rule) -> Self {
        Self { rule, clip: None, zero: None }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self.rule {
            Rule::Fedavg { .. } => "fedavg",
            Rule::Fedavgm { .. } => "fedavgm",
            Rule::Fedadagrad { .. } => "fedadagrad",
            Rule::Fedadam { .. } => "fedadam",
            Rule::Fedyogi { .. } => "fedyogi",
            Rule::Fedprox { .. } => "fedprox",
            Rule::Fedbuff { .. } => "fedbuff",
            Rule::Median { .. } => "median",
            Rule::TrimmedMean { .. } => "trimmed-mean",
            Rule::Krum { .. } => "krum",
            Rule::MultiKrum { .. } => "multi-krum",
        }
    }

    /// The server's learning rate.
    pub(crate) fn eta(&self) -> f64 {
        match self.rule {
            Rule::Fedavg { eta }
            | Rule::Fedavgm { eta, .. }
            | Rule::Fedadagrad { eta, .. }
            | Rule::Fedadam { eta, .. }
            | Rule::Fedyogi { eta, .. }
            | Rule::Fedprox { eta, .. }
            | Rule::Fedbuff { eta }
            | Rule::Median { eta }
            | Rule::TrimmedMean { eta, .. }
            | Rule::Krum { eta, .. }
            | Rule::MultiKrum { eta, .. } => eta,
        }
    }

    /// The integer weight of an update of `samples` samples that was made `staleness` models ago.
    pub(crate) fn weight(&self, samples: u64, staleness: u64) -> u64 {
        match self.rule {
            Rule::Fedbuff { .. } => {
                let factor = 1.0 / ((1 + staleness) as f64).sqrt();
                (samples as f64 * STALENESS_ONE as f64 * factor).round_ties_even() as u64
            }
            _ => samples,
        }
    }

    /// What `samples` add to the divisor.
    pub(crate) fn divisor(&self, samples: u64) -> u64 {
        match self.rule {
            Rule::Fedbuff { .. } => samples * STALENESS_ONE,
            _ => samples,
        }
    }

    /// Most samples that an update may count as.
    pub fn samples_max(&self) -> u64 {
        match self.rule {
            Rule::Fedbuff { .. } => (super::UPDATE_WEIGHT_MAX - 1) / STALENESS_ONE,
            _ => super::UPDATE_WEIGHT_MAX - 1,
        }
    }

    /// Whether updates made from older models are combined too.
    pub fn is_asynchronous(&self) -> bool {
        matches!(self.rule, Rule::Fedbuff { .. })
    }

    /// Fewest updates that can be combined.
    pub fn updates_min(&self) -> u64 {
        match self.rule {
            Rule::Krum { byzantine, .. } | Rule::MultiKrum { byzantine, .. } => 2 * u64::from(byzantine) + 3,
            _ => 1,
        }
    }

    /// What devices are told of the strategy, as a parameter's name and value.
    pub fn for_devices(&self) -> Option<(&'static str, f64)> {
        match self.rule {
            Rule::Fedprox { mu, .. } => Some(("proximal-mu", mu)),
            _ => None,
        }
    }
}

impl FromStr for Strategy {
    type Err = StrategyError;

    fn from_str(text: &str) -> Result<Self, StrategyError> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let mut given = Given::new(name, rest)?;
        let rate = 1e-12..=1e6;
        let share = 0.0..=0.999_999;
        let rule = match name {
            "fedavg" => Rule::Fedavg { eta: given.take("eta", 1.0, rate)? },
            "fedavgm" => {
                Rule::Fedavgm { eta: given.take("eta", 1.0, rate)?, momentum: given.take("momentum", 0.9, share)? }
            }
            "fedadagrad" => Rule::Fedadagrad {
                eta: given.take("eta", 0.1, rate)?,
                beta1: given.take("beta1", 0.0, share)?,
                tau: given.take("tau", 1e-3, 1e-12..=1.0)?,
            },
            "fedadam" => Rule::Fedadam {
                eta: given.take("eta", 0.1, rate)?,
                beta1: given.take("beta1", 0.9, share.clone())?,
                beta2: given.take("beta2", 0.99, share)?,
                tau: given.take("tau", 1e-3, 1e-12..=1.0)?,
            },
            "fedyogi" => Rule::Fedyogi {
                eta: given.take("eta", 0.1, rate)?,
                beta1: given.take("beta1", 0.9, share.clone())?,
                beta2: given.take("beta2", 0.99, share)?,
                tau: given.take("tau", 1e-3, 1e-12..=1.0)?,
            },
            "fedprox" => Rule::Fedprox { eta: given.take("eta", 1.0, rate)?, mu: given.take("mu", 0.01, 0.0..=1e6)? },
            "fedbuff" => Rule::Fedbuff { eta: given.take("eta", 1.0, rate)? },
            "median" => Rule::Median { eta: given.take("eta", 1.0, rate)? },
            "trimmed-mean" => {
                Rule::TrimmedMean { eta: given.take("eta", 1.0, rate)?, beta: given.take("beta", 0.2, 0.0..=0.499)? }
            }
            "krum" => Rule::Krum { eta: given.take("eta", 1.0, rate)?, byzantine: given.count("byzantine", 1)? },
            "multi-krum" => Rule::MultiKrum {
                eta: given.take("eta", 1.0, rate)?,
                byzantine: given.count("byzantine", 1)?,
                keep: given.count("keep", 0)?,
            },
            _ => {
                let nearest = nearest(name, NAMES.into_iter());
                return Err(StrategyError::Unknown { name: name.chars().take(64).collect(), nearest });
            }
        };
        let clip = given.bound("clip", Bound::CLIP)?;
        let zero = given.bound("zero", Bound::ZERO)?;
        given.finish()?;
        Ok(Self { rule, clip, zero })
    }
}

/// Parameters as they were written, taken one by one.
struct Given<'a> {
    strategy: &'a str,
    rest: Vec<(&'a str, &'a str)>,
    known: Vec<&'static str>,
}

impl<'a> Given<'a> {
    fn new(strategy: &'a str, text: &'a str) -> Result<Self, StrategyError> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let rest = parts.map(|part| part.split_once('=').ok_or_else(|| StrategyError::Form(part.to_owned())));
        Ok(Self { strategy, rest: rest.collect::<Result<_, _>>()?, known: Vec::new() })
    }

    fn text(&mut self, key: &'static str) -> Option<&'a str> {
        self.known.push(key);
        let index = self.rest.iter().position(|(given, _)| *given == key)?;
        Some(self.rest.remove(index).1)
    }

    fn take(&mut self, key: &'static str, default: f64, bounds: RangeInclusive<f64>) -> Result<f64, StrategyError> {
        match self.text(key) {
            None => Ok(default),
            Some(text) => number(key, text, &bounds),
        }
    }

    fn count(&mut self, key: &'static str, default: u32) -> Result<u32, StrategyError> {
        let Some(text) = self.text(key) else { return Ok(default) };
        text.parse().ok().filter(|count| *count <= 100_000).ok_or_else(|| StrategyError::Value {
            key: key.to_owned(),
            value: text.to_owned(),
            min: "0".to_owned(),
            max: "100000".to_owned(),
        })
    }

    fn bound(&mut self, key: &'static str, adaptive: Bound) -> Result<Option<Bound>, StrategyError> {
        match self.text(key) {
            None => Ok(None),
            Some("adaptive") => Ok(Some(adaptive)),
            Some(text) => number(key, text, &(1e-12..=1e12)).map(|value| Some(Bound::Fixed(value))),
        }
    }

    fn finish(self) -> Result<(), StrategyError> {
        let Some((key, _)) = self.rest.first() else { return Ok(()) };
        let nearest = nearest(key, self.known.into_iter());
        Err(StrategyError::Parameter { strategy: self.strategy.to_owned(), key: (*key).to_owned(), nearest })
    }
}

fn number(key: &str, text: &str, bounds: &RangeInclusive<f64>) -> Result<f64, StrategyError> {
    text.parse().ok().filter(|value| bounds.contains(value)).ok_or_else(|| {
        let mut shown = [String::new(), String::new()];
        for (shown, bound) in shown.iter_mut().zip([bounds.start(), bounds.end()]) {
            let _ = write!(shown, "{bound:?}");
        }
        let [min, max] = shown;
        StrategyError::Value { key: key.to_owned(), value: text.to_owned(), min, max }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        let strategy: Strategy = "fedadam:eta=0.01,clip=adaptive,zero=5".parse().expect("a strategy");
        assert_eq!(strategy.rule, Rule::Fedadam { eta: 0.01, beta1: 0.9, beta2: 0.99, tau: 1e-3 });
        assert_eq!((strategy.clip, strategy.zero), (Some(Bound::CLIP), Some(Bound::Fixed(5.0))));
        for name in NAMES {
            let strategy: Strategy = name.parse().expect(name);
            assert_eq!(strategy.name(), name);
            let json = serde_json::to_string(&strategy).expect("plain data");
            assert_eq!(serde_json::from_str::<Strategy>(&json).expect(&json), strategy);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let said = |text: &str| text.parse::<Strategy>().expect_err(text).to_string();
        assert_eq!(said("fedadm"), "there is no strategy `fedadm`; did you mean `fedadam`?");
        assert_eq!(said("xyz"), "there is no strategy `xyz`");
        assert_eq!(said("fedavg:etaa=1"), "`fedavg` has no parameter `etaa`; did you mean `eta`?");
        assert_eq!(said("fedavg:eta=NaN"), "`eta=NaN`: it can be from 1e-12 to 1000000.0");
        assert_eq!(said("krum:byzantine=-1"), "`byzantine=-1`: it can be from 0 to 100000");
        assert_eq!(said("fedavg:eta"), "`eta` is no `parameter=value`");
    }

    #[test]
    fn what_is_stale_weighs_less() {
        let strategy: Strategy = "fedbuff".parse().expect("a strategy");
        assert_eq!([0, 1, 3, 8].map(|staleness| strategy.weight(100, staleness)), [25_600, 18_102, 12_800, 8533]);
        assert_eq!(strategy.divisor(100), 25_600);
    }
}
