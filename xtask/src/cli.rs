//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{audit, bench, check, demo, dist, lab, peers, setup, tidy};

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
    /// Check the dependencies' licences and advisories, and fuzz for a while
    Audit {
        /// Seconds for each fuzz target; 0 leaves fuzzing out
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Only these fuzz targets, and no check of dependencies
        targets: Vec<String>,
    },
    /// Measure the figures of docs/benchmarks.md; a whole run writes them there
    Bench {
        /// Only these figures, and print them
        names: Vec<String>,
        /// Divide all sizes by this: a trial of the benchmarks with the tests' profile, which writes nothing
        #[arg(long, default_value_t = 1)]
        shrink: u64,
        /// The disk-backed folder; cargo's target folder by default
        #[arg(long, value_name = "DIR")]
        disk: Option<PathBuf>,
    },
    /// Run real daemons over emulated links, in a virtual machine or between network namespaces
    Lab {
        #[command(subcommand)]
        errand: LabCommand,
    },
    /// Hold the strategies of federated runs against flwr and numpy, and with vector instructions on and off
    Peers {
        /// Random models to compare them on
        #[arg(long, default_value_t = 5)]
        seeds: u32,
    },
    /// Make a tarball and a Debian package of the agent, linked statically, and of the core
    Dist {
        /// The Rust target to build for; this machine's by default
        #[arg(long)]
        target: Option<String>,
    },
}

#[derive(Subcommand)]
enum LabCommand {
    /// One sync over a lossy link in a virtual machine with Debian's kernel, which the core then verifies
    Short,
    /// Let training jobs read over RDMA from a Soft-RoCE device in the virtual machine, with its bandwidth beside that of ib_write_bw
    Rdma,
    /// Profile a core and a job that reads over RDMA in the virtual machine
    Profile,
    /// Measure what daemons and rsync make of links, as root; a whole run writes docs/benchmarks.md
    Goodput {
        /// Parts of links' names, which leave out the others and write nothing; or files with recorded links, in addition
        links: Vec<String>,
    },
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
        Command::Audit { seconds, targets } => audit::run(seconds, &targets),
        Command::Bench { names, shrink, disk } => bench::run(&bench::Options { names, shrink, disk }),
        Command::Lab { errand: LabCommand::Short } => lab::run(&lab::Errand::Short),
        Command::Lab { errand: LabCommand::Rdma } => lab::run(&lab::Errand::Rdma),
        Command::Lab { errand: LabCommand::Profile } => lab::run(&lab::Errand::Profile),
        Command::Lab { errand: LabCommand::Goodput { links } } => lab::run(&lab::Errand::Goodput(links)),
        Command::Peers { seeds } => peers::run(seeds),
        Command::Dist { target } => dist::run(target.as_deref()),
    }
}
