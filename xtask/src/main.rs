//! `cargo xtask`: the repository's own commands, in one place, so that what a person runs is what CI runs.
//!
//! It depends on none of the workspace's crates, so that it builds on a machine that has only a Rust toolchain and a C
//! compiler; what it measures and shows, it does with the real binaries as child processes.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program, whose output is for people")]

mod audit;
mod bench;
mod check;
mod cli;
mod demo;
mod dist;
mod lab;
mod peers;
mod process;
mod python;
mod setup;
mod tidy;
mod wheel;
mod world;

fn main() -> std::process::ExitCode {
    match cli::run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // Without the backtrace that anyhow would add: what failed is a command, and its error names it.
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
