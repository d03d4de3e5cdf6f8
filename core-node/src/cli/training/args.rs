//! Arguments about models and federated runs.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Commands about models.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ModelCommand {
    /// Make a version of a model from a safetensors file on the core's own machine.
    Publish {
        /// The file.
        file: PathBuf,
        /// The model's name; the core is its writer.
        #[arg(long)]
        model: String,
    },
    /// List models.
    List,
    /// Show a version of a model: its tensors, and the updates that it was made of.
    Show {
        /// The version: NAME, NAME@3, NAME@tag.
        version: String,
    },
    /// List the versions of a model, newest first, and the rounds that made them.
    Log {
        /// Its name.
        model: String,
        /// Most versions to list.
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: u64,
    },
    /// Write a model into a file on the core's own machine.
    Export {
        /// The version: NAME, NAME@3, NAME@tag.
        version: String,
        /// The file; it must not exist.
        file: PathBuf,
    },
    /// Make a model again from the updates that its lineage names, and compare the bytes.
    Verify {
        /// The version: NAME@3.
        version: String,
    },
    /// Compute what a round would have made without one device.
    Without {
        /// The version that the round made: NAME@3.
        version: String,
        /// The device.
        #[arg(long)]
        device: String,
        /// The file that the model goes to; it must not exist.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Combine update files into a new model, without a core.
    Aggregate(AggregateArgs),
}

/// What `model aggregate` is given.
#[derive(Debug, Args)]
pub(in crate::cli) struct AggregateArgs {
    /// The model that the updates change.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) base: PathBuf,
    /// How, as `fedavg` or `fedadam:eta=0.01,clip=adaptive`.
    #[arg(long, default_value = "fedavg")]
    pub(in crate::cli) strategy: String,
    /// What the strategy kept from the round before.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) state: Option<PathBuf>,
    /// An update, as FILE or FILE=SAMPLES; may be given several times. It holds differences to the base.
    #[arg(long = "update", value_name = "FILE[=SAMPLES]", required = true)]
    pub(in crate::cli) updates: Vec<String>,
    /// The new model's file.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) out: PathBuf,
    /// Where what the strategy keeps goes [default: the new model's file with `.state` after it].
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) state_out: Option<PathBuf>,
}

/// Commands about federated runs.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum FederationCommand {
    /// Begin a run. Settings come from the file --config, and over them from these arguments.
    Start(Box<StartArgs>),
    /// Show runs, or one run with its rounds and devices.
    Status {
        /// The run.
        run: Option<String>,
        /// Show it again whenever it has changed, until it is over.
        #[arg(long)]
        watch: bool,
    },
    /// Show everything that happened in a run.
    Log {
        /// The run.
        run: String,
    },
    /// Let the running round end, and begin no other.
    Pause {
        /// The run.
        run: String,
    },
    /// Let a paused run go on.
    Resume {
        /// The run.
        run: String,
    },
    /// End a run now. Devices stop what they do for it.
    Abort {
        /// The run.
        run: String,
    },
    /// Say why a run stands where it stands, and what each device does.
    Explain {
        /// The run.
        run: String,
    },
}

/// What `federation start` is given.
#[derive(Debug, Args)]
pub(in crate::cli) struct StartArgs {
    /// The model: NAME, or NAME@3.
    #[arg(long)]
    pub(in crate::cli) model: Option<String>,
    /// The run's name [default: the model's, with a number].
    #[arg(long)]
    pub(in crate::cli) run: Option<String>,
    /// How updates are combined: fedavg, fedavgm, fedadam, fedyogi, fedadagrad, fedprox, fedbuff, median, trimmed-mean, krum or
    /// multi-krum, with parameters as `fedadam:eta=0.01,clip=adaptive`; or the path of a program on the core's machine [default: fedavg].
    #[arg(long)]
    pub(in crate::cli) strategy: Option<String>,
    /// `train`, or `evaluate` for a round of metrics alone [default: train].
    #[arg(long)]
    pub(in crate::cli) kind: Option<String>,
    /// Rounds [default: 1].
    #[arg(long, value_name = "N")]
    pub(in crate::cli) rounds: Option<u64>,
    /// Devices that may take part, as `site=berlin,line=3` [default: all].
    #[arg(long, value_name = "SELECTOR")]
    pub(in crate::cli) devices: Option<String>,
    /// Fewest updates of a round [default: 1].
    #[arg(long, value_name = "Q")]
    pub(in crate::cli) min_updates: Option<u32>,
    /// With so many updates a round is closed [default: the fewest].
    #[arg(long, value_name = "N")]
    pub(in crate::cli) goal: Option<u32>,
    /// Select so many times the goal, because devices drop out [default: 1].
    #[arg(long, value_name = "X")]
    pub(in crate::cli) over_select: Option<f64>,
    /// How long a round may take, as `10m` [default: 1h].
    #[arg(long, value_name = "SPAN")]
    pub(in crate::cli) deadline: Option<String>,
    /// Have devices judge the new model after each so many rounds [default: never].
    #[arg(long, value_name = "N")]
    pub(in crate::cli) evaluate_every: Option<u64>,
    /// How updates travel: `full`, `bf16` or `int8`; several may be given, the one that is liked best first [default: full].
    #[arg(long = "encoding", value_name = "NAME")]
    pub(in crate::cli) encodings: Vec<String>,
    /// A version of a dataset that is the training program, as `programs/digits@2` [default: each device's own].
    #[arg(long, value_name = "VERSION")]
    pub(in crate::cli) program: Option<String>,
    /// Seed of the selection of devices [default: 0].
    #[arg(long)]
    pub(in crate::cli) seed: Option<u64>,
    /// A value that training programs find in their task, as `learning-rate=0.05`; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    pub(in crate::cli) set: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !key.contains('.') => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a value is KEY=VALUE, the key without a dot".to_owned()),
    }
}
