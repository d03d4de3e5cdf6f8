//! `peers`: the baselines of the benchmarks, each as bare as it can be, one subcommand a baseline.
//!
//! Each prints one JSON document with what it did and how long that took. None imports the workspace's own crates: what
//! they measure must not move when Headwater does.

#![allow(clippy::print_stdout, reason = "stdout is this program's result")]

mod bare_quinn;
mod chunk;
mod hash;
mod idle;
mod write;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    baseline: Baseline,
}

#[derive(Subcommand)]
enum Baseline {
    /// fastcdc and BLAKE3 on one thread, over a file that is read into memory first
    Chunk { file: PathBuf },
    /// Reading files and hashing them with BLAKE3, on all cores
    Hash { files: Vec<PathBuf> },
    /// A file through one stream between two bare quinn endpoints with quinn's defaults, received into memory
    Quinn { file: PathBuf },
    /// Plain writes of a file's bytes into a new file, and one fdatasync
    Write { file: PathBuf, to: PathBuf },
    /// A bare quinn server's memory for each of many idle connections
    Idle {
        #[arg(long, default_value_t = 1000)]
        connections: usize,
    },
}

fn main() -> anyhow::Result<()> {
    let result = match Arguments::parse().baseline {
        Baseline::Chunk { file } => chunk::measure(&file)?,
        Baseline::Hash { files } => hash::measure(&files)?,
        Baseline::Quinn { file } => bare_quinn::measure(&file)?,
        Baseline::Write { file, to } => write::measure(&file, &to)?,
        Baseline::Idle { connections } => idle::measure(connections)?,
    };
    println!("{result}");
    Ok(())
}
