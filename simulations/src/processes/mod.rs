//! Real processes: cores and agents as an operator runs them, each in folders of its own, and peers that lie to them.
//!
//! A test starts a [`CoreProcess`], lets devices join it as [`AgentProcess`]es, runs commands, kills what it likes, and
//! compares folders. Everything that was started is gone when its value is dropped, and no port or path is fixed, so
//! tests run beside each other. When a test fails, the logs of its daemons are printed.
//!
//! [`hostile`] has peers that hold a real identity and speak the protocol, but not the truth.

mod agent;
mod core;
mod daemon;
mod disk;
pub mod folder;
pub mod hostile;
mod namespace;
mod operator;
mod programs;
mod relay;
mod said;
mod skipped;

pub use agent::AgentProcess;
pub use core::{CoreProcess, Rights, free_address};
pub use daemon::Daemon;
pub use disk::SmallDisk;
pub use namespace::Names;
pub use operator::Operator;
pub use programs::{Program, program};
pub use relay::{Came, Relay};
pub use said::{Said, run};
pub use skipped::say_skipped;

use std::time::{Duration, Instant};

/// Longest that anything may take before a test gives it up: longer than the programs themselves wait for each other.
pub const PATIENCE: Duration = Duration::from_mins(2);
/// Time between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until `look` finds something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: waited for it in vain");
        std::thread::sleep(LOOK_EVERY);
    }
}
