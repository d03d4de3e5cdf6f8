//! SIGKILL at any moment, again and again, under load: nothing that was acknowledged is lost, nothing half-written is seen,
//! and no start needs a hand.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use simulations::processes::folder::{self, Dice};
use simulations::processes::{AgentProcess, CoreProcess, wait_for};

use crate::DATASET;

/// Sets the dice of the test; printed by each run.
const SEED_VARIABLE: &str = "HEADWATER_SEED";
/// Kills of each run.
const KILLS: usize = 36;
/// Longest time between two kills.
const PAUSE_MAX_MS: u64 = 400;

/// Rescans often, so that there is always something under way.
fn hurry(agent: &AgentProcess) {
    let settings = agent.data().join("folders.toml");
    let text = fs::read_to_string(&settings).expect("the folder was added").replace("every = \"5m\"", "every = \"1s\"");
    assert!(text.contains("every = \"1s\""), "{text}");
    fs::write(&settings, text).expect("written");
}

/// Changes some files, adds some, removes some.
fn stir(source: &std::path::Path, dice: &mut Dice, round: usize) {
    let large = dice.below(2_500_000) as usize;
    folder::write(&source.join(format!("new/{round}.bin")), &dice.bytes(large));
    for _ in 0..20 {
        let name = format!("small/{}.txt", dice.below(400));
        let length = dice.below(3000) as usize;
        folder::write(&source.join(name), &dice.bytes(length));
    }
    if round > 4 && dice.below(2) == 0 {
        // It may have been removed before.
        let _ = fs::remove_file(source.join(format!("new/{}.bin", dice.below(round as u64 - 1))));
    }
    let grown = source.join("grows.log");
    let mut bytes = fs::read(&grown).unwrap_or_default();
    bytes.extend(dice.bytes(40_000));
    folder::write(&grown, &bytes);
}

#[test]
#[allow(clippy::print_stderr, reason = "a randomised test says how to repeat it")]
fn sigkill_at_random_moments() {
    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(seed) => seed.parse().expect("a seed is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos() as u64,
    };
    eprintln!("seed {seed}; to repeat it: {SEED_VARIABLE}={seed} cargo test -p simulations --test faults sigkill");
    let mut dice = Dice::new(seed);
    let mut core = CoreProcess::start();
    let mut publisher = core.device("north");
    let mut subscriber = core.device("reader");
    let source = publisher.scratch().join("source");
    folder::fill(&source, seed, 100, 4);
    let text = source.to_str().expect("plain").to_owned();
    publisher.run_command(&["publish", &text, "--dataset", DATASET, "--mode", "mirror"]).success();
    hurry(&publisher);
    let copy = subscriber.subscribe(DATASET);
    publisher.spawn();
    subscriber.spawn();

    let (mut acknowledged, mut compared) = (0, 0);
    for round in 0..KILLS {
        stir(&source, &mut dice, round);
        std::thread::sleep(Duration::from_millis(dice.below(PAUSE_MAX_MS)));
        match dice.below(4) {
            0 => {
                acknowledged = acknowledged.max(newest_acknowledged(&publisher));
                core.kill();
                core.run();
                // What the publisher has a receipt for is there after any kill of the core.
                let newest = newest_committed(&core);
                assert!(
                    newest >= acknowledged,
                    "round {round}: version {acknowledged} was acknowledged, and {newest} is there"
                );
            }
            1 => {
                subscriber.kill();
                subscriber.spawn();
            }
            _ => {
                publisher.kill();
                publisher.spawn();
            }
        }
        // Whatever is in force at the subscriber is some version as a whole.
        if round % 6 == 5 && copy.exists() {
            check_visible_version(&core, &copy);
            compared += 1;
        }
    }
    publisher.kill();
    subscriber.kill();
    core.kill();
    core.run();

    publisher.sync();
    subscriber.sync();
    folder::assert_same(&source, &copy);
    folder::assert_same(&source, &core.export(DATASET));
    core.verify();
    for agent in [&publisher, &subscriber] {
        let verified = agent.ask(&["verify"]);
        assert_eq!(verified["damaged_count"], 0, "{verified}");
    }
    let log = core.log();
    assert!(!log.contains("panicked"), "{log}");
    for agent in [&publisher, &subscriber] {
        assert!(!agent.log().contains("panicked"), "{}", agent.log());
        assert!(!agent.log().contains("error["), "a start failed:\n{}", agent.log());
    }
    assert!(compared > 0, "nothing was visible at the subscriber between the kills");
    assert!(newest_committed(&core) > 3, "hardly anything happened between the kills");
}

/// The newest version of which the publisher has a receipt; 0 if it can't say at the moment.
fn newest_acknowledged(publisher: &AgentProcess) -> u64 {
    let said = publisher.run_command(&["status", "--json"]);
    if said.status != Some(0) {
        return 0;
    }
    said.document()["datasets"][0]["number"].as_u64().unwrap_or_default()
}

fn newest_committed(core: &CoreProcess) -> u64 {
    let datasets = core.list(&["dataset", "list"]);
    datasets.first().and_then(|dataset| dataset["number"].as_u64()).unwrap_or_default()
}

/// The folder behind `current` must be exactly the version of its number.
#[track_caller]
fn check_visible_version(core: &CoreProcess, copy: &std::path::Path) {
    let (number, visible) = wait_for("a version that stays in force while it is read", || {
        let target = fs::canonicalize(copy).expect("current leads somewhere");
        let number = target.file_name().expect("a number").to_str().expect("a number").to_owned();
        let visible = folder::listing(&target);
        (fs::canonicalize(copy).ok() == Some(target)).then_some((number, visible))
    });
    let exported = core.export(&format!("{DATASET}@{number}"));
    folder::assert_listings(
        &visible,
        &folder::listing(&exported),
        &format!("the visible version {number} and the committed one"),
    );
}
