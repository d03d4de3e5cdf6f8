//! Seeds of the world that every test run plays, and bugs that the checkers must notice.

use std::sync::Mutex;

use simulations::tally::Tally;
use simulations::world::{BUGS, Plan, run};

/// Seeds that every test run plays.
const SEEDS: u64 = 1000;
/// Seeds of links that do worse than lose and delay.
const SEEDS_OF_BAD_LINKS: u64 = 40;
/// Seeds of links with caps, hours and budgets: much has to move before a budget is spent.
const SEEDS_OF_RULED_LINKS: u64 = 6;
/// Seeds of packs that are damaged, on a disk that fails when they are mended.
const SEEDS_OF_DAMAGE: u64 = 120;
/// Seeds that failed in a long sweep, and have to hold since.
const SEEDS_THAT_FOUND: &[(&str, u64)] = &[
    // A device whose full disk kept it from noting its own version took deleted files for freed ones.
    ("full-disks", 206_380),
    // A core with two packs that were not sealed did not start on a full disk.
    ("full-disks", 222_396),
    // A lease that ended outside of every process of the world.
    ("metered", 220_215),
];
/// Threads that play them.
const THREADS: u64 = 2;
/// What must have happened somewhere in these seeds, and to datagrams.
const HAPPENED: &[&str] = &[
    "addresses changed",
    "clocks set",
    "core's disk failing",
    "core's disk full",
    "NATs that forgot a device",
    "cores killed",
    "cores killed within disk work",
    "cores taken over",
    "cores without power",
    "cores without power within disk work",
    "datagrams at full queues",
    "datagrams into cut links",
    "datagrams lost",
    "datagrams overtaken",
    "datagrams repeated",
    "devices joined",
    "device's disk full",
    "devices killed",
    "devices that lost what was not synced",
    "devices without power",
    "files added",
    "files changed",
    "files deleted by command",
    "files freed",
    "files removed",
    "files renamed",
    "garbage collections",
    "links changed",
    "links cut",
    "links cut one way",
    "sessions with an impostor",
    "verifications",
    "versions taken",
];
/// Seeds in which a planted bug must be noticed.
const SEEDS_WITH_BUG: u64 = 300;

fn short() -> Plan {
    Plan::load(concat!(env!("CARGO_MANIFEST_DIR"), "/plans/short.toml").as_ref()).expect("a plan")
}

#[test]
fn every_seed_holds() {
    let plan = short();
    let happened = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (plan, happened) = (&plan, &happened);
            scope.spawn(move || {
                for seed in (thread..SEEDS).step_by(THREADS as usize) {
                    let outcome = run(seed, plan, None, None);
                    let replay = outcome.replay(Some("simulations/plans/short.toml".as_ref()), None);
                    assert!(outcome.problems.is_empty(), "seed {seed}: {:#?}\nreplay it: {replay}", outcome.problems);
                    happened.lock().unwrap().add(&outcome.tally);
                }
            });
        }
    });
    let happened = happened.into_inner().unwrap();
    for what in HAPPENED {
        assert!(happened.of(what) > 0, "in {SEEDS} seeds there were no {what}: {happened}");
    }
}

#[test]
fn links_that_deliver_garbage_and_stall_stop_nothing() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/plans/bad-links.toml");
    let plan = Plan::load(path.as_ref()).expect("a plan");
    for seed in 0..SEEDS_OF_BAD_LINKS {
        let outcome = run(seed, &plan, None, None);
        let replay = outcome.replay(Some("simulations/plans/bad-links.toml".as_ref()), None);
        assert!(outcome.problems.is_empty(), "seed {seed}: {:#?}\nreplay it: {replay}", outcome.problems);
    }
}

#[test]
fn links_with_rules_and_packs_with_damage_stop_nothing() {
    for (name, seeds, happened) in [
        ("metered", SEEDS_OF_RULED_LINKS, "months with budgets"),
        ("damage", SEEDS_OF_DAMAGE, "verifications that found damage"),
    ] {
        let path = format!("{}/plans/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let plan = Plan::load(path.as_ref()).expect("a plan");
        let mut tally = Tally::default();
        for seed in 0..seeds {
            let outcome = run(seed, &plan, None, None);
            let replay = outcome.replay(Some(format!("simulations/plans/{name}.toml").as_ref()), None);
            assert!(outcome.problems.is_empty(), "seed {seed}: {:#?}\nreplay it: {replay}", outcome.problems);
            tally.add(&outcome.tally);
        }
        assert!(tally.of(happened) > 0, "with {name} there were no {happened}: {tally}");
    }
}

#[test]
fn seeds_that_found_something_hold() {
    for (name, seed) in SEEDS_THAT_FOUND {
        let path = format!("{}/plans/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let plan = Plan::load(path.as_ref()).expect("a plan");
        let outcome = run(*seed, &plan, None, None);
        let replay = outcome.replay(Some(format!("simulations/plans/{name}.toml").as_ref()), None);
        assert!(outcome.problems.is_empty(), "seed {seed}: {:#?}\nreplay it: {replay}", outcome.problems);
    }
}

#[test]
fn recorded_links_carry_what_they_did() {
    let folder = tempfile::tempdir().expect("a folder");
    // Two seconds with a gap.
    let times = (0..1000).step_by(2).chain(1600..2000).map(|time| format!("{time}\n"));
    std::fs::write(folder.path().join("link.up"), times.collect::<String>()).expect("written");
    let plan = folder.path().join("recorded.toml");
    std::fs::write(&plan, "[link]\nwandering = 100\nrecorded = [\"link.up\"]\n").expect("written");
    let plan = Plan::load(&plan).expect("a plan");
    for seed in 0..8 {
        let outcome = run(seed, &plan, None, None);
        assert!(outcome.problems.is_empty(), "seed {seed}: {:#?}", outcome.problems);
    }
}

#[test]
fn a_seed_gives_one_trace() {
    for plan in [short(), Plan::standard()] {
        for seed in 0..4 {
            assert_eq!(run(seed, &plan, None, None), run(seed, &plan, None, None));
        }
        assert_ne!(run(1, &plan, None, None).trace_hash, run(2, &plan, None, None).trace_hash);
    }
}

#[test]
fn every_planted_bug_is_noticed_by_the_checker_that_should() {
    for (bug, checker) in BUGS {
        let plan = bug.plan();
        let noticed = (0..SEEDS_WITH_BUG)
            .any(|seed| run(seed, &plan, Some(*bug), None).problems.iter().any(|problem| problem.starts_with(checker)));
        assert!(noticed, "{bug:?} was not noticed by `{checker}` in {SEEDS_WITH_BUG} seeds");
    }
}
