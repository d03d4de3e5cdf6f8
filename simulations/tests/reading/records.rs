//! Samples inside files: members of archives, lines, rows and records of one size come as other samples do, and what is no such
//! file is said.

use headwater_client::order::Reading;
use headwater_client::{Client, Dataset};
use headwater_host::error::codes;

use crate::support::{
    Files, check, client, connect, core_with, core_with_settings, import, noise, reader_token, write,
};

/// The rule for everything that [`files`] holds.
const RULE: &str = "lines,npy,records:784,tar";

type Sample = Vec<(String, Vec<u8>)>;

fn member(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut all = vec![0; 512];
    all[..name.len()].copy_from_slice(name.as_bytes());
    all[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
    all[156] = b'0';
    all[257..265].copy_from_slice(b"ustar\x0000");
    all[148..156].copy_from_slice(b"        ");
    let sum: u32 = all.iter().map(|byte| u32::from(*byte)).sum();
    all[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    all.extend_from_slice(bytes);
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

/// An archive of `count` samples, one in fifty of them large, and what a job gets of it.
fn archive(seed: u64, count: u64) -> (Vec<u8>, Vec<Sample>) {
    let (mut file, mut samples) = (Vec::new(), Vec::new());
    for number in 0..count {
        let length = if number % 50 == 7 { 1_700_000 } else { 500 + number as usize * 37 % 4000 };
        let (image, label) = (noise(seed * 1000 + number, length), format!("{{\"label\":{}}}", number % 10));
        // Not in path order: a sample's fields come sorted.
        file.extend(member(&format!("train/{number:05}.png"), &image));
        file.extend(member(&format!("train/{number:05}.json"), label.as_bytes()));
        samples.push(vec![(".json".to_owned(), label.into_bytes()), (".png".to_owned(), image)]);
    }
    file.extend([0; 1024]);
    (file, samples)
}

/// Files, and the samples in them in their order.
fn files() -> (Files, Vec<Sample>) {
    let (mut files, mut all) = (Files::new(), Vec::new());
    let one = |field: &str, bytes: &[u8]| vec![(field.to_owned(), bytes.to_vec())];
    let (shard, samples) = archive(1, 120);
    files.insert("a/shard-000.tar".to_owned(), shard);
    all.extend(samples);
    let rows = noise(77, 500 * 784);
    files.insert("images.bin".to_owned(), rows.clone());
    all.extend(rows.chunks(784).map(|row| one(".bin", row)));
    let lines: Vec<String> = (0..20_000).map(|line| format!("{{\"text\":\"line {line}\"}}")).collect();
    files.insert("lines.jsonl".to_owned(), lines.join("\n").into_bytes());
    all.extend(lines.iter().map(|line| one(".json", line.as_bytes())));
    files.insert("little.txt".to_owned(), b"one\r\n\r\ntwo\n".to_vec());
    all.extend([one(".txt", b"one"), one(".txt", b"two")]);
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (300, 16, 16), }\n";
    let data = noise(78, 300 * 1024);
    let lead = [&b"\x93NUMPY\x01\x00"[..], &u16::try_from(header.len()).expect("short").to_le_bytes()].concat();
    files.insert("z.npy".to_owned(), [&lead, header.as_bytes(), &data].concat());
    all.extend(data.chunks(1024).map(|row| one(".npy", row)));
    files.insert("README.md".to_owned(), b"what this is".to_vec());
    (files, all)
}

async fn read_all(dataset: &Dataset, all: &[Sample]) {
    assert_eq!(dataset.len(), all.len() as u64);
    let reading = Reading { seed: 9, batch: 128, ..Reading::default() };
    let course = dataset.declare(&reading).await.expect("declared");
    let mut batches = dataset.read_in_order(&reading, 4).await.expect("declared");
    let mut number = 0;
    while let Some(batch) = batches.next().await {
        check(&batch.expect("read"), &course.batch(number).expect("a batch"), all);
        number += 1;
    }
    assert_eq!(number, course.len().div_ceil(128));
}

async fn opened(client: &Client, name: &str) -> Dataset {
    client.dataset(name).await.expect("opened")
}

#[tokio::test(flavor = "multi_thread")]
async fn records_inside_files_come_as_samples_of_their_own() {
    let (mut files, all) = files();
    let mut core = core_with_settings(&Files::from([("x".to_owned(), vec![1])]), "[memory]\ncache = \"8MiB\"\n");
    let folder = import(&core, "lab/records", &files);
    let said = core.ask(&["import", folder.to_str().expect("text"), "--dataset", "lab/records", "--samples", RULE]);
    assert_eq!(said["samples"], all.len(), "{said}");
    let token = reader_token(&core, "**");
    let first = connect(&token).await;
    let dataset = opened(&first, "lab/records@1").await;
    read_all(&dataset, &all).await;
    assert_eq!(first.stats().await.mismatches, 0);
    // Names of fields and of records, and files by their paths as ever.
    let sample = dataset.read(&[0]).await.expect("read");
    assert_eq!(sample.sample(0).expect("readable").field(".png").expect("an image").bytes, all[0][1].1);
    let named = dataset.read_with_paths(&[1, 120]).await.expect("read");
    let name = |index| named.sample(index).expect("readable").fields().next().expect("a field").name.to_vec();
    assert_eq!(name(0), b"a/shard-000.tar/0000000001/train/00001.json");
    assert_eq!(name(1), b"images.bin/0000000000.bin");
    let range = dataset.read_range(b"images.bin", 784 * 3 + 5, 100).await.expect("read");
    assert!(range.sample(0).expect("readable").bytes() == &files["images.bin"][784 * 3 + 5..784 * 3 + 105]);
    // Another version takes over what is the same, and finds what is new.
    let (shard, samples) = archive(2, 30);
    files.insert("a/shard-001.tar".to_owned(), shard);
    let mut more = all.clone();
    more.splice(120..120, samples);
    import(&core, "lab/records", &files);
    read_all(&opened(&first, "lab/records@2").await, &more).await;
    // Indices are what gc keeps, and are there after a restart.
    core.run_command(&["gc"]).success();
    core.kill();
    core.run();
    let second = client(&core).await;
    read_all(&opened(&second, "lab/records@1").await, &all).await;
    read_all(&opened(&second, "lab/records@2").await, &more).await;
    let as_records = *opened(&second, "lab/records@1").await.id();
    let said = core.ask(&["dataset", "samples", "lab/records", "stems"]);
    assert_eq!(said["samples"], files.len(), "{said}");
    let as_files = opened(&second, "lab/records@1").await;
    assert_eq!(as_files.len(), files.len() as u64 - 1);
    assert_ne!(as_files.id(), &as_records, "an order is never that of other samples");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_hold_no_records_are_named() {
    let (shard, samples) = archive(1, 10);
    let core = core_with(&Files::from([("x".to_owned(), vec![1])]));
    let client = client(&core).await;
    for (path, bytes, said) in
        [("cut.tar", shard[..shard.len() - 2000].to_vec(), "cut short"), ("other.tar", noise(3, 200_000), "check sum")]
    {
        let name = format!("lab/{path}");
        let mut files = Files::from([("good.tar".to_owned(), shard.clone())]);
        import(&core, &name, &files);
        core.run_command(&["dataset", "samples", &name, "zip"]).failed("HW-5005", &["records:BYTES"]);
        core.run_command(&["dataset", "samples", &name, "tar"]).success();
        files.insert(path.to_owned(), bytes);
        // Who imports hears of it at once; the version is there all the same.
        let folder = core.scratch().join(name.replace('/', "-"));
        write(&folder, &files);
        let imported = core.run_command(&["import", folder.to_str().expect("text"), "--dataset", &name]);
        imported.failed("HW-7008", &[path]);
        let error = client.dataset(&name).await.err().expect("no samples");
        assert!(error.is(&codes::SAMPLES_NOT_FOUND), "{error}");
        for word in [path, said, "from byte", &format!("{name}@2")] {
            assert!(error.message.contains(word), "{error} does not say {word}");
        }
        read_all(&opened(&client, &format!("{name}@1")).await, &samples).await;
    }
}
