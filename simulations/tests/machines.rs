//! A few hundred seeds of the machines that move versions, and bugs that the checkers must notice.

use simulations::machines::{BUGS, run};

/// Seeds that every test run plays.
const SEEDS: u64 = 300;

#[test]
fn every_seed_holds() {
    for seed in 0..SEEDS {
        let outcome = run(seed, None, None);
        assert!(outcome.problems.is_empty(), "seed {seed}: {:#?}\nreplay it: {}", outcome.problems, outcome.replay());
    }
}

#[test]
fn a_seed_gives_one_trace() {
    for seed in 0..20 {
        let mut lines = Vec::new();
        let first = run(seed, None, Some(&mut |line| lines.push(line.to_owned())));
        let mut again = Vec::new();
        let second = run(seed, None, Some(&mut |line| again.push(line.to_owned())));
        assert_eq!(first, second);
        assert_eq!(lines, again);
    }
    assert_ne!(run(1, None, None).trace_hash, run(2, None, None).trace_hash);
}

#[test]
fn every_planted_bug_is_noticed_by_the_checker_that_should() {
    for (bug, checker) in BUGS {
        let noticed = (0..SEEDS)
            .any(|seed| run(seed, Some(*bug), None).problems.iter().any(|problem| problem.starts_with(checker)));
        assert!(noticed, "{bug:?} was not noticed by `{checker}` in {SEEDS} seeds");
    }
}
