//! The command line: arguments are read into plain values ([`args`]), then carried out by a client.
//!
//! stdout is data; errors go to stderr.

mod args;
mod bench;
mod files;
mod import;
mod line;
mod look;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use headwater_host::error::{CodedError, codes};
use headwater_host::output::Stdout;
use serde_json::Value;

use crate::{Client, Import, Options, Stats};
use args::{Cli, Command};

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os()))
}

/// Runs the program with these arguments, of which the first is its name; what it ends with. Asked for help, or given what it does not
/// understand, it ends the process.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = Cli::parse_from(arguments);
    let json = cli.json;
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| CodedError::new(&codes::INTERNAL, "no runtime can be started").with_source(error));
    match runtime.and_then(|runtime| runtime.block_on(carry_out(cli))) {
        Ok(()) => 0,
        Err(error) => {
            if json {
                let _ = writeln!(Stdout::default(), "{}", error.to_json());
            }
            let _ = writeln!(std::io::stderr(), "{error}");
            error.exit_code()
        }
    }
}

async fn carry_out(cli: Cli) -> Result<(), CodedError> {
    let mut options = Options::from_arguments(cli.core.as_deref(), cli.token_file.as_deref())?;
    if let Command::Bench { no_verify: true, .. } = cli.command {
        options.verify = false;
    }
    if matches!(cli.command, Command::Doctor) {
        return look::doctor(options, cli.json).await;
    }
    if let Command::Import { folder, dataset, mode, samples } = cli.command {
        return import::run(&options, &Import { folder, dataset, mode, samples }, cli.json).await;
    }
    let client = Client::connect(options).await?;
    let done = command(&client, cli.command, cli.json).await;
    client.close().await;
    done
}

async fn command(client: &Client, command: Command, json: bool) -> Result<(), CodedError> {
    match command {
        Command::Ls { what: None } => files::list_datasets(client, json).await,
        Command::Ls { what: Some(what) } => files::list(client, &what, json).await,
        Command::Du { what } => files::sum_up(client, &what, json).await,
        Command::Cat { file } => files::cat(client, &file).await,
        Command::Cp { from, to } => files::copy(client, &from, &to, json).await,
        Command::Sample { dataset, numbers } => look::samples(client, &dataset, &numbers, json).await,
        Command::Bench { dataset, batch, ahead, seconds, in_order, sessions, .. } => {
            bench::run(client, &dataset, &bench::Load { sessions, batch, ahead, seconds, in_order }, json).await
        }
        Command::Doctor | Command::Import { .. } => Ok(()),
    }
}

/// Prints a document for programs, or the sentence for people.
fn say(json: bool, document: &Value, sentence: &str) -> Result<(), CodedError> {
    let mut out = Stdout::default();
    let said = if json { writeln!(out, "{document}") } else { writeln!(out, "{sentence}") };
    said.map_err(output)
}

/// What moves the bytes, and why it is not RDMA.
fn transport(stats: &Stats) -> String {
    let why = stats.transport_reason.as_deref().map(|why| format!(" (no RDMA: {why})")).unwrap_or_default();
    format!("{}{why}", stats.transport.unwrap_or("none"))
}

fn output(error: std::io::Error) -> CodedError {
    CodedError::io(&codes::WRITE_FAILED, "the answer can't be written", error)
}
