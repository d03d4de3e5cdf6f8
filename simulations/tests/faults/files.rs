//! Files and folders that change, shrink, vanish or can't be read.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::process::geteuid;
use serde_json::Value;
use simulations::processes::folder::{self, Dice};
use simulations::processes::{AgentProcess, CoreProcess, Relay};

use crate::{DATASET, Pair};

/// Files that are sent first: together more than a core lets be under way at once, and each short enough for its chunks to
/// stand in its page (those of a longer one would be sent after everything else in the page).
const LARGE_FILES: usize = 12;
const LARGE_BYTES: usize = 8 << 20;
/// Bytes that the device has sent when the link is held.
const HOLD_AFTER_BYTES: u64 = 2 << 20;

/// A sync that stands still in the middle of sending.
struct Paused<'a> {
    agent: &'a AgentProcess,
    relay: Relay,
    child: Child,
}

impl<'a> Paused<'a> {
    /// Starts a sync and waits until it has sent a part of what there is.
    #[track_caller]
    fn start(agent: &'a AgentProcess, core: &CoreProcess) -> Self {
        let relay = Relay::start(core.address(), HOLD_AFTER_BYTES);
        agent.dial(relay.address());
        let mut command = agent.command(&["sync", "--once", "--json"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("it starts");
        let paused = Self { agent, relay, child };
        paused.relay.wait_held();
        paused
    }

    /// Lets it go on to its end; gives the report.
    #[track_caller]
    fn finish(mut self) -> Value {
        self.relay.release();
        let mut stdout = self.child.stdout.take().expect("piped");
        let text = std::io::read_to_string(&mut stdout).expect("it prints text");
        let status = self.child.wait().expect("a status");
        assert!(status.success(), "{text}");
        self.agent.dial_as_joined();
        serde_json::from_str(text.trim()).expect("a report")
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        // It has ended, or shall.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes what is sent before everything else.
fn fill_up(source: &Path, dice: &mut Dice) {
    for index in 0..LARGE_FILES {
        folder::write(&source.join(format!("a-large/{index}.bin")), &dice.bytes(LARGE_BYTES));
    }
}

/// Every file of a version must be whole: as it was before or after the change, never a mixture.
#[track_caller]
fn assert_never_mixed(exported: &Path, name: &str, allowed: &[Option<&[u8]>]) {
    let found = fs::read(exported.join(name)).ok();
    let fits = allowed.contains(&found.as_deref());
    assert!(
        fits,
        "`{name}` has {:?} bytes, and they are neither the old nor the new ones",
        found.map(|bytes| bytes.len())
    );
}

#[test]
fn files_that_change_shrink_and_vanish_while_they_are_sent() {
    let pair = Pair::new();
    let mut dice = Dice::new(51);
    // What is sent before the files that matter. They come last in path order.
    let names = ["z/1-changes.bin", "z/2-shrinks.bin", "z/3-vanishes.bin", "z/4-grows.bin", "z/5-stays.bin"];
    let first: Vec<_> = names.iter().map(|name| (*name, dice.bytes(3 << 20))).collect();
    fill_up(&pair.source, &mut dice);
    for (name, bytes) in &first {
        folder::write(&pair.source.join(name), bytes);
    }
    let paused = Paused::start(&pair.publisher, &pair.core);
    let at = |name: &str| pair.source.join(name);
    let changed = dice.bytes(3 << 20);
    fs::write(at(names[0]), &changed).expect("written");
    let shrunk = first[1].1[..1 << 20].to_vec();
    fs::write(at(names[1]), &shrunk).expect("written");
    fs::remove_file(at(names[2])).expect("removed");
    let grown = [&first[3].1[..], b"more"].concat();
    fs::write(at(names[3]), &grown).expect("written");
    let report = paused.finish();
    assert!(!report["published"].as_array().expect("a list").is_empty(), "a version waited for a file: {report}");

    // Every version that was committed is whole, and nothing in it was never there.
    let versions = pair.core.list(&["dataset", "log", DATASET]);
    for version in &versions {
        let exported = pair.core.export(&format!("{DATASET}@{}", version["number"]));
        assert_never_mixed(&exported, names[0], &[None, Some(&first[0].1), Some(&changed)]);
        assert_never_mixed(&exported, names[1], &[None, Some(&first[1].1), Some(&shrunk)]);
        assert_never_mixed(&exported, names[2], &[None, Some(&first[2].1)]);
        assert_never_mixed(&exported, names[3], &[None, Some(&first[3].1), Some(&grown)]);
        assert_never_mixed(&exported, names[4], &[Some(&first[4].1)]);
    }
    let log = pair.publisher.ask(&["log"]);
    let told = log["events"].to_string();
    assert!(told.contains("HW-4001") && told.contains("HW-4002"), "nobody was told: {told}");
    let skipped = report["skipped"].as_array().expect("a list");
    for (name, code) in [(names[0], "HW-4001"), (names[2], "HW-4002")] {
        let line = skipped.iter().find(|line| line["path"] == name);
        assert!(line.is_some_and(|line| line["reason"].to_string().contains(code)), "{name}: {report}");
    }
    pair.still_works();
}

#[test]
fn files_that_change_after_they_were_published_keep_their_last_record() {
    let pair = Pair::new();
    let mut dice = Dice::new(52);
    let (name, gone) = ("z/1-changes.bin", "z/2-vanishes.bin");
    let old = dice.bytes(200_000);
    folder::write(&pair.source.join(name), &old);
    folder::write(&pair.source.join(gone), &old);
    pair.publisher.sync();
    // Both change, so that both are sent; and then again while they are.
    let newer = dice.bytes(3 << 20);
    fill_up(&pair.source, &mut dice);
    folder::write(&pair.source.join(name), &newer);
    folder::write(&pair.source.join(gone), &dice.bytes(3 << 20));
    let paused = Paused::start(&pair.publisher, &pair.core);
    let newest = dice.bytes(3 << 20);
    folder::write(&pair.source.join(name), &newest);
    fs::remove_file(pair.source.join(gone)).expect("removed");
    paused.finish();
    let told = pair.publisher.ask(&["log"])["events"].to_string();
    assert!(told.contains("HW-4001"), "nobody was told: {told}");
    let second = pair.core.export(&format!("{DATASET}@2"));
    assert_never_mixed(&second, name, &[Some(&old), Some(&newer), Some(&newest)]);
    assert_never_mixed(&second, gone, &[Some(&old)]);
    pair.publisher.sync();
    let last = pair.core.export(DATASET);
    assert_never_mixed(&last, name, &[Some(&newest)]);
    // In append mode what vanished stays as it was committed last.
    assert_never_mixed(&last, gone, &[Some(&old)]);
    pair.core.verify();
}

/// A user who may read little; what root runs may read everything.
const NOBODY: u32 = 65_534;

#[test]
fn folders_and_files_without_read_rights() {
    let core = CoreProcess::start();
    let mut agent = AgentProcess::new("north");
    let source = agent.scratch().join("source");
    folder::fill(&source, 9, 10, 0);
    folder::write(&source.join("locked/inside.txt"), b"published before it was locked");
    folder::write(&source.join("single.txt"), b"this too");
    let own = |path: &Path| {
        if geteuid().is_root() {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("root may give files away");
        }
    };
    if geteuid().is_root() {
        agent.as_user(NOBODY);
        let status = std::process::Command::new("chown").args(["-R", &NOBODY.to_string()]).arg(&source).status();
        assert!(status.expect("chown runs").success());
    }
    core.admit(&agent, simulations::processes::Rights::default());
    agent.publish(&source, DATASET);
    agent.sync();
    let before = core.export(DATASET);
    folder::assert_same(&source, &before);

    let lock = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    lock(&source.join("locked"), 0);
    lock(&source.join("single.txt"), 0);
    folder::write(&source.join("more.txt"), b"the rest goes on");
    own(&source.join("more.txt"));
    let report = agent.sync();
    let skipped = report["skipped"].to_string();
    assert!(skipped.contains("locked") && skipped.contains("single.txt"), "nobody was told: {report}");
    let told = agent.ask(&["log"])["events"].to_string();
    assert!(told.contains("HW-4003"), "{told}");
    // What was published from there stays, and what can be read is published.
    let after = core.export(DATASET);
    assert_eq!(fs::read(after.join("locked/inside.txt")).expect("kept"), b"published before it was locked");
    assert_eq!(fs::read(after.join("single.txt")).expect("kept"), b"this too");
    assert_eq!(fs::read(after.join("more.txt")).expect("came"), b"the rest goes on");

    // The whole folder: an error, and nothing is taken for deleted.
    lock(&source, 0);
    agent.sync_once().problem("HW-4003", &["source"]);
    lock(&source, 0o755);
    lock(&source.join("locked"), 0o755);
    lock(&source.join("single.txt"), 0o644);
    agent.sync();
    folder::assert_same(&source, &core.export(DATASET));
    core.verify();
}

#[test]
fn a_folder_that_is_not_there_any_more() {
    let pair = Pair::synced();
    let away = pair.publisher.scratch().join("unplugged");
    fs::rename(&pair.source, &away).expect("moved");
    pair.publisher.sync_once().problem("HW-4004", &["source"]);
    assert_eq!(pair.core.list(&["dataset", "log", DATASET]).len(), 1);
    fs::write(&pair.source, b"a file in its place").expect("written");
    pair.publisher.sync_once().problem("HW-4004", &["source"]);
    fs::remove_file(&pair.source).expect("removed");
    fs::rename(&away, &pair.source).expect("moved back");
    pair.still_works();
}
