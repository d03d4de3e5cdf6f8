//! The command line: reads arguments, asks the daemon over its local socket or, where none runs, does the work itself
//! under the data folder's lock, and prints the answer.
//!
//! stdout is data (tables, or JSON with `--json`); stderr is for people.

mod args;
mod print;
mod progress;

use std::io::{BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use headwater_host::control::{ControlClient, ControlHandler, ReplySender};
use headwater_host::error::{CodedError, codes};
use headwater_host::{durable, logging};
use headwater_protocol::name::NameTemplate;
use serde_json::Value;

use crate::agent::{Agent, Handler};
use crate::request::Request;
use crate::settings::{PublishOptions, Settings};
use crate::{daemon, doctor};
use args::{Arguments, Command, ConfigCommand, PublishArgs, TrainingCommand};

/// The data folder of an agent that root runs, if nobody says otherwise.
const SYSTEM_DATA_FOLDER: &str = "/var/lib/headwater/agent";
/// The data folder of anybody else's agent, below the home folder.
const HOME_DATA_FOLDER: &str = ".local/share/headwater/agent";
/// Threads of the runtime. What blocks has threads of its own.
const WORKERS: usize = 2;
/// Threads for what blocks: reading files, the catalog.
const BLOCKING_THREADS_MAX: usize = 8;
/// Stack of each thread, in bytes.
const STACK_BYTES: usize = 1 << 20;
/// How often `status --watch` asks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Most bytes of a token that is read from standard input.
const TOKEN_INPUT_BYTES_MAX: u64 = 16 << 10;

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json;
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            print::error(&error, json);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, CodedError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .map_err(|error| CodedError::io(&codes::INTERNAL, "the runtime can't start", error))?;
    let code = runtime.block_on(Box::pin(dispatch(arguments)));
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn dispatch(arguments: Arguments) -> Result<ExitCode, CodedError> {
    let data = data_folder(arguments.data.as_deref())?;
    let config = arguments.config.clone().or_else(|| std::env::var_os("HEADWATER_AGENT_CONFIG").map(PathBuf::from));
    let context = Context { data, config, json: arguments.json };
    match arguments.command {
        Command::Run => {
            let settings = Settings::load(&context.data, context.config.as_deref())?;
            let log = logging::LogOptions { filter: settings.log.filter.clone(), json: settings.log.json };
            logging::start(&log)
                .map_err(|error| CodedError::new(&codes::CONFIG_INVALID, "logging can't start").with_source(error))?;
            prepare_data_folder(&context.data)?;
            Box::pin(daemon::run(&context.data, context.config.as_deref())).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor => {
            let mut out = print::Out::default();
            let shown = |checks: &[_]| print::checks(&mut out, checks, context.json);
            let code = Box::pin(doctor::run(&context.data, context.config.as_deref(), shown)).await?;
            out.finish()?;
            Ok(code)
        }
        Command::Config { command: ConfigCommand::Check } => {
            let settings = Settings::load(&context.data, context.config.as_deref())?;
            let mut out = print::Out::default();
            print::settings(&mut out, &settings, context.json);
            out.finish()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status { watch: true } => context.watch_status().await,
        command => {
            let request = to_request(command)?;
            let answer = context.ask(&request).await?;
            let mut out = print::Out::default();
            let code = print::answer(&mut out, &request, &answer, context.json);
            out.finish()?;
            Ok(code)
        }
    }
}

struct Context {
    data: PathBuf,
    config: Option<PathBuf>,
    json: bool,
}

/// The daemon's answer.
async fn asked(mut client: ControlClient, request: &Request, shown: &progress::Shown) -> Result<Value, CodedError> {
    client.call_with_progress(request, |value| shown.update(&value)).await
}

impl Context {
    /// Asks the daemon, or does it here if none runs.
    async fn ask(&self, request: &Request) -> Result<Value, CodedError> {
        let shown = progress::Shown::new(self.json);
        let error = match ControlClient::connect(&self.data).await {
            Ok(client) => return asked(client, request, &shown).await,
            Err(error) => error,
        };
        if !error.is(&codes::DAEMON_NOT_RUNNING) {
            return Err(error);
        }
        let answer = self.answer_here(request, &shown).await;
        if answer.as_ref().is_err_and(|error| error.is(&codes::DATA_FOLDER_IN_USE))
            && let Ok(client) = ControlClient::connect(&self.data).await
        {
            // A daemon had the folder already and was not yet there to be asked.
            return asked(client, request, &shown).await;
        }
        answer
    }

    async fn answer_here(&self, request: &Request, shown: &progress::Shown) -> Result<Value, CodedError> {
        // Without a daemon the log is for developers only; what people need is in the answer.
        let _ = logging::start(&logging::LogOptions { filter: "error".to_owned(), json: false });
        if !self.data.exists() && needs_a_past(request) {
            let message = format!("there is no data folder `{}`", self.data.display());
            return Err(CodedError::new(&codes::FOLDER_MISSING, message)
                .with_hint("name the agent's folder with --data; a new one begins with `edge-agent join`"));
        }
        prepare_data_folder(&self.data)?;
        let agent = Agent::open(&self.data, self.config.as_deref())?;
        let (reply, mut receiver) = ReplySender::channel();
        let body = serde_json::to_value(request).map_err(|error| {
            CodedError::new(&codes::INTERNAL, "the request can't be written down").with_source(error)
        })?;
        let handler = Handler(Arc::clone(&agent));
        let mut work = handler.handle(body, reply);
        let result = loop {
            tokio::select! {
                biased;
                Some(value) = receiver.recv() => shown.update(&value),
                result = &mut work => break result,
            }
        };
        drop(work);
        agent.close();
        result
    }

    async fn watch_status(&self) -> Result<ExitCode, CodedError> {
        let mut out = print::Out::default();
        loop {
            let answer = self.ask(&Request::Status).await?;
            if !self.json {
                print::clear_screen(&mut out);
            }
            let _ = print::answer(&mut out, &Request::Status, &answer, self.json);
            out.finish()?;
            if out.reader_is_gone() {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::select! {
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
            }
        }
    }
}

/// Whether a request is about what was there before: where nothing was, it is a mistyped folder that must not be made.
fn needs_a_past(request: &Request) -> bool {
    match request {
        Request::Status
        | Request::Log { .. }
        | Request::Verify
        | Request::Remove { .. }
        | Request::Delete { .. }
        | Request::Free { .. }
        | Request::TrainingList
        | Request::TrainingLog { .. }
        | Request::TrainingAbort { .. }
        | Request::Leave => true,
        Request::Join { .. }
        | Request::Sync
        | Request::Publish { .. }
        | Request::Subscribe { .. }
        | Request::Local { .. } => false,
    }
}

fn to_request(command: Command) -> Result<Request, CodedError> {
    Ok(match command {
        Command::Join { core_or_token, name } => join(core_or_token, name)?,
        Command::Sync { once: _ } => Request::Sync,
        Command::Publish(args) => publish(&args)?,
        Command::Subscribe { name, to, keep } => {
            Request::Subscribe { dataset: name, to: absolute(&to)?, keep: Some(keep) }
        }
        Command::Local { dir, dataset } => Request::Local { folder: absolute(&dir)?, dataset },
        Command::Remove { name } => Request::Remove { dataset: name },
        Command::Delete { name, paths } => Request::Delete { dataset: name, paths },
        Command::Free { name, paths } => Request::Free { dataset: name, paths },
        Command::Status { .. } => Request::Status,
        Command::Log { count } => Request::Log { count },
        Command::Verify => Request::Verify,
        Command::Training(TrainingCommand::List) => Request::TrainingList,
        Command::Training(TrainingCommand::Log { run }) => Request::TrainingLog { run },
        Command::Training(TrainingCommand::Abort { run }) => Request::TrainingAbort { run },
        Command::Leave => Request::Leave,
        Command::Run | Command::Doctor | Command::Config { .. } => {
            return Err(CodedError::new(&codes::INTERNAL, "this command is not a request"));
        }
    })
}

fn join(core_or_token: String, name: Option<String>) -> Result<Request, CodedError> {
    // No token holds a colon.
    let is_core =
        core_or_token.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !is_core {
        return Ok(Request::Join { token: core_or_token, core: None, name });
    }
    if std::io::stdin().is_terminal() {
        print::prompt("Token: ");
    }
    let mut token = String::new();
    std::io::stdin()
        .lock()
        .take(TOKEN_INPUT_BYTES_MAX)
        .read_line(&mut token)
        .map_err(|error| CodedError::io(&codes::READ_FAILED, "the token can't be read", error))?;
    if token.trim().is_empty() {
        return Err(CodedError::new(&codes::USAGE, "there is no token on standard input")
            .with_hint(format!("try `edge-agent join {core_or_token} < FILE` with the token in FILE")));
    }
    Ok(Request::Join { token, core: Some(core_or_token), name })
}

fn publish(args: &PublishArgs) -> Result<Request, CodedError> {
    let dataset = NameTemplate::new(args.dataset.as_str())
        .map_err(|error| CodedError::new(&codes::NAME_INVALID, error.to_string()))?;
    let options = PublishOptions {
        mode: args.mode,
        every: args.every,
        quota: args.quota,
        min_free: args.min_free,
        durability: args.durability.map(Into::into),
    };
    Ok(Request::Publish { folder: absolute(&args.dir)?, dataset, options })
}

fn absolute(path: &Path) -> Result<PathBuf, CodedError> {
    // The real path where there is one, so that the same folder by two names is noticed.
    path.canonicalize().or_else(|_| std::path::absolute(path)).map_err(|error| {
        CodedError::new(&codes::PATH_UNSUITABLE, format!("`{}` is no usable path", path.display())).with_source(error)
    })
}

fn data_folder(given: Option<&Path>) -> Result<PathBuf, CodedError> {
    if let Some(path) = given {
        return absolute(path);
    }
    if let Some(path) = std::env::var_os("HEADWATER_AGENT_DATA") {
        return absolute(Path::new(&path));
    }
    match std::env::var_os("HOME") {
        Some(home) if !rustix::process::geteuid().is_root() => Ok(Path::new(&home).join(HOME_DATA_FOLDER)),
        _ => Ok(PathBuf::from(SYSTEM_DATA_FOLDER)),
    }
}

fn prepare_data_folder(data: &Path) -> Result<(), CodedError> {
    durable::create_folder(data, durable::PRIVATE_FOLDER_MODE).map_err(|error| {
        CodedError::io(&codes::WRITE_FAILED, format!("can't create the data folder `{}`", data.display()), error)
    })
}
