//! The command line.

use clap::{Parser, Subcommand};

use crate::{check, setup, tidy};

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
    /// fmt, tidy, clippy, and all tests: what CI runs
    Test,
    /// Check the room rules, and report long files and functions
    Tidy,
}

/// Runs the command that the arguments name.
pub(crate) fn run() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Setup => setup::run(),
        Command::Test => check::run(),
        Command::Tidy => tidy::run(),
    }
}
