//! The short form of `cargo run -p simulations -- reconnect`: a fleet with backlogs comes back after the core was restarted.

use std::time::Duration;

use simulations::reconnect::{CORE_BYTES_MAX, Options, run};

#[test]
fn a_fleet_with_backlogs_comes_back_after_a_restart_of_the_core() {
    let tally = run(Options { devices: 40, backlog_bytes: 512 << 10, within: Duration::from_secs(3), seed: 1 });
    assert!(tally.core_peak_bytes < CORE_BYTES_MAX, "{tally}");
}
