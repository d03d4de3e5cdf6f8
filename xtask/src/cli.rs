//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{check, demo, setup, tidy};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The repository's own commands", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check what this machine needs, and install what is missing on Debian and Ubuntu
    Setup,
    /// Show the main job on real data: devices, a core, a kill half-way, a subscriber
    Demo(DemoArguments),
    /// fmt, tidy, clippy, and all tests: what CI runs
    Test,
    /// Check the room rules, and report long files and functions
    Tidy,
}

#[derive(Args)]
struct DemoArguments {
    /// Use the files of this folder instead of the demo's own data
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Devices that publish
    #[arg(long, value_name = "N", default_value_t = 3)]
    devices: usize,
    /// Use the small data set of the repository, as the tests do
    #[arg(long)]
    short: bool,
    /// Leave the folder with all data and logs in place
    #[arg(long)]
    keep: bool,
}

/// Runs the command that the arguments name.
pub(crate) fn run() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Setup => setup::run(),
        Command::Demo(DemoArguments { data, devices, short, keep }) => {
            demo::run(&demo::Options { data, devices, short, keep })
        }
        Command::Test => check::run(),
        Command::Tidy => tidy::run(),
    }
}
