//! What a device's operator says of training programs.

use std::path::PathBuf;
use std::time::Duration;

use headwater_host::config::{HumanBytes, HumanDuration};
use headwater_protocol::id::PublicKey;
use headwater_protocol::name::NamePattern;
use headwater_protocol::tensors::encoding::Encoding;
use serde::{Deserialize, Serialize};

use super::week::TimeOfDay;

/// A training program may run so long, if nobody says otherwise.
const TIME: Duration = Duration::from_hours(6);
/// A task's folder may grow to this, if nobody says otherwise.
const DISK_BYTES: u64 = 16 << 30;
/// How far behind other work programs stand, if nobody says otherwise.
const NICE: i32 = 10;
/// Most tasks at a time.
const AT_ONCE_MAX: u32 = 64;

/// How this device takes part in federated runs. It does where there is a command, or somebody whose programs it trusts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingSettings {
    /// The program and its arguments, for runs that bring none of their own.
    pub command: Vec<String>,
    /// Its working folder; the task's own folder by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// Datasets of this device that programs are told of, as names or patterns; local ones too.
    pub datasets: Vec<String>,
    /// Keys of authors whose programs may run here, in hexadecimal.
    pub trust: Vec<String>,
    /// Memory that a program may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<HumanBytes>,
    /// How long it may run.
    pub time: HumanDuration,
    /// What its task's folder may grow to.
    pub disk: HumanBytes,
    /// How far it stands behind other work: 0 to 19.
    pub nice: i32,
    /// Tasks that are trained at a time.
    pub at_once: u32,
    /// Encodings that updates may have: `full`, `bf16`, `int8`.
    pub encodings: Vec<String>,
    /// Only on mains power.
    pub on_power_only: bool,
    /// Only while the link to the core costs nothing by the byte.
    pub unmetered_only: bool,
    /// Only from this time of day on, by the link's `utc_offset`; with `until`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<TimeOfDay>,
    /// Only up to this time of day; with `from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<TimeOfDay>,
}

impl Default for TrainingSettings {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            folder: None,
            datasets: Vec::new(),
            trust: Vec::new(),
            memory: None,
            time: HumanDuration(TIME),
            disk: HumanBytes(DISK_BYTES),
            nice: NICE,
            at_once: 1,
            encodings: Encoding::ALL.iter().map(Encoding::to_string).collect(),
            on_power_only: false,
            unmetered_only: false,
            from: None,
            until: None,
        }
    }
}

impl TrainingSettings {
    /// Whether this device takes part at all.
    pub fn is_configured(&self) -> bool {
        !self.command.is_empty() || !self.trust.is_empty()
    }

    /// The keys of trusted authors.
    pub fn trusted(&self) -> Vec<PublicKey> {
        self.trust.iter().filter_map(|text| key(text)).collect()
    }

    /// Whether programs are told of this dataset.
    pub fn shows(&self, dataset: &str) -> bool {
        let name = headwater_protocol::name::DatasetName::new(dataset);
        let matches = |pattern: &String| {
            let pattern = NamePattern::new(pattern.as_str());
            pattern.is_ok_and(|pattern| name.as_ref().is_ok_and(|name| pattern.matches(name)))
        };
        self.datasets.iter().any(matches)
    }

    /// What can't be, by key.
    pub(super) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.command.first().is_some_and(String::is_empty) {
            problems.push(("training.command", "its first word is empty, and should be the program".to_owned()));
        }
        if let Some(folder) = self.folder.as_ref().filter(|folder| !folder.is_absolute()) {
            problems.push(("training.folder", format!("`{}` must be absolute", folder.display())));
        }
        for pattern in &self.datasets {
            if let Err(error) = NamePattern::new(pattern.as_str()) {
                problems.push(("training.datasets", format!("`{pattern}` can't be used: {error}")));
            }
        }
        for text in self.trust.iter().filter(|text| key(text).is_none()) {
            problems.push(("training.trust", format!("`{text}` is no key: 64 hexadecimal digits were expected")));
        }
        for name in &self.encodings {
            if let Err(error) = name.parse::<Encoding>() {
                problems.push(("training.encodings", error.to_string()));
            }
        }
        if self.encodings.is_empty() {
            problems.push(("training.encodings", "an update has to be sent in one of them".to_owned()));
        }
        if !(0..=19).contains(&self.nice) {
            problems.push(("training.nice", format!("{} is not from 0 to 19", self.nice)));
        }
        if !(1..=AT_ONCE_MAX).contains(&self.at_once) {
            problems.push(("training.at_once", format!("{} is not from 1 to {AT_ONCE_MAX}", self.at_once)));
        }
        if self.from.is_some() != self.until.is_some() {
            problems.push(("training.from", "`from` and `until` belong together".to_owned()));
        }
        problems
    }
}

fn key(text: &str) -> Option<PublicKey> {
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
    Some(PublicKey(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_t_be_is_placed() {
        let settings = TrainingSettings {
            command: vec![String::new()],
            trust: vec!["abc".to_owned()],
            encodings: vec!["int4".to_owned()],
            nice: 20,
            at_once: 0,
            datasets: vec!["a b".to_owned()],
            ..TrainingSettings::default()
        };
        let keys: Vec<_> = settings.problems().into_iter().map(|(key, _)| key).collect();
        let expected = ["command", "datasets", "trust", "encodings", "nice", "at_once"];
        assert_eq!(keys, expected.map(|key| format!("training.{key}")));
        assert!(TrainingSettings::default().problems().is_empty());
    }
}
