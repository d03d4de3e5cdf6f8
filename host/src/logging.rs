//! Structured logs on stderr: `tracing`, filtered by `HEADWATER_LOG`, as lines for people or as JSON for collectors.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// The environment variable that overrides the filter.
pub const FILTER_VARIABLE: &str = "HEADWATER_LOG";

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// What to log where [`FILTER_VARIABLE`] says nothing: `info`, or `warn,core_node::ingest=debug`.
    pub filter: String,
    /// JSON, one object a line.
    pub json: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { filter: "info".to_owned(), json: false }
    }
}

/// Why logging can't start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter can't be read.
    #[error("`{filter}` is no log filter")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// Logging was started before.
    #[error("logging was started twice")]
    Twice,
}

/// Checks a filter without starting anything.
pub fn check_filter(filter: &str) -> Result<(), LoggingError> {
    let refused = |source| LoggingError::Filter { filter: filter.to_owned(), source };
    EnvFilter::try_new(filter).map(|_| ()).map_err(refused)
}

/// Starts logging for this process; once.
pub fn start(options: &LogOptions) -> Result<(), LoggingError> {
    let filter = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| options.filter.clone());
    let layer = EnvFilter::try_new(&filter).map_err(|source| LoggingError::Filter { filter, source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(layer).with_writer(std::io::stderr);
    let started = if options.json {
        builder.json().try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
    };
    started.map_err(|_| LoggingError::Twice)
}
