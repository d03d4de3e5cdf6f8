//! Tests that can't check on this machine what they are for.

use std::io::Write as _;

/// Names a file that gets a line for each test that could not test what it is for.
const SKIPPED_VARIABLE: &str = "HEADWATER_TEST_SKIPPED";

/// Says what could not be tested, where the test command finds it: output of a test that passes is shown to nobody.
#[allow(clippy::print_stderr, reason = "a test that can't check something must say so")]
pub fn say_skipped(reason: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("{test}: {}\n", reason.replace('\n', " "));
    eprint!("SKIPPED {line}");
    if let Some(path) = std::env::var_os(SKIPPED_VARIABLE) {
        let file = std::fs::File::options().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the list of skipped tests takes a line");
    }
}
