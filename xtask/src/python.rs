//! Python with packages that nothing else needs, for what the project is compared with.

use std::path::PathBuf;
use std::process::Command;

use crate::process::{run, target_dir};

/// An interpreter with these packages from PyPI, beside those of the machine; none, with a word why, where they can't be had.
pub(crate) fn with(packages: &[&str]) -> Option<PathBuf> {
    let environment = target_dir().join("python-peers");
    let python = environment.join("bin/python");
    let make = || -> anyhow::Result<()> {
        if !python.is_file() {
            run(Command::new("python3").args(["-m", "venv", "--system-site-packages"]).arg(&environment))?;
        }
        run(Command::new(&python).args(["-m", "pip", "install", "-q"]).args(packages))
    };
    match make() {
        Ok(()) => Some(python),
        Err(error) => {
            println!("no comparison: {} can't be installed: {error:#}", packages.join(" and "));
            None
        }
    }
}
