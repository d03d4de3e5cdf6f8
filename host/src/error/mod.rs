//! Errors that an operator may meet: each has a code with a page in `docs/errors/`, a plain sentence, and a hint.
//!
//! Libraries keep their own error enums; where one reaches a person (a command's output, a refusal on the wire, a warning
//! in the log) it becomes a [`CodedError`]. The codes are the table in [`codes`]; a test holds it and the pages together.

pub mod codes;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use headwater_protocol::wire::Refusal;
use serde::{Deserialize, Serialize};

/// Longest message or hint that is taken over from a peer or told to one, in bytes.
pub const FOREIGN_TEXT_BYTES_MAX: usize = 2048;

/// One row of the catalogue of codes.
#[derive(Debug, PartialEq, Eq)]
pub struct ErrorCode {
    /// `HW-` and four digits.
    pub code: &'static str,
    /// What it is called.
    pub title: &'static str,
    /// What it means, in one line.
    pub meaning: &'static str,
    /// What to do about it, where the place that raises it knows nothing better.
    pub hint: &'static str,
}

/// The row of `code`, if there is one.
pub fn find(code: &str) -> Option<&'static ErrorCode> {
    codes::CATALOGUE.iter().copied().find(|row| row.code == code)
}

/// `code` if it is in this release's table, else `other`: fit to count by, wherever it comes from.
pub fn countable(code: &str) -> &'static str {
    find(code).map_or("other", |row| row.code)
}

/// What an error stems from.
pub type ErrorSource = Box<dyn StdError + Send + Sync>;

/// An error as a person meets it.
#[derive(Debug, Serialize, Deserialize)]
pub struct CodedError {
    /// The code, as `HW-1001`. One that came from a newer peer need not be in this release's table.
    pub code: Cow<'static, str>,
    /// A plain sentence that names the thing.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// What it stems from.
    #[serde(skip)]
    pub source: Option<ErrorSource>,
}

impl CodedError {
    /// An error of this code, with the code's own hint.
    pub fn new(code: &'static ErrorCode, message: impl Into<String>) -> Self {
        Self { code: Cow::Borrowed(code.code), message: message.into(), hint: code.hint.to_owned(), source: None }
    }

    /// With a hint that knows better than the code's own.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// With what it stems from. The cause's text is not repeated in the message: [`Display`](fmt::Display) adds it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<ErrorSource>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The error as programs read it from a command that was asked for JSON.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "error": { "code": self.code, "message": self.message, "hint": self.hint } })
    }

    /// Whether it is of this code.
    pub fn is(&self, code: &ErrorCode) -> bool {
        self.code == code.code
    }

    /// The exit status of a command that ends with this error: 2 for wrong usage, else 1.
    pub fn exit_code(&self) -> u8 {
        if self.is(&codes::USAGE) { 2 } else { 1 }
    }

    /// The error as it goes to a peer: without its source, whose text may hold local paths, and no longer than messages
    /// may be: a name from the peer may stand in it.
    pub fn refusal(&self) -> Refusal {
        Refusal { code: printable(&self.code), message: printable(&self.message), hint: printable(&self.hint) }
    }

    /// The code of an I/O error that an operator can do something about, else `otherwise`.
    pub fn io(otherwise: &'static ErrorCode, message: impl Into<String>, error: std::io::Error) -> Self {
        let code = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => &codes::DISK_FULL,
            _ => otherwise,
        };
        let is_of_file = [&codes::READ_FAILED, &codes::WRITE_FAILED].iter().any(|plain| plain.code == code.code);
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound if is_of_file => Some("check the path: there is nothing of that name"),
            std::io::ErrorKind::PermissionDenied if is_of_file => {
                Some("check who owns it, and which user this runs as")
            }
            _ => None,
        };
        let made = Self::new(code, message).with_source(error);
        match hint {
            Some(hint) => made.with_hint(hint),
            None => made,
        }
    }
}

impl fmt::Display for CodedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        let mut cause: Option<&(dyn StdError + 'static)> = self.source.as_ref().map(|source| &**source as _);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\nhint: {}", self.hint) }
    }
}

impl StdError for CodedError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

impl From<Refusal> for CodedError {
    /// Takes a peer's word for it, but no control characters and no more than [`FOREIGN_TEXT_BYTES_MAX`] of each text.
    fn from(refusal: Refusal) -> Self {
        let code = match find(&refusal.code) {
            Some(known) => Cow::Borrowed(known.code),
            None => Cow::Owned(printable(&refusal.code)),
        };
        Self { code, message: printable(&refusal.message), hint: printable(&refusal.hint), source: None }
    }
}

impl From<&CodedError> for Refusal {
    fn from(error: &CodedError) -> Self {
        error.refusal()
    }
}

/// `text` without control characters, and not endless: fit for a terminal and a log.
pub fn printable(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        if shown.len() >= FOREIGN_TEXT_BYTES_MAX {
            shown.push('…');
            break;
        }
        shown.push(if character.is_control() { '\u{fffd}' } else { character });
    }
    shown
}
