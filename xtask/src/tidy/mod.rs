//! `tidy`: the rules of the house that the compiler doesn't know.
//!
//! Two nets are here: who may import whom, on cargo's own dependency graph ([`rooms`]), and which paths the source of a
//! room may name, on its syntax tree ([`sources`]). The third is clippy with the `clippy.toml` of each package, which
//! resolves types and so sees through renames. Long files and functions are reported and fail nothing.

mod rooms;
mod sources;

use anyhow::bail;

/// Checks everything; fails with all that was found.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut findings = rooms::check()?;
    let survey = sources::survey()?;
    findings.extend(survey.findings);
    println!("{} files of Rust, {} lines before tests", survey.files, survey.lines);
    if !survey.long.is_empty() {
        println!(
            "long, for a look (files over {}, functions over {} lines):",
            sources::FILE_LINES,
            sources::FUNCTION_LINES
        );
        for long in &survey.long {
            println!("  {long}");
        }
    }
    if findings.is_empty() {
        return Ok(());
    }
    for finding in &findings {
        println!("tidy: {finding}");
    }
    bail!("{} rule(s) of the house broken; docs/ARCHITECTURE.md says why they are there", findings.len())
}
