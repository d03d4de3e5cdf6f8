//! The arguments of `headwater`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};

use crate::PublishMode;

/// Reads datasets from a Headwater core, and brings new ones there.
#[derive(Debug, Parser)]
#[command(name = "headwater", version, propagate_version = true)]
pub(super) struct Cli {
    /// Where the core is, as HOST:PORT; else HEADWATER_CORE, else the addresses in the token
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub(super) core: Option<String>,
    /// File with a token of `core-node token create --role reader`; else HEADWATER_TOKEN_FILE
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Prints JSON, one document a line
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// What to do
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists datasets, or the files of a version
    Ls {
        /// What to list: nothing for all datasets, `cameras@latest`, or `cameras@7/folder`
        what: Option<String>,
    },
    /// Sums up the files of a version, by folder
    Du {
        /// Of what: `cameras@latest`, or `cameras@7/folder`
        what: String,
    },
    /// Writes a file of a version to standard output
    Cat {
        /// Which: `cameras@latest/train/0001.png`
        file: String,
    },
    /// Copies a file or folder of a version to this machine
    Cp {
        /// From where: `cameras@latest/train`, or `cameras@7` for all of it
        from: String,
        /// To which file or folder here; it must not exist yet, unless it is a folder to put a file into
        to: PathBuf,
    },
    /// Makes a folder on this machine the next version of a dataset, with a token of the role `writer`
    ///
    /// Only what the core lacks is sent. An import that was cut is begun again with the same command, and goes on where it
    /// stopped; a second import of the folder reads and sends only what changed.
    Import {
        /// The folder
        folder: PathBuf,
        /// The dataset that it becomes; the token is its writer from then on
        #[arg(long, value_name = "NAME")]
        dataset: String,
        /// What it means that a file is gone from the folder: `append` keeps it in later versions, `mirror` does not
        #[arg(long, default_value = "append", value_parser = modes())]
        mode: PublishMode,
        /// What its samples are from now on: `stems`, or a list of `tar`, `lines`, `npy` and `records:BYTES`
        #[arg(long, value_name = "RULE")]
        samples: Option<String>,
    },
    /// Shows samples: their files, sizes, and the beginning of their bytes
    Sample {
        /// Of what: `cameras@latest`, or a collection
        dataset: String,
        /// Their numbers, from 0
        #[arg(required = true)]
        numbers: Vec<u64>,
    },
    /// Measures how fast samples come
    ///
    /// Over RDMA also what the device does by itself, with `ib_write_bw` where that is installed, and the rate of its link.
    Bench {
        /// Of what: `cameras@latest`, or a collection
        dataset: String,
        /// Samples of a batch
        #[arg(long, default_value_t = 256, value_name = "N")]
        batch: u64,
        /// Batches that are under way at once
        #[arg(long, default_value_t = 4, value_name = "N")]
        ahead: usize,
        /// Connections that read at once, each everything
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
        sessions: u16,
        /// Seconds to measure, after one pass over the data or as many seconds at most
        #[arg(long, default_value_t = 5, value_name = "S")]
        seconds: u64,
        /// Reads in the order of the version, and not shuffled
        #[arg(long)]
        in_order: bool,
        /// Does not check what arrives
        #[arg(long)]
        no_verify: bool,
    },
    /// Checks what a job needs: token, control connection, data connection
    Doctor,
}

fn modes() -> impl TypedValueParser<Value = PublishMode> {
    PossibleValuesParser::new(PublishMode::NAMES).try_map(|mode| mode.parse())
}
