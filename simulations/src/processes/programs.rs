//! The programs under test: beside the running test, or built once into the same folder.
//!
//! `cargo test --workspace` builds them anyway. Where a single package is tested they may be missing or older than their
//! sources, which their dependency files (`target/debug/core-node.d`) tell; then they are built with the same profile.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// Names a folder with programs to test instead of those that cargo builds.
const FOLDER_VARIABLE: &str = "HEADWATER_TEST_PROGRAMS";

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `core-node`
    Core,
    /// `edge-agent`
    Agent,
    /// `headwater`
    Client,
}

impl Program {
    /// The name of its file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Core => "core-node",
            Self::Agent => "edge-agent",
            Self::Client => "headwater",
        }
    }
}

/// Where `program` is; it is built first if need be.
pub fn program(program: Program) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(find).join(program.name())
}

fn find() -> PathBuf {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        return folder.into();
    }
    let test = std::env::current_exe().expect("a test has a path");
    // target/<profile>/deps/<test>, or target/<profile>/<program> where a command of this package asks.
    let folder = test.parent().expect("a program lies in a folder");
    let profile = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder }.to_owned();
    let all = [Program::Core, Program::Agent, Program::Client];
    if !all.iter().all(|program| is_fresh(&profile.join(program.name()))) {
        build(&profile);
    }
    profile
}

/// Whether a program is there and no source of it is newer.
fn is_fresh(path: &Path) -> bool {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let Some(built) = modified(path) else { return false };
    let Ok(sources) = std::fs::read_to_string(path.with_extension("d")) else { return false };
    let sources = sources.split_once(':').map_or("", |(_, sources)| sources);
    sources
        .split_ascii_whitespace()
        .all(|source| modified(Path::new(source)).is_some_and(|changed: SystemTime| changed <= built))
}

fn build(profile_folder: &Path) {
    let target = profile_folder.parent().expect("a profile's folder lies in target");
    let profile = match profile_folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    // Cargo's own lock keeps several tests from building at once.
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "build",
            "--quiet",
            "--profile",
            profile,
            "--package",
            "core-node",
            "--package",
            "edge-agent",
            "--package",
            "headwater-client",
            "--target-dir",
        ])
        .arg(target)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the programs under test could not be built");
}
