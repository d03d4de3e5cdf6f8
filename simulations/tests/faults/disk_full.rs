//! Full disks, on either side.

use std::fs;
use std::io::Write;
use std::path::Path;

use simulations::processes::folder::{self, Dice};
use simulations::processes::{AgentProcess, CoreProcess, Rights, SmallDisk};

const MIB: u64 = 1 << 20;
const LARGE_BYTES: usize = 40 << 20;

/// Writes zeros until nothing fits any more.
fn use_up(disk: &Path) -> std::path::PathBuf {
    let path = disk.join("ballast");
    let mut file = fs::File::create(&path).expect("made");
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    path
}

#[test]
fn the_core_s_disk_is_full() {
    if SmallDisk::elsewhere("disk_full::the_core_s_disk_is_full") {
        return;
    }
    let Some(disk) = SmallDisk::mount(24 * MIB, 160 * MIB) else { return };
    let mut core = CoreProcess::init_at(&disk.path().join("core"));
    core.run();
    let agent = core.device("north");
    let source = agent.scratch().join("source");
    folder::fill(&source, 61, 10, 1);
    agent.publish(&source, "cam/north");
    agent.sync();
    folder::write(&source.join("z-large.bin"), &Dice::new(62).bytes(LARGE_BYTES));
    agent.sync_once().problem("HW-4006", &["core"]);
    assert!(core.is_running(), "a full disk ended the core");
    // What was committed can still be read, and the operator is told.
    let reader = core.export("cam/north");
    assert!(reader.join("part0").exists());
    let errors = core.ask(&["status"])["errors"].to_string();
    assert!(errors.contains("HW-4006"), "{errors}");
    // A kill in this state costs nothing, and neither does a start without a single free byte.
    core.kill();
    let ballast = use_up(disk.path());
    let said = start_without_room(&mut core);
    fs::remove_file(ballast).expect("removed");
    disk.make_room();
    if !said {
        core.run();
    }
    agent.sync();
    folder::assert_same(&source, &core.export("cam/north"));
    core.verify();
}

/// Starts a core on a full disk: it may run, or say why not.
#[track_caller]
fn start_without_room(core: &mut CoreProcess) -> bool {
    match core.try_run() {
        Ok(()) => true,
        Err(log) => {
            assert!(log.contains("error[HW-4006]") || log.contains("error[HW-6005]"), "{log}");
            assert!(log.contains("hint: "), "{log}");
            false
        }
    }
}

#[test]
fn the_subscriber_s_disk_is_full() {
    if SmallDisk::elsewhere("disk_full::the_subscriber_s_disk_is_full") {
        return;
    }
    let Some(disk) = SmallDisk::mount(24 * MIB, 160 * MIB) else { return };
    let core = CoreProcess::start();
    let publisher = core.device("north");
    let source = publisher.scratch().join("source");
    folder::fill(&source, 63, 10, 1);
    publisher.publish(&source, "cam/north");
    publisher.sync();
    // The data folder on the small disk, where what comes is staged.
    let staging = AgentProcess::at("staging", &disk.path().join("agent"));
    core.admit(&staging, Rights::default());
    let staged = staging.subscribe("cam/north");
    // The folder of the subscription on the small disk.
    let target = core.device("target");
    let to = disk.path().join("subscribed");
    target.run_command(&["subscribe", "cam/north", "--to", to.to_str().expect("plain")]).success();
    let current = to.join("current");
    for agent in [&staging, &target] {
        agent.sync();
    }
    folder::assert_same(&source, &staged);
    folder::assert_same(&source, &current);
    let before = folder::listing(&current);
    folder::write(&source.join("z-large.bin"), &Dice::new(64).bytes(LARGE_BYTES));
    publisher.sync();
    staging.sync_once().problem("HW-4006", &[]);
    target.sync_once().problem("HW-4006", &[]);
    // The version before stays in force, whole.
    folder::assert_listings(&folder::listing(&current), &before, "the version before and what is left of it");
    disk.make_room();
    for agent in [&staging, &target] {
        agent.sync();
        agent.ask(&["verify"]);
    }
    folder::assert_same(&source, &staged);
    folder::assert_same(&source, &current);
}

#[test]
fn the_publisher_s_disk_is_full() {
    if SmallDisk::elsewhere("disk_full::the_publisher_s_disk_is_full") {
        return;
    }
    let Some(disk) = SmallDisk::mount(8 * MIB, MIB) else { return };
    let core = CoreProcess::start();
    let agent = AgentProcess::at("north", &disk.path().join("agent"));
    core.admit(&agent, Rights::default());
    let source = agent.scratch().join("source");
    folder::fill(&source, 65, 200, 1);
    agent.publish(&source, "cam/north");
    agent.sync();
    let ballast = use_up(disk.path());
    folder::fill(&source.join("more"), 66, 2000, 0);
    // It says so, whether as a problem of the dataset or of the agent as a whole.
    let said = agent.sync_once();
    assert_eq!(said.status, Some(1), "{said:#?}");
    let told = said.stdout.contains("HW-4006") || said.stderr.contains("error[HW-4006]");
    assert!(told, "{said:#?}");
    assert!(!said.stderr.contains("panicked"), "{said:#?}");
    fs::remove_file(ballast).expect("removed");
    agent.sync();
    folder::assert_same(&source, &core.export("cam/north"));
    core.verify();
}
