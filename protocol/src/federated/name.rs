//! Names of runs, and of the datasets in which updates travel.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{DatasetName, NameError};

/// Longest name of a run, in bytes.
pub const RUN_NAME_BYTES_MAX: usize = 64;
/// What the names of all datasets of updates begin with.
pub const UPDATES_PREFIX: &str = "federation/updates/";
/// The one file of a version of updates.
pub const UPDATE_FILE: &str = "update.safetensors";

/// A run's name: one component of a dataset's name, of at most 64 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunName(String);

/// A text that can't be a run's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunNameError {
    /// It has several components, or too many bytes.
    #[error("`{0}` can't name a run: at most {RUN_NAME_BYTES_MAX} letters, digits, `.`, `_` and `-`")]
    Shape(String),
    /// It is no part of a name at all.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl RunName {
    /// Checks `name`.
    pub fn new(name: impl Into<String>) -> Result<Self, RunNameError> {
        let name = name.into();
        if name.len() > RUN_NAME_BYTES_MAX || name.contains('/') {
            return Err(RunNameError::Shape(name.chars().take(RUN_NAME_BYTES_MAX).collect()));
        }
        Ok(Self(DatasetName::new(name)?.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RunName {
    type Err = RunNameError;

    fn from_str(text: &str) -> Result<Self, RunNameError> {
        Self::new(text)
    }
}

impl TryFrom<String> for RunName {
    type Error = RunNameError;

    fn try_from(text: String) -> Result<Self, RunNameError> {
        Self::new(text)
    }
}

impl From<RunName> for String {
    fn from(name: RunName) -> Self {
        name.0
    }
}

/// The dataset in which `device` sends its updates of `run`.
pub fn updates_dataset(run: &RunName, device: &str) -> Result<DatasetName, NameError> {
    DatasetName::new(format!("{UPDATES_PREFIX}{run}/{device}"))
}

/// What a dataset of updates is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdatesName<'a> {
    /// The run.
    pub run: RunName,
    /// The device.
    pub device: &'a str,
}

impl<'a> UpdatesName<'a> {
    /// The run and the device in a name that [`updates_dataset`] made; none for any other.
    pub fn parse(dataset: &'a str) -> Option<Self> {
        let (run, device) = dataset.strip_prefix(UPDATES_PREFIX)?.split_once('/')?;
        let is_one = !device.is_empty() && !device.contains('/');
        RunName::new(run).ok().filter(|_| is_one).map(|run| Self { run, device })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_a_name_of_one_part() {
        for good in ["digits", "digits-2.b_1", &"a".repeat(64)] {
            assert_eq!(RunName::new(good).expect("good").as_str(), good);
        }
        for bad in ["", "a/b", ".hidden", "sp ace", "ä", &"a".repeat(65)] {
            assert!(RunName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_dataset_of_updates_says_whose_it_is() {
        let run = RunName::new("digits").expect("a name");
        let name = updates_dataset(&run, "edge-7").expect("a name");
        assert_eq!(UpdatesName::parse(name.as_str()), Some(UpdatesName { run, device: "edge-7" }));
        for other in
            ["federation/updates/digits", "federation/updates/digits/a/b", "updates/digits/a", "federation/updates//a"]
        {
            assert_eq!(UpdatesName::parse(other), None, "{other}");
        }
    }
}
