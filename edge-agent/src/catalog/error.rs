//! What can go wrong with the catalog, told apart by what happens next: a damaged one is rebuilt, a newer one is refused,
//! a full disk is waited for, and everything else is reported.

use rusqlite::ErrorCode;

/// An operation on the catalog failed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The file is not what was written; the agent sets it aside and rebuilds it.
    #[error("the catalog is damaged: {reason}")]
    Damaged {
        /// What was found.
        reason: String,
    },
    /// A newer release wrote it.
    #[error("the catalog has layout {found}, and this release knows layouts up to {known}: a newer release wrote it")]
    Newer {
        /// The layout in the file.
        found: i64,
        /// The newest layout known here.
        known: i64,
    },
    /// The disk is full.
    #[error("the disk that holds the catalog is full")]
    Full,
    /// SQLite refused.
    #[error("the catalog could not {action}")]
    Sql {
        /// What was being done.
        action: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The file or its folder could not be used.
    #[error("the catalog could not {action}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl CatalogError {
    /// Whether the catalog must be rebuilt.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    pub(crate) fn damaged(reason: impl Into<String>) -> Self {
        Self::Damaged { reason: reason.into() }
    }

    /// Sorts what SQLite said while doing `action`.
    pub(crate) fn sql(action: &'static str, source: rusqlite::Error) -> Self {
        let damaged = |detail: &dyn std::fmt::Display| Self::damaged(format!("while it should {action}: {detail}"));
        match &source {
            rusqlite::Error::SqliteFailure(failure, message) => match failure.code {
                // A dataset was forgotten while something worked on it: the file is as it should be.
                ErrorCode::ConstraintViolation
                    if failure.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY =>
                {
                    Self::Sql { action, source }
                }
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation => {
                    damaged(&source)
                }
                ErrorCode::DiskFull => Self::Full,
                // The file that readers and writers share grows before anything is written, and SQLite has no word for its
                // lack of room.
                ErrorCode::SystemIoFailure if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => {
                    Self::Full
                }
                ErrorCode::SystemIoFailure if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ => {
                    damaged(&source)
                }
                _ if message.as_deref().is_some_and(|text| {
                    text.starts_with("no such ") || text.contains("has no column") || text.contains("malformed")
                }) =>
                {
                    damaged(&source)
                }
                _ => Self::Sql { action, source },
            },
            rusqlite::Error::SqlInputError { .. }
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::InvalidColumnIndex(..)
            | rusqlite::Error::InvalidColumnName(..)
            | rusqlite::Error::Utf8Error(..) => damaged(&source),
            _ => Self::Sql { action, source },
        }
    }
}
