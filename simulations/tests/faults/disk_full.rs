//! Full disks, on either side.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use simulations::processes::folder::{self, Dice};
use simulations::processes::{AgentProcess, CoreProcess, Rights, SmallDisk, wait_for};

const MIB: u64 = 1 << 20;
const LARGE_BYTES: usize = 40 << 20;

/// Writes zeros until nothing fits any more.
fn use_up(disk: &Path) -> PathBuf {
    fill_up(disk, "ballast")
}

fn fill_up(disk: &Path, name: &str) -> PathBuf {
    let path = disk.join(name);
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

#[test]
fn a_device_makes_room_on_a_disk_without_any() {
    if SmallDisk::elsewhere("disk_full::a_device_makes_room_on_a_disk_without_any") {
        return;
    }
    const FILES: u64 = 10;
    let Some(disk) = SmallDisk::mount(40 * MIB, MIB) else { return };
    let core = CoreProcess::start();
    let mut agent = AgentProcess::at("north", &disk.path().join("agent"));
    core.admit(&agent, Rights::default());
    let source = disk.path().join("source");
    let bytes = |number: u64| Dice::new(70 + number).bytes(MIB as usize);
    for number in 0..FILES {
        folder::write(&source.join(format!("{number}.bin")), &bytes(number));
    }
    let publish = ["publish", source.to_str().expect("plain"), "--dataset", "cam/north", "--min-free", "4MiB"];
    agent.run_command(&[&publish[..], &["--every", "1s"]].concat()).success();
    agent.sync();
    let here = || fs::read_dir(&source).expect("listed").count() as u64;
    assert_eq!(here(), FILES, "there was room");

    // The first time a command finds no room, the second time the daemon.
    use_up(disk.path());
    let _ = agent.sync_once();
    let after_command = here();
    assert!(after_command <= FILES - 4, "only {} files were freed", FILES - after_command);
    agent.run();
    agent.wait_status("a session", |status| status["link"] == "connected");
    fill_up(disk.path(), "more-ballast");
    wait_for("room to be made again", || (here() <= after_command - 4).then_some(()));
    agent.stop();
    agent.sync();
    let exported = core.export("cam/north");
    for number in 0..FILES {
        let kept = fs::read(exported.join(format!("{number}.bin"))).expect("freed, and in the version");
        assert!(kept == bytes(number), "{number}.bin is another file");
    }
    core.verify();
}

/// Two devices that publish all the time, and one that reads both, while a disk of the core fills up.
struct Load {
    core: CoreProcess,
    publishers: [(AgentProcess, PathBuf, PathBuf); 2],
    reader: AgentProcess,
}

const DATASETS: [&str; 2] = ["cam/one", "cam/two"];

impl Load {
    /// Everybody runs, and all have the first versions.
    fn start(mut core: CoreProcess) -> Self {
        core.run();
        let mut reader = core.device("reader");
        let publishers = DATASETS.map(|dataset| {
            let mut agent = core.device(dataset.strip_prefix("cam/").expect("a name"));
            let source = agent.scratch().join("source");
            folder::fill(&source, 67, 20, 1);
            let text = source.to_str().expect("plain").to_owned();
            agent.run_command(&["publish", &text, "--dataset", dataset, "--every", "1s"]).success();
            let copy = reader.subscribe(dataset);
            agent.run();
            (agent, source, copy)
        });
        reader.run();
        let load = Self { core, publishers, reader };
        load.wait_until_same();
        load
    }

    /// Everybody has the same, of its own accord.
    #[track_caller]
    fn wait_until_same(&self) {
        for (_, source, copy) in &self.publishers {
            wait_for("the newest version at the reader", || {
                (copy.exists() && folder::listing(source) == folder::listing(copy)).then_some(())
            });
        }
    }

    /// Once `fill` was done everybody is told why nothing goes on, and nobody ends; after
    /// `make_room` it goes on by itself.
    #[track_caller]
    fn lives_through(mut self, fill: impl FnOnce(), make_room: impl FnOnce()) {
        fill();
        for (number, (_, source, _)) in (71..).zip(&self.publishers) {
            for part in 0..10u64 {
                folder::write(&source.join(format!("more/{part}.bin")), &Dice::new(number * 100 + part).bytes(4 << 20));
            }
        }
        for (agent, ..) in &self.publishers {
            let status = agent.wait_status("word of the full disk", |status| status["last_error"]["code"] == "HW-4006");
            assert!(status["last_error"]["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{status}");
            assert!(agent.log().contains("HW-4006"), "{}", agent.log());
        }
        let errors = self.core.ask(&["status"])["errors"].to_string();
        assert!(errors.contains("HW-4006"), "{errors}");
        assert!(self.core.is_running(), "a full disk ended the core");
        for (_, _, copy) in &self.publishers {
            assert!(copy.join("part0").exists(), "what was there is gone");
        }
        make_room();
        self.wait_until_same();
        for ((mut agent, source, _), dataset) in self.publishers.into_iter().zip(DATASETS) {
            folder::assert_same(&source, &self.core.export(dataset));
            assert_eq!(agent.ask(&["verify"])["damaged_count"], 0);
            agent.stop();
        }
        self.reader.stop();
        self.core.verify();
        assert!(!self.core.log().contains("panicked"), "{}", self.core.log());
    }
}

#[test]
fn the_core_s_disk_fills_up_under_load() {
    if SmallDisk::elsewhere("disk_full::the_core_s_disk_fills_up_under_load") {
        return;
    }
    let Some(disk) = SmallDisk::mount(30 * MIB, 200 * MIB) else { return };
    let load = Load::start(CoreProcess::init_at(&disk.path().join("core")));
    load.lives_through(|| (), || disk.make_room());
}

#[test]
fn the_disk_of_the_core_s_catalog_is_full_under_load() {
    if SmallDisk::elsewhere("disk_full::the_disk_of_the_core_s_catalog_is_full_under_load") {
        return;
    }
    let Some(disk) = SmallDisk::mount(4 * MIB, MIB) else { return };
    let core = CoreProcess::init_at(&disk.path().join("core"));
    // Its packs lie on another disk.
    let (packs, elsewhere) = (core.data().join("packs"), core.scratch().join("packs"));
    if packs.exists() {
        fs::remove_dir(&packs).expect("a new core has no packs");
    }
    fs::create_dir(&elsewhere).expect("made");
    std::os::unix::fs::symlink(&elsewhere, &packs).expect("made");
    let load = Load::start(core);
    let ballast = disk.path().join("ballast");
    load.lives_through(|| drop(use_up(disk.path())), || fs::remove_file(&ballast).expect("removed"));
}

#[test]
fn the_disk_of_a_device_that_runs_is_full_for_a_while() {
    if SmallDisk::elsewhere("disk_full::the_disk_of_a_device_that_runs_is_full_for_a_while") {
        return;
    }
    let Some(disk) = SmallDisk::mount(8 * MIB, MIB) else { return };
    let core = CoreProcess::start();
    let mut agent = AgentProcess::at("north", &disk.path().join("agent"));
    core.admit(&agent, Rights::default());
    let source = agent.scratch().join("source");
    folder::fill(&source, 68, 100, 1);
    let text = source.to_str().expect("plain");
    agent.run_command(&["publish", text, "--dataset", "cam/north", "--every", "1s"]).success();
    agent.run();
    let is_same = || {
        let there = core.list(&["dataset", "list"]).first().is_some_and(|row| row["number"] != 0);
        (there && folder::listing(&source) == folder::listing(&core.export("cam/north"))).then_some(())
    };
    wait_for("the first version", is_same);
    let ballast = use_up(disk.path());
    folder::fill(&source.join("more"), 69, 2000, 0);
    agent.wait_status("word of the full disk", |status| status["last_error"]["code"] == "HW-4006");
    assert!(agent.log().contains("HW-4006"), "{}", agent.log());
    assert!(agent.is_running());
    fs::remove_file(ballast).expect("removed");
    wait_for("the version after it", is_same);
    assert_eq!(agent.ask(&["verify"])["damaged_count"], 0);
    agent.stop();
    core.verify();
}
