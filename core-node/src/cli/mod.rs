//! The command line: arguments are read into plain values ([`args`]), then into one request to the daemon, or into a
//! start of the daemon itself.
//!
//! stdout is data; progress and errors go to stderr.

mod args;
mod local;
mod plan;
mod remote;
mod render;
mod span;
mod training;
mod watch;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use headwater_host::error::{CodedError, codes};
use headwater_host::output::Stdout;

use args::Cli;
use plan::{Plan, Target};

use crate::control::Request;

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    match Plan::of(cli).and_then(carry_out) {
        Ok(code) => code,
        Err(error) => {
            say_error(&error, json);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Says what went wrong: to people in any case, and to programs that asked for JSON as a document. Where an output is
/// closed there is nobody else to tell.
fn say_error(error: &CodedError, json: bool) {
    if json {
        let _ = writeln!(Stdout::default(), "{}", error.to_json());
    }
    let _ = writeln!(std::io::stderr(), "{error}");
}

fn carry_out(plan: Plan) -> Result<ExitCode, CodedError> {
    match plan {
        Plan::Init(init) => local::init(&init),
        Plan::Run(run) => local::run(run),
        Plan::ConfigCheck { file, json } => local::config_check(&file, json),
        Plan::Login { token, name, identity, json } => block_on(remote::login(&token, &name, &identity, json)),
        Plan::Aggregate(args, json) => training::aggregate(&args, json),
        Plan::Ask { target, request, json, watch: true } => watch::watch(&target, &request, json),
        Plan::Ask { target, request, json, watch: false } => {
            let bar = local::ProgressBar::new();
            let mut renderer = render::Renderer::new(Stdout::default(), json);
            let mut failed = None;
            let take = |value: serde_json::Value| {
                if failed.is_none()
                    && let Err(error) = local::take(&bar, &mut renderer, value)
                {
                    failed = Some(error);
                }
            };
            let answered = ask(&target, &request, take);
            bar.finish();
            let bad = renderer.finish(answered.is_ok()).map_err(output);
            answered?;
            if let Some(error) = failed {
                return Err(error);
            }
            Ok(ExitCode::from(u8::from(bad? > 0)))
        }
    }
}

/// Asks a daemon; `take` gets the parts of its answer.
fn ask(target: &Target, request: &Request, take: impl FnMut(serde_json::Value)) -> Result<(), CodedError> {
    match target {
        Target::Local(data) => block_on(local::ask(data, request, take)),
        Target::Remote { core, identity } => block_on(remote::ask(core, identity, request, take)),
    }
}

/// Runs a command's future on a runtime of its own; the daemon has another, with all cores.
fn block_on<T>(future: impl Future<Output = Result<T, CodedError>>) -> Result<T, CodedError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CodedError::new(&codes::INTERNAL, "no runtime can be started").with_source(error))?
        .block_on(future)
}

fn output(error: std::io::Error) -> CodedError {
    CodedError::io(&codes::WRITE_FAILED, "the answer can't be written", error)
}
