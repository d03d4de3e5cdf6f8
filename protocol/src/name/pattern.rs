//! Patterns over dataset names: `*` within a part, `**` across parts, and the placeholders of templates.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{
    DATASET_NAME_BYTES_MAX, DatasetName, NameContext, Part, TEMPLATE_BYTES_MAX, expand, is_name_character, shown, split,
};

/// A pattern that dataset names match or don't.
///
/// `*` stands for any characters within one part, `**` for any characters, `/` among them; `**/` stands also for nothing,
/// so `**/left` matches `left`. `{device}` and `{label.KEY}` stand for the device's own; see [`NamePattern::matches_for`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern(String);

/// A text that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no pattern of names: names with `*` (within a part), `**` (across parts), `{{device}}` and `{{label.KEY}}` in them are, \
     of at most {TEMPLATE_BYTES_MAX} bytes"
)]
pub struct PatternError(String);

#[derive(Clone, Copy)]
enum Step {
    Byte(u8),
    /// `*`
    WithinPart,
    /// `**`
    Anything,
    /// `**/` at the start of a part: nothing, or anything up to a `/`.
    AnyFolders,
}

impl NamePattern {
    /// Checks and keeps `text`.
    pub fn new(text: impl Into<String>) -> Result<Self, PatternError> {
        let text = text.into();
        let refused = || PatternError(shown(&text));
        let parts = split(&text).map_err(|_| refused())?;
        let literals_fit = parts.iter().all(|part| match part {
            Part::Literal(literal) => literal.chars().all(|c| matches!(c, '*' | '/') || is_name_character(c)),
            Part::Device | Part::Label(_) => true,
        });
        // No part of a name is empty or begins with a dot: such a pattern would match nothing, whatever was meant by it.
        let parts_fit = text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
        if !literals_fit || !parts_fit || text.contains("***") {
            return Err(refused());
        }
        Ok(Self(text))
    }

    /// The pattern that every name matches.
    pub fn any() -> Self {
        Self("**".to_owned())
    }

    /// Whether the pattern is a plain name, which only itself matches.
    pub fn is_plain(&self) -> bool {
        !self.0.contains(['*', '{'])
    }

    /// Whether `name` matches. A pattern with placeholders matches nothing here.
    pub fn matches(&self, name: &DatasetName) -> bool {
        !self.0.contains('{') && matches(&self.0, name)
    }

    /// Whether `name` matches once the device's own name and labels stand in the placeholders. Where the device lacks a
    /// label that the pattern needs, nothing matches.
    pub fn matches_for(&self, name: &DatasetName, context: &NameContext<'_>) -> bool {
        if !self.0.contains('{') {
            return matches(&self.0, name);
        }
        let Ok(parts) = split(&self.0) else { return false };
        expand(&self.0, &parts, context).is_ok_and(|text| matches(&text, name))
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn matches(text: &str, name: &DatasetName) -> bool {
    let name = name.as_str();
    // Most patterns are asked about names that differ before the first `*`.
    let Some(star) = text.find('*') else { return text == name };
    name.as_bytes().starts_with(text[..star].trim_end_matches('/').as_bytes()) && walk(&steps(text), name.as_bytes())
}

fn steps(text: &str) -> Vec<Step> {
    let bytes = text.as_bytes();
    let mut steps = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let part_starts = at == 0 || bytes[at - 1] == b'/';
        let (step, taken) = if part_starts && rest.starts_with(b"**/") {
            (Step::AnyFolders, 3)
        } else if rest.starts_with(b"**") {
            (Step::Anything, 2)
        } else if rest[0] == b'*' {
            (Step::WithinPart, 1)
        } else {
            (Step::Byte(rest[0]), 1)
        };
        steps.push(step);
        at += taken;
    }
    steps
}

/// Which ends of `name` each step can reach: bounded by the two lengths, whatever the pattern.
fn walk(steps: &[Step], name: &[u8]) -> bool {
    let mut reached = [false; DATASET_NAME_BYTES_MAX + 1];
    reached[0] = true;
    for step in steps {
        let mut next = [false; DATASET_NAME_BYTES_MAX + 1];
        let mut earlier = false;
        for at in 0..=name.len() {
            let before = at.checked_sub(1).map(|before| (name[before], next[before], reached[before]));
            next[at] = match *step {
                Step::Byte(wanted) => before.is_some_and(|(byte, _, was)| was && byte == wanted),
                Step::WithinPart => reached[at] || before.is_some_and(|(byte, grown, _)| grown && byte != b'/'),
                Step::Anything => reached[at] || before.is_some_and(|(_, grown, _)| grown),
                Step::AnyFolders => reached[at] || (earlier && before.is_some_and(|(byte, ..)| byte == b'/')),
            };
            earlier |= reached[at];
        }
        reached = next;
    }
    reached[name.len()]
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NamePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::new(text)
    }
}

impl TryFrom<String> for NamePattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        Self::new(text)
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.0
    }
}
