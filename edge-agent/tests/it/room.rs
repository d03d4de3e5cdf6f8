//! Quotas: the oldest files go when the core keeps them, later versions keep them, and nothing else goes.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::support::{Core, Device, noise, put};

const FILE_BYTES: usize = 400 << 10;

/// Writes a file that was changed last so many hours ago.
fn put_old(folder: &Path, name: &str, seed: u64, hours: u64) -> Vec<u8> {
    let bytes = noise(seed, FILE_BYTES);
    put(folder, name, &bytes);
    let file = File::options().write(true).open(folder.join(name)).expect("opened");
    file.set_modified(SystemTime::now() - Duration::from_hours(hours)).expect("set");
    bytes
}

fn publish(device: &Device, folder: &Path, dataset: &str, more: &[&str]) {
    device.run(&[&["publish", folder.to_str().expect("UTF-8"), "--dataset", dataset], more].concat());
}

/// Lets nothing pass, so that a sync fails at once.
const CLOSED: &str = "[[link.interface]]\nname = \"lo\"\nup = \"0\"\n";

#[test]
fn the_oldest_files_go_and_stay_in_later_versions() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    // By age, not by name.
    let oldest = put_old(&files, "z.bin", 1, 50);
    let older = put_old(&files, "a.bin", 2, 40);
    let old = put_old(&files, "m.bin", 3, 30);
    publish(&device, &files, "data", &["--quota", "1MiB", "--mode", "mirror"]);
    device.sync();
    assert_eq!(core.newest("data"), Some(1));
    let is_here = |name: &str| files.join(name).exists();
    assert_eq!(["z.bin", "a.bin", "m.bin"].map(is_here), [false, true, true]);
    let status = device.dataset("data");
    assert_eq!((&status["remote_files"], &status["room"]["excess_bytes"]), (&1.into(), &0.into()), "{status}");
    let held = status["room"]["disk_bytes"].as_u64().expect("a number");
    assert!((2 * FILE_BYTES as u64..=1 << 20).contains(&held), "{status}");

    // What was changed since is not what the core has, however old it says it is; and what the core has not stays.
    device.settings(CLOSED);
    let changed = put_old(&files, "a.bin", 4, 60);
    let new = put_old(&files, "new.bin", 5, 70);
    let said = device.output(&["sync", "--once"]);
    assert!(!said.status.success());
    assert_eq!(["a.bin", "m.bin", "new.bin"].map(is_here), [true, false, true]);
    assert!(changed != older && fs::read(files.join("a.bin")).expect("read") == changed);

    device.settings("");
    device.sync();
    assert_eq!(core.newest("data"), Some(2));
    let exported = core.export("data");
    for (name, bytes) in [("z.bin", oldest), ("a.bin", changed), ("m.bin", old), ("new.bin", new)] {
        assert!(fs::read(exported.path().join("out").join(name)).expect("in the version") == bytes, "{name}");
    }
}

#[test]
fn what_another_folder_would_lose_or_no_receipt_covers_stays() {
    let core = Core::start();
    let device = core.device("cam1");
    let (outer, inner) = (device.files("outer"), device.files("outer/inner"));
    put_old(&inner, "shared.bin", 1, 50);
    put_old(&outer, "own.bin", 2, 40);
    device.publish_mirror(&inner, "inner");
    device.sync();
    publish(&device, &outer, "outer", &["--quota", "100KiB"]);
    let weak = device.files("weak");
    put_old(&weak, "only.bin", 3, 50);
    publish(&device, &weak, "weak", &["--quota", "100KiB", "--durability", "replicated-store"]);
    for _ in 0..2 {
        device.sync();
        assert!(!outer.join("own.bin").exists());
        assert!(inner.join("shared.bin").exists(), "the other folder would lose it");
        assert!(weak.join("only.bin").exists(), "no receipt promises that much");
    }
    assert_eq!((core.newest("inner"), core.newest("outer")), (Some(1), Some(1)));
    for name in ["outer", "weak"] {
        let status = device.dataset(name);
        assert!(status["room"]["excess_bytes"].as_u64() > Some(0), "{status}");
    }
    let said = device.run(&["log"]);
    assert!(said.contains("`replicated-store` is asked for"), "{said}");
    let report = device.json(&["free", "outer", "inner/shared.bin"]);
    assert!(report["kept"][0]["reason"].as_str().is_some_and(|why| why.contains("`inner`")), "{report}");
    assert!(inner.join("shared.bin").exists());
}
