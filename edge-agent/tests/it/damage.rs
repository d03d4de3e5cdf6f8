//! A damaged catalog is set aside and rebuilt by itself: whatever was done to it, the next sync is good.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::{Core, Device, assert_same, noise, put};

type Damage = (&'static str, fn(&Path));

const DAMAGES: &[Damage] = &[
    ("an empty file", |path| fs::write(path, b"").expect("written")),
    ("one byte", |path| truncate(path, |_| 1)),
    ("half a header", |path| truncate(path, |_| 50)),
    ("one page", |path| truncate(path, |_| 4096)),
    ("half of it", |path| truncate(path, |length| length / 2)),
    ("all but the last page", |path| truncate(path, |length| length - 4096)),
    ("a zeroed header", |path| overwrite(path, 0, &[0; 100])),
    ("a zeroed second page", |path| overwrite(path, 4096, &[0; 4096])),
    ("garbage", |path| fs::write(path, noise(1, 60_000)).expect("written")),
    ("flipped bits everywhere", |path| {
        let length = fs::metadata(path).expect("there").len();
        for at in (200..length).step_by(1777) {
            flip(path, at);
        }
    }),
    ("a lost write-ahead log", |path| {
        let _ = fs::remove_file(path.with_file_name("catalog.db-wal"));
    }),
    ("a lost file", |path| fs::remove_file(path).expect("removed")),
    ("a dropped table", |path| sql(path, "DROP TABLE pages")),
    ("a dropped column", |path| sql(path, "ALTER TABLE versions DROP COLUMN receipt")),
    ("emptied pages", |path| sql(path, "DELETE FROM pages")),
    ("changed pages", |path| sql(path, "UPDATE pages SET bytes = substr(bytes, 1, 40)")),
    ("changed stamps", |path| sql(path, "UPDATE stamps SET stamps = zeroblob(40)")),
    ("a changed number", |path| sql(path, "UPDATE versions SET number = number + 5")),
    ("lost versions", |path| sql(path, "DELETE FROM versions")),
];

fn truncate(path: &Path, length: fn(u64) -> u64) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("opened");
    let now = file.metadata().expect("looked at").len();
    file.set_len(length(now)).expect("cut");
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    fs::OpenOptions::new().write(true).open(path).expect("opened").write_all_at(bytes, at).expect("written");
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 0x55], at).expect("written");
}

fn sql(path: &Path, statement: &str) {
    rusqlite::Connection::open(path).expect("opened").execute_batch(statement).expect("done");
}

#[test]
fn a_damaged_catalog_is_rebuilt() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    for number in 0..400u64 {
        put(&files, &format!("{:02}/{number:03}.txt", number % 7), format!("file {number}").repeat(30));
    }
    put(&files, "large.bin", noise(50, 2 << 20));
    put(&files, "freed.bin", noise(51, 300_000));
    device.publish_mirror(&files, "data");
    let secret = device.files("secret");
    put(&secret, "secret.txt", "secret");
    device.run(&["local", secret.to_str().expect("UTF-8"), "--dataset", "secret"]);
    device.sync();
    device.run(&["free", "data", "freed.bin"]);
    let writer = core.device("writer");
    let others = writer.files("others");
    put(&others, "model.bin", noise(52, 400_000));
    writer.publish(&others, "others");
    writer.sync();
    let to = device.files("in");
    device.subscribe("others", &to);
    device.sync();

    for (round, (what, damage)) in DAMAGES.iter().enumerate() {
        let catalog = device.data().join("catalog.db");
        damage(&catalog);
        put(&files, "changing.txt", format!("round {round}"));
        put(&others, "changing.txt", format!("round {round}"));
        writer.sync();
        let report = device.sync();
        assert!(report["problems"].as_array().is_some_and(Vec::is_empty), "after {what}: {report}");
        check(&core, &device, &files, what);
        assert_same(&others, &to.join("current"));
        // Damage to what one sync does not look at may show in the next; after that nothing is left over.
        let next = device.sync();
        assert!(next["problems"].as_array().is_some_and(Vec::is_empty), "after {what}: {next}");
        let last = device.sync();
        assert_eq!(last["unchanged"], 3, "after {what}: {last}");
    }
}

fn check(core: &Core, device: &Device, files: &Path, what: &str) {
    let out = core.export("data");
    let out = out.path().join("out");
    assert_eq!(fs::read(out.join("freed.bin")).ok(), Some(noise(51, 300_000)), "the freed file was lost after {what}");
    put(files, "freed.bin", noise(51, 300_000));
    assert_same(files, &out);
    fs::remove_file(files.join("freed.bin")).expect("removed");
    let dataset = device.dataset("data");
    assert_eq!(dataset["state"], "in sync", "after {what}: {dataset}");
    assert_eq!(dataset["remote_files"], 1, "after {what}: {dataset}");
    assert_eq!(dataset["durability"], "local-disk", "no receipt after {what}: {dataset}");
    assert_eq!(Some(&dataset["number"]), core.newest("data").map(Into::into).as_ref(), "after {what}");
}

#[test]
fn an_old_catalog_put_back_catches_up() {
    let core = Core::start();
    let device = core.device("cam1");
    let files = device.files("data");
    put(&files, "one.txt", "one");
    device.publish(&files, "data");
    device.sync();
    let catalog = device.data().join("catalog.db");
    let old = fs::read(&catalog).expect("read");
    for round in 0..3 {
        put(&files, "two.txt", format!("round {round}"));
        device.sync();
    }
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(device.data().join(format!("catalog.db{suffix}")));
    }
    fs::write(&catalog, old).expect("put back");
    assert_eq!(device.sync()["problems"].as_array().map(Vec::len), Some(0));
    assert_eq!(core.newest("data"), Some(4), "what was there already was published again");
    put(&files, "three.txt", "three");
    device.sync();
    assert_eq!(core.newest("data"), Some(5));
    assert_same(&files, &core.export("data").path().join("out"));
}
