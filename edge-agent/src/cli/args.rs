//! The command line as clap reads it: plain arguments; what they mean is decided in [`super`].

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use headwater_host::config::{HumanBytes, HumanDuration};
use headwater_protocol::commit::Durability;

use crate::settings::{KEEP_VERSIONS, Mode};

/// Carries a device's folders to a core as signed dataset versions, and keeps datasets of others here.
#[derive(Debug, Parser)]
#[command(name = "edge-agent", version, propagate_version = true)]
pub(super) struct Arguments {
    /// The agent's own folder: identity, catalog, settings.
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(super) data: Option<PathBuf>,
    /// The settings file; `agent.toml` in the data folder by default.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print data as JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Join a core with a token that its operator made (`core-node token create`).
    Join {
        /// The token, or the core's HOST:PORT: then the token is read from standard input, where no list of processes and
        /// no shell's history shows it.
        #[arg(value_name = "CORE_OR_TOKEN")]
        core_or_token: String,
        /// The name by which the core shall know this device; its host name by default.
        #[arg(long)]
        name: Option<String>,
    },
    /// Run in the foreground until stopped: watch, publish, subscribe.
    Run,
    /// Scan all folders and exchange with the core what is new. Files that were modified a moment ago are waited for, for a
    /// minute at most; those that go on changing are named as left out.
    Sync {
        /// Do it once and report. To keep folders in sync use `edge-agent run`.
        #[arg(long, required = true)]
        once: bool,
    },
    /// Publish a folder as a dataset. A file goes once it has been left alone for a moment; the first version waits until
    /// there is one, or is empty if the folder is. A folder that is published already keeps the settings that are not given;
    /// to be rid of one, `remove` the dataset first, which costs nothing of it.
    Publish(PublishArgs),
    /// Keep datasets of others here.
    Subscribe {
        /// A dataset, a collection, or a pattern such as `cam/*`.
        name: String,
        /// The folder: its newest version is DIR/current. Of a pattern or a collection, DIR/NAME/current for each dataset.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Versions that stay.
        #[arg(long, default_value_t = KEEP_VERSIONS)]
        keep: u32,
    },
    /// Version a folder for this device alone: nothing of it is ever offered to a core.
    Local {
        /// The folder.
        dir: PathBuf,
        /// The dataset's name on this device.
        #[arg(long)]
        dataset: String,
    },
    /// Stop publishing or keeping a dataset. Its files stay where they are.
    Remove {
        /// The dataset or subscription, as it was given.
        name: String,
    },
    /// Remove files here and from later versions. Earlier versions at the core keep them.
    Delete {
        /// The dataset.
        name: String,
        /// Files or folders in it.
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Remove the local bytes of files that are safe at the core. They stay in every later version.
    Free {
        /// The dataset.
        name: String,
        /// Files or folders in it.
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Say how things are.
    Status {
        /// Say it again every second until stopped.
        #[arg(long)]
        watch: bool,
    },
    /// Say what happened.
    Log {
        /// So many of the newest events.
        #[arg(long, short = 'n', default_value_t = 50)]
        count: u32,
    },
    /// Read every file again and compare it with the catalog.
    Verify,
    /// Tasks of federated runs on this device.
    #[command(subcommand)]
    Training(TrainingCommand),
    /// Check this machine and say what to change.
    Doctor,
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Leave the core. The folders' files stay.
    Leave,
}

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// The folder.
    pub(super) dir: PathBuf,
    /// The dataset's name; may hold `{device}` and `{label.KEY}`.
    #[arg(long)]
    pub(super) dataset: String,
    /// What happens when files are deleted here: `append`, the default, keeps them in the dataset, `mirror` follows.
    #[arg(long, value_parser = modes())]
    pub(super) mode: Option<Mode>,
    /// Time between two scans, as `5m`.
    #[arg(long)]
    pub(super) every: Option<HumanDuration>,
    /// The most that its files may take on the disk, as `50GB`: above it, the oldest that the core keeps are freed.
    #[arg(long)]
    pub(super) quota: Option<HumanBytes>,
    /// The least that must stay free on the disk, as `1GB`: below it, files are freed likewise.
    #[arg(long)]
    pub(super) min_free: Option<HumanBytes>,
    /// How well the core must keep what is freed for these; `local-disk` by default.
    #[arg(long, value_enum)]
    pub(super) durability: Option<DurabilityArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum DurabilityArg {
    LocalDisk,
    Backup,
    ReplicatedStore,
}

impl From<DurabilityArg> for Durability {
    fn from(durability: DurabilityArg) -> Self {
        match durability {
            DurabilityArg::LocalDisk => Self::LocalDisk,
            DurabilityArg::Backup => Self::Backup,
            DurabilityArg::ReplicatedStore => Self::ReplicatedStore,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum TrainingCommand {
    /// List the tasks, and what became of the last ones.
    List,
    /// Show what the program of a run's task said.
    Log {
        /// The run.
        run: String,
    },
    /// Do nothing more for a run's task: its program is stopped, and the core is told.
    Abort {
        /// The run.
        run: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check it, and print what is in force.
    Check,
}

fn modes() -> impl TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(Mode::NAMES).try_map(|mode| mode.parse())
}
