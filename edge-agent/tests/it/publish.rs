//! Publishing: what becomes a version, what a change costs, and what deletions do in each mode.

use std::fs;

use crate::support::{Core, assert_same, noise, put};

/// Age from which on the agent trusts what it noted of a file, with some room.
const STAMPS_TRUSTED_AFTER: std::time::Duration = std::time::Duration::from_millis(200);

#[test]
fn a_folder_becomes_versions_and_a_change_costs_little() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("photos");
    for number in 0..300 {
        put(&files, &format!("day/{number:04}.json"), format!("{{\"label\": {number}}}").repeat(20));
    }
    put(&files, "large.bin", noise(1, 3_000_000));
    fs::create_dir(files.join("empty")).expect("created");
    std::os::unix::fs::symlink("day/0001.json", files.join("link")).expect("linked");
    device.publish(&files, "cam/{device}");
    // A stamp taken right after a change is not trusted, and its file is read again.
    std::thread::sleep(STAMPS_TRUSTED_AFTER);
    let first = device.sync();
    assert_eq!(first["published"][0]["dataset"], "cam/cam1", "{first}");
    assert_eq!(first["published"][0]["number"], 1);
    assert_same(&files, &core.export("cam/cam1").path().join("out"));

    let second = device.sync();
    assert_eq!(second["unchanged"], 1, "{second}");
    assert_eq!(second["bytes_read"], 0, "an unchanged folder was read again");
    assert_eq!(core.newest("cam/cam1"), Some(1));

    put(&files, "day/0007.json", "changed");
    let third = device.sync();
    assert_eq!(third["published"][0]["number"], 2, "{third}");
    let wire = third["wire"]["udp"].as_u64().expect("a number");
    assert!(wire < 24 * 1024, "one changed file cost {wire} bytes");
    assert_same(&files, &core.export("cam/cam1").path().join("out"));
    assert_eq!(device.dataset("cam/cam1")["state"], "in sync");
    assert_eq!(device.dataset("cam/cam1")["durability"], "local-disk");
}

#[test]
fn append_keeps_what_is_deleted_and_a_command_deletes_it() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("photos");
    put(&files, "kept.bin", noise(2, 200_000));
    put(&files, "gone.txt", "small and gone");
    put(&files, "sub/also.txt", "small and gone too");
    fs::create_dir(files.join("empty")).expect("made");
    std::os::unix::fs::symlink("kept.bin", files.join("link")).expect("linked");
    device.publish(&files, "cam");
    device.sync();
    fs::remove_file(files.join("gone.txt")).expect("removed");
    fs::remove_dir_all(files.join("sub")).expect("removed");
    fs::remove_dir(files.join("empty")).expect("removed");
    fs::remove_file(files.join("link")).expect("removed");
    put(&files, "new.txt", "new");
    device.sync();
    let out = core.export("cam");
    assert_eq!(fs::read(out.path().join("out/gone.txt")).expect("kept"), b"small and gone");
    assert_eq!(fs::read(out.path().join("out/new.txt")).expect("there"), b"new");
    assert!(out.path().join("out/empty").is_dir() && out.path().join("out/link").is_symlink());

    device.run(&["delete", "cam", "gone.txt", "sub", "kept.bin", "empty", "link"]);
    assert!(!files.join("kept.bin").exists(), "delete removes the file here too");
    device.sync();
    assert_same(&files, &core.export("cam").path().join("out"));
    assert!(device.fails(&["delete", "cam", "gone.txt"]).contains("HW-2010"));
}

#[test]
fn mirror_follows_deletions_but_not_freeing() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("photos");
    for number in 0..40 {
        put(&files, &format!("small/{number:02}.txt"), format!("content {number}"));
    }
    put(&files, "freed.bin", noise(3, 500_000));
    put(&files, "deleted.bin", noise(4, 100_000));
    device.publish_mirror(&files, "cam");
    assert!(device.fails(&["free", "cam", "freed.bin"]).contains("HW-2005"), "freed without a receipt");
    device.sync();

    let freed = device.json(&["free", "cam", "freed.bin", "small/03.txt"]);
    assert_eq!(freed["files"], 2, "{freed}");
    assert!(!files.join("freed.bin").exists() && !files.join("small/03.txt").exists());
    let before = files.join("small/04.txt");
    fs::remove_file(files.join("deleted.bin")).expect("removed");
    fs::remove_file(&before).expect("removed");
    put(&files, "small/05.txt", "changed beside a freed file");
    let report = device.sync();
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(0), "{report}");
    let out = core.export("cam");
    let out = out.path().join("out");
    assert_eq!(fs::read(out.join("freed.bin")).expect("kept"), noise(3, 500_000));
    assert_eq!(fs::read(out.join("small/03.txt")).expect("kept"), b"content 3");
    assert!(!out.join("deleted.bin").exists() && !out.join("small/04.txt").exists());
    assert_eq!(device.dataset("cam")["remote_files"], 2);

    // A file that is changed is not freed, and says so.
    put(&files, "small/06.txt", "not yet at the core");
    let kept = device.json(&["free", "cam", "small/06.txt"]);
    assert_eq!(kept["files"], 0, "{kept}");
    assert_eq!(kept["kept"][0]["path"], "small/06.txt");

    device.run(&["delete", "cam", "freed.bin"]);
    device.sync();
    assert!(!core.export("cam").path().join("out/freed.bin").exists());
}

#[test]
fn special_files_are_left_out_with_a_note() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("photos");
    put(&files, "plain.txt", "plain");
    rustix::fs::mknodat(rustix::fs::CWD, files.join("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .expect("a pipe");
    put(&files, ".headwaterignore", "*.tmp\n");
    put(&files, "ignored.tmp", "ignored");
    device.publish(&files, "cam");
    let report = device.sync();
    assert_eq!(report["skipped"][0]["path"], "pipe", "{report}");
    let out = core.export("cam");
    assert!(out.path().join("out/plain.txt").exists());
    assert!(!out.path().join("out/ignored.tmp").exists() && !out.path().join("out/pipe").exists());
}

#[test]
fn a_missing_folder_deletes_nothing() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("photos");
    put(&files, "file.txt", "content");
    device.publish_mirror(&files, "cam");
    device.sync();
    fs::rename(&files, device.folder.path().join("unmounted")).expect("renamed");
    let output = device.output(&["sync", "--once", "--json"]);
    assert!(!output.status.success());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["problems"][0]["code"], "HW-4004", "{report}");
    assert_eq!(core.newest("cam"), Some(1));
}

#[test]
fn a_large_first_scan_commits_growing_versions() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("photos");
    for number in 0..6 {
        put(&files, &format!("{number}.bin"), noise(number, 1 << 20));
    }
    let settings = "[scan]\nsettle = \"0\"\nversion_bytes = \"2MiB\"\n";
    fs::write(device.data().join("agent.toml"), settings).expect("written");
    device.publish(&files, "cam");
    std::thread::sleep(STAMPS_TRUSTED_AFTER);
    let report = device.sync();
    let published = report["published"].as_array().expect("versions");
    assert!(published.len() >= 2, "{report}");
    assert_same(&files, &core.export("cam").path().join("out"));
}

#[test]
fn everything_works_from_one_settings_file() {
    let core = Core::start();
    let device = core.device("cam1");
    let (files, local, to) = (device.files("photos"), device.files("private"), device.files("in"));
    put(&files, "photo.txt", "photo");
    put(&local, "private.txt", "private");
    let (files_text, local_text, to_text) = (files.display(), local.display(), to.display());
    device.settings(&format!(
        "[[publish]]\nfolder = \"{files_text}\"\ndataset = \"cam/{{device}}\"\nmode = \"mirror\"\nevery = \"1m\"\n\
         [[local]]\nfolder = \"{local_text}\"\ndataset = \"private\"\n\
         [[subscribe]]\ndataset = \"cam/*\"\nto = \"{to_text}\"\nkeep = 1\n"
    ));
    device.run(&["config", "check"]);
    device.sync();
    device.sync();
    assert_eq!(fs::read_to_string(to.join("cam/cam1/current/photo.txt")).expect("there"), "photo");
    assert!(core.newest("private").is_none(), "a local dataset reached the core");
    assert_eq!(device.dataset("private")["state"], "local");
}
