//! The short form of `cargo run -p simulations -- kills`: SIGKILL at random moments, under load.

use std::time::{SystemTime, UNIX_EPOCH};

use simulations::kills::{Options, run};

/// Sets the seed of the test; printed by each run.
const SEED_VARIABLE: &str = "HEADWATER_SEED";
/// Moments at which something is killed.
const ROUNDS: u32 = 12;

#[test]
#[allow(clippy::print_stderr, reason = "a randomised test says what it did, and how to do much the same again")]
fn sigkill_at_random_moments() {
    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(seed) => seed.parse().expect("a seed is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos() as u64,
    };
    eprintln!("much the same again: cargo run -p simulations -- kills --rounds {ROUNDS} --seed {seed}");
    let tally = run(Options { seed, rounds: ROUNDS, rounds_between: ROUNDS });
    eprintln!("{tally}");
    assert!(tally.kills() >= ROUNDS && tally.changes > 50 && tally.versions > 2, "hardly anything happened: {tally}");
}
