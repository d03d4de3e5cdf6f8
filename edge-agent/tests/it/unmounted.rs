//! A mirrored folder whose disk is not mounted: nothing of it counts as deleted.

use std::fs;

use super::support::{Core, assert_same, eventually, put};

#[test]
fn mirror_does_not_follow_an_emptied_mount_point() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("photos");
    for number in 0..10 {
        put(&files, &format!("{number}.txt"), format!("content {number}"));
    }
    std::os::unix::fs::symlink("1.txt", files.join("link")).expect("linked");
    fs::create_dir(files.join("empty")).expect("made");
    device.publish_mirror(&files, "cam");
    device.sync();
    let mounted = device.folder.path().join("elsewhere");
    fs::rename(&files, &mounted).expect("renamed");
    fs::create_dir(&files).expect("made");
    device.sync();
    assert_eq!(core.newest("cam"), Some(1), "an empty folder was mirrored");
    let said = device.run(&["log"]);
    assert!(said.contains("HW-4010"), "nothing was said: {said}");

    fs::remove_dir(&files).expect("removed");
    fs::rename(&mounted, &files).expect("renamed");
    fs::remove_file(files.join("3.txt")).expect("removed");
    device.sync();
    assert_same(&files, &core.export("cam").path().join("out"));
}

#[test]
fn a_folder_that_was_gone_is_watched_again_when_it_is_back() {
    let core = Core::start();
    let device = core.device("cam1");
    let (files, elsewhere) = (device.files("photos"), device.folder.path().join("elsewhere"));
    put(&files, "1.txt", "one");
    let folder = files.to_str().expect("UTF-8");
    // No scan comes of its own accord while this test runs, unless the one before failed.
    device.run(&["publish", folder, "--dataset", "cam", "--every", "10h"]);
    let _daemon = device.start();
    eventually("the first version", || core.newest("cam").filter(|&number| number == 1));
    fs::rename(&files, &elsewhere).expect("renamed");
    eventually("the missing folder's error", || device.json(&["status"])["last_error"].is_object().then_some(()));
    fs::create_dir(&files).expect("made");
    put(&files, "2.txt", "two");
    eventually("a scan of what is back", || core.newest("cam").filter(|&number| number == 2));
    put(&files, "3.txt", "three");
    eventually("a version by the watch", || core.newest("cam").filter(|&number| number == 3));
}
