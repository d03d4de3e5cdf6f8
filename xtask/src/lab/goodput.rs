//! The goodput of real daemons and of rsync over links, between network namespaces of this machine.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, bail};

use crate::bench::report;
use crate::process::{cargo, output};
use crate::world::Programs;

/// Marks of the section of docs/benchmarks.md.
const SECTION: &str = "goodput of real daemons: written by `cargo xtask lab goodput`";

/// Measures, prints, and writes the report if no link was left out. `links` are parts of links' names, which leave the others
/// out, and files with recorded links, which come in addition.
pub(super) fn run(links: &[String]) -> anyhow::Result<()> {
    let programs = Programs::build(true)?;
    let Some(folder) = programs.core.parent() else { bail!("{} lies in no folder", programs.core.display()) };
    let mut command = cargo();
    command.args(["run", "--locked", "--quiet", "--package", "simulations", "--", "links"]).args(links);
    command.env("HEADWATER_TEST_PROGRAMS", folder).stderr(Stdio::inherit());
    let table = output(&mut command).context("the links could not be measured")?;
    println!("\n{table}");
    if links.iter().all(|link| Path::new(link).is_file()) {
        let text = format!("{}, `cargo xtask lab goodput`, {}:\n\n{table}", report::when()?, report::machine()?);
        report::write_section(SECTION, &text)
    } else {
        println!("docs/benchmarks.md is left as it is: it holds the figures of one whole run");
        Ok(())
    }
}
