//! Models and federated runs on the command line.

mod aggregate;
mod args;
mod cells;

use std::path::Path;

use headwater_host::config::ConfigSources;
use headwater_host::error::CodedError;
use toml::Value;

use super::plan::absolute;
use crate::control::Request;
use crate::federation::{RunSettings, is_path};

pub(super) use aggregate::aggregate;
pub(super) use args::{AggregateArgs, FederationCommand, ModelCommand};
pub(super) use cells::{
    FEDERATION_HEADER, MODEL_HEADER, PARTICIPANT_HEADER, ROUND_HEADER, TENSOR_HEADER, UPDATE_HEADER, federation_cells,
    model_cells, participant_cells, round_cells, tensor_cells, update_cells,
};

use args::StartArgs;

/// What a command about models asks of the daemon.
pub(super) fn model(command: ModelCommand) -> Result<Request, CodedError> {
    Ok(match command {
        ModelCommand::Publish { file, model } => Request::ModelPublish { file: absolute(&file)?, model },
        ModelCommand::List => Request::ModelList,
        ModelCommand::Show { version } => Request::ModelShow { version },
        ModelCommand::Log { model, limit } => Request::ModelLog { model, limit },
        ModelCommand::Export { version, file } => Request::ModelExport { version, to: absolute(&file)? },
        ModelCommand::Verify { version } => Request::ModelVerify { version },
        ModelCommand::Without { version, device, to } => Request::ModelWithout { version, device, to: absolute(&to)? },
        ModelCommand::Aggregate(_) => unreachable!("it asks no daemon"),
    })
}

/// What a command about runs asks of the daemon.
pub(super) fn federation(command: FederationCommand) -> Request {
    match command {
        FederationCommand::Start(_) => unreachable!("it is read with its file"),
        FederationCommand::Status { run, watch: _ } => Request::FederationStatus { run },
        FederationCommand::Log { run } => Request::FederationLog { run },
        FederationCommand::Pause { run } => Request::FederationPause { run },
        FederationCommand::Resume { run } => Request::FederationResume { run },
        FederationCommand::Abort { run } => Request::FederationAbort { run },
        FederationCommand::Explain { run } => Request::FederationExplain { run },
    }
}

/// A run's settings: the file's, and over them what was given on the command line.
pub(super) fn start(args: StartArgs, file: Option<&Path>) -> Result<Request, CodedError> {
    let mut sources = ConfigSources::new();
    if let Some(file) = file {
        sources = sources.file(file, true);
    }
    let texts = [
        ("model", args.model),
        ("run", args.run),
        ("strategy", args.strategy.map(strategy_of).transpose()?),
        ("kind", args.kind),
        ("devices", args.devices),
        ("deadline", args.deadline),
        ("program", args.program),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            sources = sources.flag(key, value);
        }
    }
    let numbers = [
        ("rounds", args.rounds),
        ("min_updates", args.min_updates.map(u64::from)),
        ("goal", args.goal.map(u64::from)),
        ("evaluate_every", args.evaluate_every),
        ("seed", args.seed),
    ];
    for (key, value) in numbers {
        if let Some(value) = value {
            sources = sources.flag(key, i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
    if let Some(over_select) = args.over_select {
        sources = sources.flag("over_select", over_select);
    }
    if !args.encodings.is_empty() {
        let encodings: Vec<_> = args.encodings.into_iter().map(Value::String).collect();
        sources = sources.flag("encodings", encodings);
    }
    for (key, value) in args.set {
        sources = sources.flag(format!("config.{key}"), value_of(&value));
    }
    let settings: RunSettings = sources.load().map_err(|error| {
        CodedError::from(error).with_hint("see `core-node federation start --help` for what can be said of a run")
    })?;
    Ok(Request::FederationStart(Box::new(settings)))
}

/// A program's path, as the daemon needs it, or a strategy as it is.
fn strategy_of(text: String) -> Result<String, CodedError> {
    if is_path(&text) { Ok(absolute(Path::new(&text))?.to_string_lossy().into_owned()) } else { Ok(text) }
}

/// A value as TOML writes it; what TOML can't read is a text.
fn value_of(text: &str) -> Value {
    let parsed = toml::from_str::<toml::Table>(&format!("value = {text}"));
    let value = parsed.ok().and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_toml_does() {
        assert_eq!(value_of("0.5"), Value::Float(0.5));
        assert_eq!(value_of("17"), Value::Integer(17));
        assert_eq!(value_of("adam"), Value::String("adam".to_owned()));
        assert_eq!(value_of("true"), Value::Boolean(true));
    }
}
