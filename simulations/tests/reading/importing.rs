//! `headwater import`: folders of a machine that is neither a device nor the core become versions, whatever is cut or killed
//! meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use simulations::processes::folder::{assert_same, fill};
use simulations::processes::{CoreProcess, Daemon, Relay, SmallDisk, wait_for};

use crate::support::{Files, headwater, headwater_at, noise, reader_token, write};

/// Bytes of the file that takes long enough to be cut.
const LARGE_BYTES: usize = 40_000_000;
/// Bytes after which a link is held.
const HELD_AFTER_BYTES: u64 = 20_000_000;

/// A token of one who may publish below `lab/`.
fn writer_token(core: &CoreProcess) -> String {
    core.token(&["--role", "writer", "--write", "lab/**"])
}

/// A core, a writer's token, and a folder.
fn begin() -> (CoreProcess, String, PathBuf) {
    let core = CoreProcess::start();
    let token = writer_token(&core);
    let folder = core.scratch().join("folder");
    fill(&folder, 5, 60, 2);
    (core, token, folder)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn arguments<'a>(folder: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["import", text(folder), "--dataset", "lab/data", "--json"], more].concat()
}

fn import(core: &CoreProcess, token: &str, folder: &Path, more: &[&str]) -> Value {
    headwater(core, token, &arguments(folder, more)).success().document()
}

/// A core at the other end of a link that is held in the middle of an import, and the import that waits there.
fn held() -> (CoreProcess, String, PathBuf, Relay, Daemon) {
    let (core, token, folder) = begin();
    write(&folder, &Files::from([("large.bin".to_owned(), noise(3, LARGE_BYTES))]));
    let relay = Relay::start(core.address(), HELD_AFTER_BYTES);
    let log = core.scratch().join("import.log");
    let command: Command = headwater_at(&core, relay.address(), &token, &arguments(&folder, &[]));
    let importing = Daemon::start(command, &log);
    relay.wait_held();
    (core, token, folder, relay, importing)
}

#[test]
fn a_folder_becomes_a_version_and_what_changes_the_next() {
    let (core, token, folder) = begin();
    let first = import(&core, &token, &folder, &["--samples", "stems"]);
    assert_eq!(
        (&first["number"], &first["is_new"], &first["samples"]),
        (&json!(1), &json!(true), &json!(62)),
        "{first}"
    );
    assert_same(&folder, &core.export("lab/data@1"));

    let again = import(&core, &token, &folder, &[]);
    assert_eq!((&again["number"], &again["is_new"], &again["wire_bytes"]), (&json!(1), &json!(false), &json!(0)));
    assert_eq!(again["version"], first["version"]);

    fs::write(folder.join("part0/0000.txt"), "label 11\n").expect("written");
    fs::remove_file(folder.join("part1/0001.bin")).expect("removed");
    let appended = import(&core, &token, &folder, &[]);
    assert_eq!((&appended["number"], &appended["changed"], &appended["removed"]), (&json!(2), &json!(1), &json!(0)));
    assert!(appended["wire_bytes"].as_u64().is_some_and(|bytes| bytes < 30_000), "more than what changed: {appended}");
    assert!(core.export("lab/data@2").join("part1/0001.bin").exists(), "append keeps what is gone");

    // Without the stamps everything is read again, and nothing more is sent.
    fs::remove_dir_all(core.scratch().join("cache")).expect("removed");
    let mirrored = import(&core, &token, &folder, &["--mode", "mirror"]);
    assert_eq!((&mirrored["number"], &mirrored["removed"]), (&json!(3), &json!(1)), "{mirrored}");
    assert!(mirrored["files_read"].as_u64() > Some(100), "{mirrored}");
    assert!(mirrored["wire_bytes"].as_u64().is_some_and(|bytes| bytes < 30_000), "{mirrored}");
    assert_same(&folder, &core.export("lab/data@3"));

    // Whoever reads finds it, and who wrote it.
    let reader = reader_token(&core, "**");
    headwater(&core, &reader, &["sample", "lab/data@latest", "0"]).success();
    let shown = core.ask(&["dataset", "show", "lab/data"]);
    assert!(shown["origin"].as_str().is_some_and(|writer| writer.starts_with("token-")), "{shown}");
    core.verify();
}

#[test]
fn an_import_that_was_killed_sends_only_what_is_missing() {
    let (core, token, folder, _relay, importing) = held();
    importing.kill();
    let rest = import(&core, &token, &folder, &[]);
    assert_eq!(rest["number"], json!(1));
    let sent = rest["wire_bytes"].as_u64().expect("bytes");
    assert!(sent < LARGE_BYTES as u64 * 3 / 4, "{sent} bytes were sent again");
    assert_same(&folder, &core.export("lab/data"));
}

#[test]
fn a_core_that_was_killed_costs_an_import_only_time() {
    let (mut core, _token, folder, relay, mut importing) = held();
    core.kill();
    core.run();
    relay.release();
    wait_for("the import to end", || importing.ended().is_some().then_some(()));
    let said = importing.log();
    assert!(said.contains("\"number\":1"), "{said}");
    assert_same(&folder, &core.export("lab/data"));
    core.verify();
}

#[test]
fn a_core_that_is_full_says_so_and_takes_the_rest_later() {
    const MIB: u64 = 1 << 20;
    if SmallDisk::elsewhere("importing::a_core_that_is_full_says_so_and_takes_the_rest_later") {
        return;
    }
    let Some(disk) = SmallDisk::mount(24 * MIB, 160 * MIB) else { return };
    let mut core = CoreProcess::init_at(&disk.path().join("core"));
    core.run();
    let token = writer_token(&core);
    let folder = core.scratch().join("folder");
    write(&folder, &Files::from([("large.bin".to_owned(), noise(4, LARGE_BYTES))]));
    headwater(&core, &token, &arguments(&folder, &[])).failed("HW-4006", &["core"]);
    disk.make_room();
    let rest = import(&core, &token, &folder, &[]);
    let sent = rest["wire_bytes"].as_u64().expect("bytes");
    assert!(rest["number"] == 1 && sent < LARGE_BYTES as u64 * 9 / 10, "{rest}");
    assert_same(&folder, &core.export("lab/data"));
}

#[test]
fn what_may_not_be_imported_is_said_before_anything_is_read() {
    let (core, token, folder) = begin();
    let says =
        |token: &str, folder: &str, dataset: &str| headwater(&core, token, &["import", folder, "--dataset", dataset]);
    says(&token, text(&folder), "other/data").failed("HW-2006", &["other/data"]);
    says(&reader_token(&core, "**"), text(&folder), "lab/data").failed("HW-2006", &["reader"]);
    says(&token, text(&folder), "lab//data").failed("HW-2003", &["lab//data"]);
    says(&token, "/none", "lab/data").failed("HW-4004", &["/none"]);
    let empty = core.scratch().join("nothing");
    fs::create_dir(&empty).expect("made");
    says(&token, text(&empty), "lab/data").failed("HW-4004", &["nothing"]);

    let bad_rule = ["import", text(&folder), "--dataset", "lab/data", "--samples", "tarr"];
    let code = headwater_host::error::codes::USAGE.code;
    headwater(&core, &token, &bad_rule).failed(code, &["tarr"]);

    // The first version is made here, by nothing of the above.
    assert_eq!(import(&core, &token, &folder, &[])["number"], json!(1));
    // An empty folder is what a disk leaves that is not mounted.
    let unmounted = ["import", text(&empty), "--dataset", "lab/data", "--mode", "mirror"];
    headwater(&core, &token, &unmounted).failed("HW-4010", &["nothing", "empty all at once"]);
    says(&writer_token(&core), text(&folder), "lab/data").failed("HW-2001", &["lab/data", "token-"]);
    core.run_command(&["import", text(&folder), "--dataset", "lab/of-core"]).success();
    says(&token, text(&folder), "lab/of-core").failed("HW-2001", &["lab/of-core", "core"]);

    // Handed over, it goes on where the other writer stopped.
    let shown = core.ask(&["dataset", "show", "lab/data"]);
    let me = shown["origin"].as_str().expect("a name").to_owned();
    core.run_command(&["dataset", "hand-over", "lab/of-core", &me]).success();
    fs::write(folder.join("new.txt"), "new").expect("written");
    let next = headwater(&core, &token, &["import", text(&folder), "--dataset", "lab/of-core", "--json"]);
    assert_eq!(next.success().document()["number"], json!(2));
    assert_same(&folder, &core.export("lab/of-core@2"));
}

#[test]
fn a_device_takes_what_a_person_imported() {
    let (core, token, folder) = begin();
    import(&core, &token, &folder, &[]);
    let device = core.device("dev");
    let copy = device.subscribe("lab/data");
    device.sync();
    assert_same(&folder, &copy);
}
