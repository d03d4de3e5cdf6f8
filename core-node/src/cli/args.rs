//! The command line as typed: plain arguments, nothing opened and nothing looked up yet.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use headwater_host::version::PublishMode;

use super::training::{FederationCommand, ModelCommand};

/// Stores what devices publish, and sends it to those who may read it.
///
/// Start one with `core-node --data DIR init` and `core-node --data DIR run`; then `core-node --data DIR token create`
/// makes the token with which a device joins. All other commands talk to the running daemon.
#[derive(Debug, Parser)]
#[command(name = "core-node", version)]
pub(super) struct Cli {
    /// Folder in which the core keeps everything [env: HEADWATER_CORE_DATA] [default: /var/lib/headwater-core].
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,

    /// Configuration file [env: HEADWATER_CORE_CONFIG] [default: DIR/core.toml].
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Ask the core at this address instead of the one on this machine; needs --identity.
    #[arg(long, global = true, value_name = "HOST:PORT", requires = "identity")]
    pub(super) core: Option<String>,

    /// Folder with the identity that `core-node login` wrote, for asking a core elsewhere.
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) identity: Option<PathBuf>,

    /// Print JSON: one document, or one a line where there are many.
    #[arg(long, global = true)]
    pub(super) json: bool,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a new core: its authority, its keys and an empty store.
    Init {
        /// Its name, the origin of what it imports.
        #[arg(long, default_value = "core")]
        name: String,
        /// Address and UDP port on which devices will reach it.
        #[arg(long, value_name = "ADDR:PORT")]
        listen: Option<String>,
        /// Address and TCP port of metrics and the status page.
        #[arg(long, value_name = "ADDR:PORT")]
        admin_listen: Option<String>,
    },
    /// Run the core until it is told to stop.
    Run(RunArgs),
    /// Tokens, with which devices join.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Devices that joined.
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Datasets and their versions.
    #[command(subcommand)]
    Dataset(DatasetCommand),
    /// Collections: many datasets read as one.
    #[command(subcommand)]
    Collection(CollectionCommand),
    /// Make a version of a folder on the core's own machine.
    ///
    /// A second import of the same folder makes a second version, and stores only what changed.
    Import {
        /// The folder.
        folder: PathBuf,
        /// The dataset it becomes; the core is its writer.
        #[arg(long)]
        dataset: String,
        /// What it means that a file is gone from the folder: `append` keeps it in later versions, `mirror` does not.
        #[arg(long, default_value = "append", value_parser = modes())]
        mode: PublishMode,
        /// What its samples are from now on: `stems`, or a list of `tar`, `lines`, `npy` and `records:BYTES`.
        #[arg(long, value_name = "RULE")]
        samples: Option<String>,
    },
    /// Models: versions with a `model.safetensors`.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Federated runs: devices train a model together, and their data stays where it is.
    #[command(subcommand)]
    Federation(FederationCommand),
    /// Read everything that is stored again and check every hash.
    ///
    /// What is damaged is set aside and fetched again from the devices that still have it.
    Verify,
    /// Free the disk of what no version, tag, receipt or running download needs.
    Gc {
        /// Also free what devices have deleted locally since they sent it. It will be nowhere then.
        #[arg(long)]
        last_copy: bool,
        /// Only say what would be freed.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show how the core is: sessions, datasets, bytes, errors.
    Status,
    /// Check the machine and the configuration, and say what to change.
    Doctor,
    /// The configuration file.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Get an identity for asking a core from elsewhere, with a token that gives a role; it goes to the folder --identity.
    ///
    /// Make the token on the core: `core-node token create --role admin`.
    Login {
        /// The token.
        token: String,
        /// Name under which the core will know this identity.
        #[arg(long, default_value = "operator")]
        name: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Address and UDP port on which devices reach it; port 0 takes any free one.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(super) listen: Option<String>,
    /// Address and TCP port of metrics and the status page; port 0 takes any free one.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(super) admin_listen: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token.
    Create(TokenCreateArgs),
    /// List the tokens that can still be used.
    List,
    /// Let no device join with a token any more. Devices that joined with it stay.
    Revoke {
        /// Its id, as `token list` shows it.
        id: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct TokenCreateArgs {
    /// How many devices may join with it.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(super) uses: u32,
    /// For how long it can be used: `90s`, `30m`, `12h`, `1d`.
    #[arg(long, default_value = "1d", value_name = "SPAN", value_parser = super::span::parse)]
    pub(super) lifetime: u64,
    /// A label that the devices get, as KEY=VALUE; may be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(super) labels: Vec<(String, String)>,
    /// Dataset names that they may publish under, as `cam/{device}` or `cam/*`; may be given several times.
    #[arg(long, value_name = "PATTERN")]
    pub(super) write: Vec<String>,
    /// Datasets that they may read besides their own, as `models/**`; may be given several times.
    #[arg(long, value_name = "PATTERN")]
    pub(super) read: Vec<String>,
    /// Names that devices may take, as `cam-*`.
    #[arg(long, default_value = "", value_name = "PATTERN")]
    pub(super) names: String,
    /// What they are to the core.
    #[arg(long, default_value = "device", value_parser = ["device", "reader", "writer", "coordinator", "admin"])]
    pub(super) role: String,
    /// Address that devices dial, as HOST:PORT; may be given several times [default: the configuration's].
    #[arg(long = "address", value_name = "HOST:PORT")]
    pub(super) addresses: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeviceCommand {
    /// List devices: release, backlog, oldest unsent file, free disk, last error.
    List,
    /// Show one device.
    Show {
        /// Its name.
        name: String,
    },
    /// Set or take away labels.
    Label {
        /// Its name.
        name: String,
        /// Labels to set, as KEY=VALUE; `KEY=` takes one away.
        #[arg(required = true, value_parser = label, value_name = "KEY=VALUE")]
        labels: Vec<(String, String)>,
    },
    /// End a device's access for good; its connection closes at once. What it published stays.
    Revoke {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum DatasetCommand {
    /// List datasets.
    List {
        /// Only names that match, as `cam/*`.
        #[arg(long = "match", value_name = "PATTERN")]
        matching: Option<String>,
    },
    /// Show one version: NAME, NAME@3, NAME@tag or NAME@latest.
    Show {
        /// The version.
        version: String,
    },
    /// List a dataset's versions, newest first.
    Log {
        /// Its name.
        dataset: String,
        /// Most versions to list.
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: u64,
    },
    /// List the files of a version.
    Files {
        /// The version: NAME, NAME@3, NAME@tag.
        version: String,
        /// Only what lies under this path.
        #[arg(long, default_value = "", value_name = "PATH")]
        under: String,
        /// Most files to list; 0 lists all.
        #[arg(long, default_value_t = 0, value_name = "N")]
        limit: u64,
    },
    /// List what changed between two versions.
    Diff {
        /// The older: NAME@3.
        from: String,
        /// The newer: NAME@4, or NAME.
        to: String,
    },
    /// Write a version's files into a folder.
    Export {
        /// The version: NAME, NAME@3, NAME@tag.
        version: String,
        /// The folder; it must be empty or not exist.
        folder: PathBuf,
    },
    /// Give a version a name that keeps it from being dropped.
    Tag {
        /// The version: NAME@3; or the dataset, with --delete.
        version: String,
        /// The tag.
        tag: String,
        /// Take the tag away instead.
        #[arg(long)]
        delete: bool,
    },
    /// Delete a dataset with all its versions.
    Delete {
        /// Its name.
        dataset: String,
        /// Also where devices have deleted their own copies since they sent it. It will be nowhere then.
        #[arg(long)]
        last_copy: bool,
        /// Also where collections hold versions of it. Their numbers stay, without what they name.
        #[arg(long)]
        from_collections: bool,
    },
    /// Make another device a dataset's writer, or the core itself with --to-core.
    HandOver {
        /// Its name.
        dataset: String,
        /// The device.
        #[arg(required_unless_present = "to_core")]
        to: Option<String>,
        /// The core becomes the writer.
        #[arg(long, conflicts_with = "to")]
        to_core: bool,
    },
    /// Say what the samples of a dataset are.
    ///
    /// `stems`: files, those that share a stem together. Or a list of forms, and then samples are the records inside the files of these forms:
    /// `tar` (members of .tar, by stem), `lines` (.jsonl, .ndjson, .txt), `npy` (rows of .npy), `records:BYTES` (.bin).
    Samples {
        /// Its name.
        dataset: String,
        /// The rule; without one it is shown.
        rule: Option<String>,
    },
    /// Say which versions of a dataset are kept.
    Retention {
        /// Its name.
        dataset: String,
        /// Newest versions that are kept; 0 keeps all.
        #[arg(long, value_name = "N")]
        keep_last: Option<u32>,
        /// Days for which all versions are kept.
        #[arg(long, value_name = "DAYS")]
        keep_days: Option<u32>,
        /// Go back to the configuration's rule.
        #[arg(long, conflicts_with_all = ["keep_last", "keep_days"])]
        reset: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum CollectionCommand {
    /// Make a collection of the newest versions of all datasets that match.
    Create {
        /// Its name.
        name: String,
        /// Dataset names that belong to it, as `cam/*`.
        #[arg(long = "match", value_name = "PATTERN")]
        matching: String,
        /// Only datasets whose writer has this label, as KEY=VALUE; may be given several times.
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        /// Make a new number of it this often, where something changed: `1h`, `1d`.
        #[arg(long, value_name = "SPAN", value_parser = super::span::parse)]
        every: Option<u64>,
        /// Newest numbers that are kept, each with the versions that it names; 0 keeps all [default: 30 with --every].
        #[arg(long, value_name = "N", requires = "every")]
        keep: Option<u64>,
    },
    /// Delete a collection with all its numbers. Its datasets stay; what only it kept from retention may go.
    Delete {
        /// Its name.
        name: String,
    },
    /// List collections.
    List,
    /// Show a collection and its members: NAME or NAME@3.
    Show {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Read the configuration file and say what is wrong with it.
    Check,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".to_owned()),
    }
}

fn modes() -> impl TypedValueParser<Value = PublishMode> {
    PossibleValuesParser::new(PublishMode::NAMES).try_map(|mode| mode.parse())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
