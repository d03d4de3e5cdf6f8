//! A thousand seeds of the machines of federated rounds, bugs that the checkers must notice, and a large fleet with drop-outs.

use simulations::rounds::{BUGS, Scale, play, run};

/// Seeds that every test run plays.
const SEEDS: u64 = 1000;

#[test]
fn every_seed_holds() {
    let (mut kills, mut rounds) = (0, 0);
    for seed in 0..SEEDS {
        let outcome = run(seed, None, None);
        assert!(outcome.problems.is_empty(), "seed {seed}: {:#?}\nreplay it: {}", outcome.problems, outcome.replay());
        kills += outcome.tally.of("kills");
        rounds += outcome.rounds.0;
    }
    assert!(kills > SEEDS && rounds > SEEDS, "hardly anything happened: {kills} kills, {rounds} rounds");
}

#[test]
fn a_seed_gives_one_trace() {
    for seed in 0..20 {
        assert_eq!(run(seed, None, None), run(seed, None, None));
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

#[test]
fn a_large_fleet_of_which_many_drop_out_finishes_every_round() {
    let scale = Scale { devices: 1000, rounds: 20, drop_outs: 300, has_trouble: false };
    let outcome = play(7, scale, None, None);
    assert!(outcome.problems.is_empty(), "{:#?}", outcome.problems);
    assert!(outcome.rounds.1 >= 20, "{:?}", outcome.rounds);
    // Assignments and updates of one round, whatever the number of rounds.
    assert!(outcome.held_max <= 2 * scale.devices, "{} held at once", outcome.held_max);
}
