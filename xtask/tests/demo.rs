//! The demo in its short form, as it ships: real processes, a kill half-way, every byte compared.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Command, Stdio};

/// What a demo that succeeded said.
fn demo(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = command.arg("demo").args(arguments).stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

fn says(stdout: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(stdout.contains(wanted), "it does not say `{wanted}`:\n{stdout}");
    }
}

#[test]
fn the_short_demo_kills_a_device_and_ends_with_every_file_equal() {
    let stdout = demo(&["--short"]);
    says(&stdout, &["killed with SIGKILL", "the kill cost", "change one file", "subscribe"]);
    says(&stdout, &["3594 files compared byte by byte", "0 differ"]);
    says(
        &stdout,
        &["read each of 1797 samples exactly once, over ", "% of 100 samples that it never saw are told right"],
    );
}

#[test]
fn a_folder_of_ones_own_is_dealt_out_to_as_many_devices_as_wanted() {
    let data = tempfile::tempdir().unwrap();
    let mut state = 7_u32;
    for number in 0..6 {
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let bytes: Vec<u8> = noise.take(3 << 20).collect();
        let folder = data.path().join(format!("day{}", number % 2));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{number}.bin")), bytes).unwrap();
    }
    let stdout = demo(&["--data", data.path().to_str().unwrap(), "--devices", "2"]);
    says(
        &stdout,
        &["the kill cost", "6 files compared byte by byte", "0 differ", "read each of 6 samples exactly once"],
    );
}
