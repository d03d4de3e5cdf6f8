//! Child processes: running one to its end with an error that names it, and finding the repository's root.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, bail};

/// The repository's root folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository's root")
}

/// The cargo that runs us, as it would run if a person had typed the command.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // Some build scripts run again when these change, and with them most of the workspace is built again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(tells_of_our_build) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether cargo has set the variable to tell a program which package it was built from.
fn tells_of_our_build(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "OUT_DIR"
}

/// Where cargo builds: `CARGO_TARGET_DIR`, or `target/`.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The command as a person would type it.
pub(crate) fn line_of(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| Path::new(word).file_name().filter(|_| word == command.get_program()).unwrap_or(word))
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs `command` with our own output streams, and fails if it does.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let line = line_of(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("`{line}` can't be started"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs `command` and gives its standard output; what it says on standard error is in the error.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let line = line_of(command);
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("`{line}` can't be started"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}\n{}", String::from_utf8_lossy(&stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Whether `command` can be started and succeeds, with nothing shown.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether a program of this name is on the `PATH`.
pub(crate) fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|folder| folder.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cargo_of_ours_does_not_know_who_runs_it() {
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "a test is run by cargo");
        let command = cargo();
        let removed = |name: &str| command.get_envs().any(|(key, value)| key == name && value.is_none());
        assert!(removed("CARGO_PKG_NAME") && removed("CARGO_MANIFEST_DIR"));
        assert!(!removed("CARGO_TARGET_DIR") && !removed("CARGO_HOME"));
    }
}
