//! The demo in its short form, as it ships: real processes, a kill half-way, every byte compared.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Command, Stdio};

#[test]
fn the_short_demo_ends_with_every_file_equal() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_xtask")).args(["demo", "--short"]).stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("3594 files compared byte by byte"), "{stdout}");
    assert!(stdout.contains("0 differ"), "{stdout}");
}
