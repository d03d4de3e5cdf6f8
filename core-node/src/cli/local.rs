//! Commands on this machine: making a core, running it, and asking the one that runs.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use headwater_host::config::ConfigSources;
use headwater_host::control::ControlClient;
use headwater_host::error::{CodedError, codes};
use headwater_host::lock::DataFolderLock;
use headwater_host::logging::{self, LogOptions};
use headwater_host::output::Stdout;
use serde_json::Value;

use super::output;
use super::plan::{InitPlan, RunPlan};
use super::render::Renderer;
use crate::config::Config;
use crate::control::{Answer, Request};
use crate::daemon::{self, InitOptions, RunOptions};

/// Threads for what blocks: the catalog, packs, compression, commands. Each keeps what it compresses with, about a megabyte, so
/// that tokio's own limit of 512 would cost more memory than all else when a whole fleet comes back at once. Far more
/// than there are cores, because most of them wait: for the disk, and commands for who reads their answers.
const BLOCKING_THREADS_MAX: usize = 128;
/// How long work that is under way may go on when the daemon stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Opens the names of environment variables that are configuration.
const ENVIRONMENT_PREFIX: &str = "HEADWATER_CORE_";
/// Those among them that are not: the data folder and the file itself.
const ENVIRONMENT_NOT_KEYS: [&str; 2] = ["DATA", "CONFIG"];

pub(super) fn init(plan: &InitPlan) -> Result<ExitCode, CodedError> {
    let settings = [("listen", &plan.listen), ("admin_listen", &plan.admin_listen)]
        .into_iter()
        .filter_map(|(key, value)| value.clone().map(|value| (key.to_owned(), value)))
        .collect();
    for (flag, address) in [("--listen", &plan.listen), ("--admin-listen", &plan.admin_listen)] {
        if let Some(address) = address {
            address.parse::<std::net::SocketAddr>().map_err(|_| {
                CodedError::new(&codes::USAGE, format!("`{address}` is no address for {flag}"))
                    .with_hint("write ADDR:PORT, as 0.0.0.0:4733")
            })?;
        }
    }
    daemon::init(&InitOptions {
        folder: plan.data.clone(),
        config_file: plan.config.clone(),
        name: plan.name.clone(),
        settings,
    })?;
    let mut out = Stdout::default();
    let said = if plan.json {
        serde_json::json!({ "data": plan.data, "config": plan.config, "name": plan.name }).to_string()
    } else {
        let data = plan.data.display();
        format!(
            "a core is in `{data}`\nstart it:     core-node --data {data} run\nlet one join: core-node --data {data} token create"
        )
    };
    writeln!(out, "{said}").map_err(output)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn run(plan: RunPlan) -> Result<ExitCode, CodedError> {
    let mut sources = sources(&plan.config);
    for (key, value) in [("listen", plan.listen), ("admin_listen", plan.admin_listen)] {
        if let Some(value) = value {
            sources = sources.flag(key, value);
        }
    }
    let config: Config = sources.load()?;
    logging::start(&LogOptions { filter: config.log.clone(), json: config.log_json })
        .map_err(|error| CodedError::new(&codes::CONFIG_INVALID, error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("core")
        .build()
        .map_err(|error| CodedError::new(&codes::INTERNAL, "no runtime can be started").with_source(error))?;
    let lock = DataFolderLock::acquire(&plan.data)?;
    let ended = runtime.block_on(daemon::run(RunOptions { folder: plan.data, config }, &lock));
    // Work that is under way may be cut anywhere, as by a kill, and is not waited for without end.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    // A thread may still write until the process has ended: then the kernel lets go of the lock, and nobody before.
    std::mem::forget(lock);
    ended.map(|()| ExitCode::SUCCESS)
}

pub(super) fn config_check(file: &Path, json: bool) -> Result<ExitCode, CodedError> {
    if !file.exists() {
        return Err(CodedError::new(&codes::CONFIG_INVALID, format!("there is no file `{}`", file.display()))
            .with_hint("name one with --config FILE; without one the core runs on its defaults"));
    }
    let config: Config = sources(file).load()?;
    let said = if json {
        serde_json::to_string(&config).expect("a configuration is plain data")
    } else {
        format!("`{}` is good", file.display())
    };
    writeln!(Stdout::default(), "{said}").map_err(output)?;
    Ok(ExitCode::SUCCESS)
}

fn sources(file: &Path) -> ConfigSources {
    ConfigSources::new().file(file, false).environment(ENVIRONMENT_PREFIX, &ENVIRONMENT_NOT_KEYS, std::env::vars())
}

/// Asks the daemon that has the data folder `data`; `take` gets the parts of its answer.
pub(super) async fn ask(data: &Path, request: &Request, take: impl FnMut(Value)) -> Result<(), CodedError> {
    let mut client = ControlClient::connect(data).await.map_err(|error| {
        if error.is(&codes::DAEMON_NOT_RUNNING) {
            return error.with_hint(format!(
                "start it: `core-node --data {} run`; or name another core's folder with --data",
                data.display()
            ));
        }
        error
    })?;
    client.call_with_progress(request, take).await.map(|_| ())
}

/// Shows one part of an answer: progress in the bar, everything else through the renderer.
pub(super) fn take<W: Write>(bar: &ProgressBar, renderer: &mut Renderer<W>, value: Value) -> Result<(), CodedError> {
    let answer: Answer = serde_json::from_value(value).map_err(|error| {
        CodedError::new(&codes::BAD_FRAME, format!("the core's answer is not understood: {error}"))
            .with_hint("use the command line of the core's own release")
    })?;
    if let Answer::Progress(progress) = &answer {
        bar.show(progress);
    }
    renderer.take(&answer).map_err(output)
}

/// A bar on stderr for long work; nothing where stderr is no terminal.
pub(super) struct ProgressBar {
    bar: Mutex<Option<indicatif::ProgressBar>>,
    shown: bool,
}

impl ProgressBar {
    pub(super) fn new() -> Self {
        Self { bar: Mutex::new(None), shown: std::io::stderr().is_terminal() }
    }

    fn show(&self, progress: &crate::control::Progress) {
        if !self.shown {
            return;
        }
        let mut bar = self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bar = bar.get_or_insert_with(|| {
            let bar = if progress.bytes_total > 0 {
                indicatif::ProgressBar::new(progress.bytes_total)
            } else {
                indicatif::ProgressBar::new_spinner()
            };
            let template = if progress.bytes_total > 0 {
                "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}"
            } else {
                "{spinner} {msg} {bytes} {bytes_per_sec}"
            };
            if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        bar.set_message(format!("{} ({} files)", progress.what, progress.files));
        bar.set_position(progress.bytes);
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}
