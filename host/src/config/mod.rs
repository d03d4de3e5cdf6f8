//! Configuration: defaults, then a TOML file, then the environment, then flags; each overrides the one before.
//!
//! A program's configuration is one serde structure with `#[serde(default, deny_unknown_fields)]` on every level. All
//! mistakes are found in one go: an unknown key is named with its line and the nearest known key.

mod examine;
#[cfg(test)]
mod tests;
mod units;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

pub use units::{HumanBytes, HumanDuration, HumanRate, ParseUnitError};

use crate::error::{CodedError, codes};

/// Longest configuration file, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Most mistakes named at once.
pub const PROBLEMS_MAX: usize = 50;

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: a file with a line, an environment variable, a flag; empty for what several sources say together.
    pub place: String,
    /// The key, dotted.
    pub key: String,
    /// What is wrong.
    pub message: String,
}

impl Problem {
    /// A mistake that only shows when values are seen together.
    pub fn of_key(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: String::new(), key: key.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("the configuration `{path}` can't be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has mistakes; there is at least one.
    #[error("the configuration has {}", shown(.0))]
    Mistakes(Vec<Problem>),
}

fn shown(problems: &[Problem]) -> String {
    match problems {
        [one] => format!("a mistake: {one}"),
        many => many.iter().fold(format!("{} mistakes:", many.len()), |text, problem| format!("{text}\n  {problem}")),
    }
}

impl From<ConfigError> for CodedError {
    fn from(error: ConfigError) -> Self {
        let message = error.to_string();
        match error {
            ConfigError::Read { source, .. } => Self::new(&codes::CONFIG_INVALID, message)
                .with_hint("check `--config` and the file's rights")
                .with_source(source),
            ConfigError::Mistakes(_) => Self::new(&codes::CONFIG_INVALID, message),
        }
    }
}

/// What a configuration says about itself beyond types.
pub trait Validate {
    /// Values that can't be, alone or together. None by default.
    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
}

/// Where a configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct ConfigSources {
    file: Option<(PathBuf, bool)>,
    environment: Vec<(String, String, String)>,
    flags: Vec<(String, Value)>,
}

impl ConfigSources {
    /// Defaults alone.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file; where it is not `required` it may be missing.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>, required: bool) -> Self {
        self.file = Some((path.into(), required));
        self
    }

    /// Every variable of `variables` that begins with `prefix`: what follows is the key in capitals, with `__` for a dot.
    /// `HEADWATER_AGENT_LINK__RATE` is `link.rate` under the prefix `HEADWATER_AGENT_`. Those in `not_keys` are left out.
    #[must_use]
    pub fn environment(
        mut self,
        prefix: &str,
        not_keys: &[&str],
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        for (name, value) in variables {
            let Some(key) = name.strip_prefix(prefix).filter(|key| !key.is_empty() && !not_keys.contains(key)) else {
                continue;
            };
            let key = key.to_ascii_lowercase().replace("__", ".");
            self.environment.push((name, key, value));
        }
        self.environment.sort();
        self
    }

    /// A value from the command line for a dotted key.
    #[must_use]
    pub fn flag(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.flags.push((key.into(), value.into()));
        self
    }

    /// The configuration, or everything that is wrong with it.
    pub fn load<T: DeserializeOwned + Validate>(&self) -> Result<T, ConfigError> {
        let mut problems = Vec::new();
        let mut merged = match &self.file {
            Some((path, required)) => Self::file_table::<T>(path, *required, &mut problems)?,
            None => Table::new(),
        };
        for (variable, key, text) in &self.environment {
            match environment_value::<T>(key, text) {
                Ok(value) => set(&mut merged, key, value),
                Err(message) => {
                    problems.push(Problem { place: format!("environment, {variable}"), key: key.clone(), message });
                }
            }
        }
        for (key, value) in &self.flags {
            set(&mut merged, key, value.clone());
        }
        if !problems.is_empty() {
            return Err(ConfigError::Mistakes(problems));
        }
        match merged.try_into::<T>() {
            Ok(config) => {
                let problems = config.problems();
                if problems.is_empty() { Ok(config) } else { Err(ConfigError::Mistakes(problems)) }
            }
            Err(error) => Err(ConfigError::Mistakes(vec![Problem::of_key("", error.message())])),
        }
    }

    fn file_table<T: DeserializeOwned>(
        path: &Path,
        required: bool,
        problems: &mut Vec<Problem>,
    ) -> Result<Table, ConfigError> {
        let text = match read_bounded(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => return Ok(Table::new()),
            other => other.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?,
        };
        for mut problem in examine::problems::<T>(&text) {
            problem.place = format!("{}, {}", path.display(), problem.place);
            problems.push(problem);
        }
        Ok(text.parse().unwrap_or_default())
    }
}

/// The value of an environment variable: TOML where that fits the configuration, else text.
fn environment_value<T: DeserializeOwned>(key: &str, text: &str) -> Result<Value, String> {
    let parsed = format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    let mut complaint = None;
    for value in parsed.into_iter().chain([Value::String(text.to_owned())]) {
        let mut alone = Table::new();
        set(&mut alone, key, value.clone());
        let alone = toml::to_string(&alone).unwrap_or_default();
        match examine::problems::<T>(&alone).into_iter().find(|problem| !problem.message.starts_with("missing field")) {
            None => return Ok(value),
            Some(problem) => complaint.get_or_insert(problem.message),
        };
    }
    Err(complaint.unwrap_or_default())
}

/// Sets the dotted `key`, making the tables on the way; what is no table there is replaced.
fn set(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((first, rest)) => {
            let below = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
            if !below.is_table() {
                *below = Value::Table(Table::new());
            }
            if let Value::Table(below) = below {
                set(below, rest, value);
            }
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {CONFIG_BYTES_MAX} bytes")));
    }
    Ok(text)
}
