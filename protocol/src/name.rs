//! Names: of datasets, of devices, of labels; the templates that make dataset names and the patterns that match them.
//!
//! A dataset name is also a path in listings and in materialised folders, so it holds only characters that mean nothing
//! to a shell, a URL or a file system, and no component that could hide or point upwards. A template may hold `{device}`
//! and `{label.KEY}`; what is put there must itself be a valid part of one component, so a label can never move a name
//! into another folder.

mod pattern;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use pattern::{NamePattern, PatternError};

/// Longest dataset name, in bytes.
pub const DATASET_NAME_BYTES_MAX: usize = 200;
/// Longest device name, in bytes.
pub const DEVICE_NAME_BYTES_MAX: usize = 64;
/// Longest key of a label, in bytes.
pub const LABEL_KEY_BYTES_MAX: usize = 32;
/// Longest value of a label, in bytes.
pub const LABEL_VALUE_BYTES_MAX: usize = 100;
/// Most labels of one device.
pub const LABELS_MAX: usize = 32;
/// Longest template or pattern, in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 400;

/// Labels: pairs of key and value, sorted by key.
pub type Labels = Vec<(String, String)>;

/// A dataset's name: 1 to 200 bytes of `/`-separated components of `A-Za-z0-9._-`, none of which begins with a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatasetName(String);

/// Why a text is not a dataset's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There are no bytes.
    #[error("the name is empty")]
    Empty,
    /// It is longer than 200 bytes.
    #[error("the name `{0}…` is longer than {DATASET_NAME_BYTES_MAX} bytes")]
    TooLong(String),
    /// A character that names may not hold.
    #[error(
        "the name `{name}` holds {found:?}; names are made of letters, digits, `.`, `_`, `-`, and `/` between parts"
    )]
    Character {
        /// The name.
        name: String,
        /// What it may not hold.
        found: char,
    },
    /// A component is empty or begins with a dot.
    #[error("the name `{0}` has a part that is empty or begins with a dot")]
    Component(String),
}

impl DatasetName {
    /// Checks `name`.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > DATASET_NAME_BYTES_MAX {
            return Err(NameError::TooLong(shown(&name)));
        }
        if let Some(found) = name.chars().find(|&found| found != '/' && !is_name_character(found)) {
            return Err(NameError::Character { name, found });
        }
        if name.split('/').any(|component| component.is_empty() || component.starts_with('.')) {
            return Err(NameError::Component(name));
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DatasetName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl TryFrom<String> for DatasetName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl From<DatasetName> for String {
    fn from(name: DatasetName) -> Self {
        name.0
    }
}

impl AsRef<str> for DatasetName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// What templates and patterns may refer to: a device's name and its labels.
#[derive(Clone, Copy, Debug)]
pub struct NameContext<'a> {
    /// The device's name.
    pub device: &'a str,
    /// Its labels.
    pub labels: &'a [(String, String)],
}

/// A dataset name with `{device}` and `{label.KEY}` in it, as a folder's configuration gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NameTemplate {
    text: String,
    parts: Vec<Part>,
}

/// Why a template can't be used, or gives no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A `{` without `}`, or the reverse, or the text is too long.
    #[error("`{0}` is no name template: braces must come in pairs, and {TEMPLATE_BYTES_MAX} bytes are the most")]
    Malformed(String),
    /// Something in braces that is not known.
    #[error("`{{{placeholder}}}` in `{template}` is not known; there are `{{device}}` and `{{label.KEY}}`")]
    UnknownPlaceholder {
        /// The template.
        template: String,
        /// What stands in braces.
        placeholder: String,
    },
    /// The device does not have the label.
    #[error("`{template}` needs the label `{label}`, which this device does not have{}", known_labels(.known))]
    UnknownLabel {
        /// The template.
        template: String,
        /// The label's key.
        label: String,
        /// The keys that the device has.
        known: Vec<String>,
    },
    /// The value can't be a part of a name.
    #[error("the {what} `{value}` can't stand in the dataset name `{template}`: letters, digits, `.`, `_` and `-` can")]
    Value {
        /// The template.
        template: String,
        /// `device name`, or `label KEY`.
        what: String,
        /// The value.
        value: String,
    },
    /// With everything put in, it is no name.
    #[error(transparent)]
    Name(#[from] NameError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Device,
    Label(String),
}

impl NameTemplate {
    /// Reads a template. A text without braces is the template of itself.
    pub fn new(text: impl Into<String>) -> Result<Self, TemplateError> {
        let text = text.into();
        let parts = split(&text)?;
        // What surrounds the placeholders is checked now, with a stand-in, so that a bad name in a configuration file
        // is found when the file is read.
        let stand_in: String = parts
            .iter()
            .map(|part| match part {
                Part::Literal(literal) => literal.as_str(),
                Part::Device | Part::Label(_) => "x",
            })
            .collect();
        DatasetName::new(stand_in)?;
        Ok(Self { text, parts })
    }

    /// The name for this device.
    pub fn expand(&self, context: &NameContext<'_>) -> Result<DatasetName, TemplateError> {
        Ok(DatasetName::new(expand(&self.text, &self.parts, context)?)?)
    }

    /// The template as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for NameTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        Self::new(text)
    }
}

impl TryFrom<String> for NameTemplate {
    type Error = TemplateError;

    fn try_from(text: String) -> Result<Self, TemplateError> {
        Self::new(text)
    }
}

impl From<NameTemplate> for String {
    fn from(template: NameTemplate) -> Self {
        template.text
    }
}

impl fmt::Display for NameTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text that can't be a device's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` can't be a device's name: 1 to {DEVICE_NAME_BYTES_MAX} letters, digits, `.`, `_` and `-`, the first a letter or digit"
)]
pub struct DeviceNameError(String);

/// Checks that `name` can be a device's.
pub fn check_device_name(name: &str) -> Result<(), DeviceNameError> {
    let fits = name.len() <= DEVICE_NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(is_name_character);
    if fits { Ok(()) } else { Err(DeviceNameError(shown(name))) }
}

/// A text that can't be a label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no label: `KEY=VALUE` was expected, with a key of up to {LABEL_KEY_BYTES_MAX} lower-case letters, digits, `_` and `-`, \
     and a value of 1 to {LABEL_VALUE_BYTES_MAX} printable characters"
)]
pub struct LabelError(String);

/// The label in `KEY=VALUE`.
pub fn parse_label(text: &str) -> Result<(String, String), LabelError> {
    let (key, value) = text.split_once('=').ok_or_else(|| LabelError(shown(text)))?;
    check_label(key, value)?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Checks a label's key and value.
pub fn check_label(key: &str, value: &str) -> Result<(), LabelError> {
    let key_fits = (1..=LABEL_KEY_BYTES_MAX).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-'));
    let value_fits = (1..=LABEL_VALUE_BYTES_MAX).contains(&value.len())
        && !value.chars().any(char::is_control)
        && value == value.trim();
    if key_fits && value_fits { Ok(()) } else { Err(LabelError(shown(&format!("{key}={value}")))) }
}

/// The value of the label `key`.
pub fn label<'a>(labels: &'a [(String, String)], key: &str) -> Option<&'a str> {
    labels.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
}

fn is_name_character(found: char) -> bool {
    found.is_ascii_alphanumeric() || matches!(found, '.' | '_' | '-')
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

fn known_labels(known: &[String]) -> String {
    if known.is_empty() { "; it has none".to_owned() } else { format!("; it has {}", known.join(", ")) }
}

fn split(text: &str) -> Result<Vec<Part>, TemplateError> {
    let malformed = || TemplateError::Malformed(shown(text));
    if text.len() > TEMPLATE_BYTES_MAX {
        return Err(malformed());
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (literal, after) = rest.split_once('{').map_or((rest, None), |(literal, after)| (literal, Some(after)));
        if literal.contains('}') {
            return Err(malformed());
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.to_owned()));
        }
        let Some(after) = after else { break };
        let (placeholder, after) = after.split_once('}').ok_or_else(malformed)?;
        parts.push(match placeholder.strip_prefix("label.") {
            Some(key) if check_label(key, "x").is_ok() => Part::Label(key.to_owned()),
            None if placeholder == "device" => Part::Device,
            _ => {
                return Err(TemplateError::UnknownPlaceholder {
                    template: text.to_owned(),
                    placeholder: shown(placeholder),
                });
            }
        });
        rest = after;
    }
    Ok(parts)
}

fn expand(template: &str, parts: &[Part], context: &NameContext<'_>) -> Result<String, TemplateError> {
    let mut expanded = String::with_capacity(template.len());
    for part in parts {
        let (what, value) = match part {
            Part::Literal(literal) => {
                expanded.push_str(literal);
                continue;
            }
            Part::Device => ("device name".to_owned(), context.device),
            Part::Label(key) => {
                let value = label(context.labels, key).ok_or_else(|| TemplateError::UnknownLabel {
                    template: template.to_owned(),
                    label: key.clone(),
                    known: context.labels.iter().map(|(key, _)| key.clone()).collect(),
                })?;
                (format!("label {key}"), value)
            }
        };
        if value.is_empty() || !value.chars().all(is_name_character) {
            return Err(TemplateError::Value { template: template.to_owned(), what, value: shown(value) });
        }
        expanded.push_str(value);
    }
    Ok(expanded)
}
