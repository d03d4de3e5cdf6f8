//! From plain arguments to ready objects: what is to be done, whom to ask, and the request.

use std::path::{Path, PathBuf};

use headwater_host::error::{CodedError, codes};

use super::args::{
    Cli, CollectionCommand, Command, ConfigCommand, DatasetCommand, DeviceCommand, TokenCommand, TokenCreateArgs,
};
use super::training::{self, AggregateArgs, FederationCommand, ModelCommand};
use crate::control::{CollectionCreate, Request, TokenCreate};

/// Where a core lives when nobody says otherwise.
const DATA_DEFAULT: &str = "/var/lib/headwater-core";

/// What the command line asks for.
pub(super) enum Plan {
    Init(InitPlan),
    Run(RunPlan),
    ConfigCheck { file: PathBuf, json: bool },
    Login { token: String, name: String, identity: PathBuf, json: bool },
    Aggregate(AggregateArgs, bool),
    Ask { target: Target, request: Request, json: bool, watch: bool },
}

/// A core to be made.
pub(super) struct InitPlan {
    pub(super) data: PathBuf,
    pub(super) config: PathBuf,
    pub(super) name: String,
    pub(super) listen: Option<String>,
    pub(super) admin_listen: Option<String>,
    pub(super) json: bool,
}

/// A daemon to be run.
pub(super) struct RunPlan {
    pub(super) data: PathBuf,
    pub(super) config: PathBuf,
    pub(super) listen: Option<String>,
    pub(super) admin_listen: Option<String>,
}

/// Which daemon is asked.
pub(super) enum Target {
    /// The one that has this data folder.
    Local(PathBuf),
    /// One elsewhere, with an identity of ours.
    Remote { core: String, identity: PathBuf },
}

impl Plan {
    /// What `cli` asks for.
    pub(super) fn of(cli: Cli) -> Result<Self, CodedError> {
        let Cli { data, config, core, identity, json, command } = cli;
        let data = data.or_else(|| of_environment("HEADWATER_CORE_DATA")).unwrap_or_else(|| DATA_DEFAULT.into());
        // A run is begun by a daemon that has read its own configuration: there the file is the run's.
        let run_file = config.clone();
        let config =
            config.or_else(|| of_environment("HEADWATER_CORE_CONFIG")).unwrap_or_else(|| data.join("core.toml"));
        if core.is_some() && matches!(command, Command::Init { .. } | Command::Run(_) | Command::Config(_)) {
            return Err(usage("this is done on the core's own machine, without --core"));
        }
        let mut watch = false;
        let request = match command {
            Command::Init { name, listen, admin_listen } => {
                return Ok(Self::Init(InitPlan { data, config, name, listen, admin_listen, json }));
            }
            Command::Run(run) => {
                return Ok(Self::Run(RunPlan { data, config, listen: run.listen, admin_listen: run.admin_listen }));
            }
            Command::Config(ConfigCommand::Check) => return Ok(Self::ConfigCheck { file: config, json }),
            Command::Login { token, name } => {
                let identity =
                    identity.ok_or_else(|| usage("`login` needs --identity DIR, where the identity goes"))?;
                return Ok(Self::Login { token, name, identity, json });
            }
            Command::Token(command) => token(command),
            Command::Device(command) => device(command),
            Command::Dataset(command) => dataset(command)?,
            Command::Collection(command) => collection(command)?,
            Command::Import { folder, dataset, mode, samples } => {
                Request::Import { folder: absolute(&folder)?, dataset, mode, samples }
            }
            Command::Model(ModelCommand::Aggregate(args)) => return Ok(Self::Aggregate(args, json)),
            Command::Model(command) => training::model(command)?,
            Command::Federation(FederationCommand::Start(start)) => training::start(*start, run_file.as_deref())?,
            Command::Federation(command) => {
                watch = matches!(command, FederationCommand::Status { watch: true, .. });
                training::federation(command)
            }
            Command::Verify => Request::Verify,
            Command::Gc { last_copy, dry_run } => Request::Gc { last_copy, dry_run },
            Command::Status => Request::Status,
            Command::Doctor => Request::Doctor,
        };
        let target = match (core, identity) {
            (Some(core), Some(identity)) => Target::Remote { core, identity },
            (None, None) => Target::Local(data),
            // Asked of the local daemon, the same command would be carried out there, and with all rights.
            (None, Some(_)) => {
                return Err(usage("--identity is for a core elsewhere: say which with --core HOST:PORT"));
            }
            (Some(_), None) => return Err(usage("--core needs --identity DIR, the folder that `login` wrote")),
        };
        Ok(Self::Ask { target, request, json, watch })
    }
}

fn token(command: TokenCommand) -> Request {
    match command {
        TokenCommand::Create(TokenCreateArgs { uses, lifetime, labels, write, read, names, role, addresses }) => {
            Request::TokenCreate(TokenCreate {
                uses,
                lifetime_s: lifetime,
                labels: labels.into_iter().collect(),
                write,
                read,
                names,
                role,
                addresses,
            })
        }
        TokenCommand::List => Request::TokenList,
        TokenCommand::Revoke { id } => Request::TokenRevoke { id },
    }
}

fn device(command: DeviceCommand) -> Request {
    match command {
        DeviceCommand::List => Request::DeviceList,
        DeviceCommand::Show { name } => Request::DeviceShow { name },
        DeviceCommand::Label { name, labels } => {
            let (remove, set): (Vec<_>, Vec<_>) = labels.into_iter().partition(|(_, value)| value.is_empty());
            Request::DeviceLabel {
                name,
                set: set.into_iter().collect(),
                remove: remove.into_iter().map(|(key, _)| key).collect(),
            }
        }
        DeviceCommand::Revoke { name } => Request::DeviceRevoke { name },
    }
}

fn dataset(command: DatasetCommand) -> Result<Request, CodedError> {
    Ok(match command {
        DatasetCommand::List { matching } => Request::DatasetList { pattern: matching },
        DatasetCommand::Show { version } => Request::DatasetShow { version },
        DatasetCommand::Log { dataset, limit } => Request::DatasetLog { dataset, limit },
        DatasetCommand::Files { version, under, limit } => Request::DatasetFiles { version, under, limit },
        DatasetCommand::Diff { from, to } => Request::DatasetDiff { from, to },
        DatasetCommand::Export { version, folder } => Request::DatasetExport { version, to: absolute(&folder)? },
        DatasetCommand::Tag { version, tag, delete: false } => Request::DatasetTag { version, tag },
        DatasetCommand::Tag { version, tag, delete: true } => {
            let dataset = version.split_once('@').map_or(version.as_str(), |(name, _)| name).to_owned();
            Request::DatasetUntag { dataset, tag }
        }
        DatasetCommand::Delete { dataset, last_copy, from_collections } => {
            Request::DatasetDelete { dataset, last_copy, from_collections }
        }
        DatasetCommand::Samples { dataset, rule } => Request::DatasetSamples { dataset, rule },
        DatasetCommand::HandOver { dataset, to, to_core: _ } => Request::DatasetHandOver { dataset, to },
        DatasetCommand::Retention { dataset, keep_last, keep_days, reset } => {
            if keep_last.is_none() && keep_days.is_none() && !reset {
                return Err(usage("say --keep-last N, --keep-days DAYS or --reset"));
            }
            Request::DatasetRetention { dataset, keep_last, keep_days, reset }
        }
    })
}

fn collection(command: CollectionCommand) -> Result<Request, CodedError> {
    Ok(match command {
        CollectionCommand::Create { name, matching, labels, every, keep } => {
            let labels = labels.into_iter().collect();
            Request::CollectionCreate(CollectionCreate { name, matching, labels, every_s: every, keep })
        }
        CollectionCommand::Delete { name } => Request::CollectionDelete { name },
        CollectionCommand::List => Request::CollectionList,
        CollectionCommand::Show { name } => {
            let (name, number) = match name.split_once('@') {
                None | Some((_, "latest")) => (name.split('@').next().unwrap_or_default().to_owned(), None),
                Some((name, number)) => {
                    let number =
                        number.parse().map_err(|_| usage(&format!("`{number}` is no number of a collection")))?;
                    (name.to_owned(), Some(number))
                }
            };
            Request::CollectionShow { name, number }
        }
    })
}

fn of_environment(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The daemon has another working folder than the person who asks.
pub(super) fn absolute(folder: &Path) -> Result<PathBuf, CodedError> {
    std::path::absolute(folder).map_err(|error| {
        CodedError::new(&codes::PATH_UNSUITABLE, format!("`{}` can't be used", folder.display())).with_source(error)
    })
}

pub(super) fn usage(sentence: &str) -> CodedError {
    CodedError::new(&codes::USAGE, sentence)
}
