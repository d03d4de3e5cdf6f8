//! A mirrored folder whose disk is not mounted: nothing of it counts as deleted.

use std::fs;

use super::support::{Core, assert_same, put};

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
