//! A core with data, and clients of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use headwater_client::{Batch, Client, Dataset, Options};
use simulations::processes::{CoreProcess, Program, Said, program, run};

/// Files by path, each with its bytes.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// `length` bytes that don't compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Images with labels, one file of nothing, one of a few chunks, and one with a long chunk list.
pub(crate) fn mixed() -> Files {
    let mut files = Files::new();
    for number in 0..700u64 {
        files.insert(format!("train/{:02}/{number:05}.png", number % 20), noise(number, 784 + number as usize % 40));
        files.insert(
            format!("train/{:02}/{number:05}.json", number % 20),
            format!("{{\"label\":{}}}", number % 10).into(),
        );
    }
    files.insert("empty".to_owned(), Vec::new());
    files.insert("zeros.bin".to_owned(), vec![0; 900_000]);
    files.insert("video/middle.mp4".to_owned(), noise(7, 3_000_000));
    files.insert("video/long.mp4".to_owned(), noise(8, 40_000_000));
    files
}

pub(crate) fn write(folder: &Path, files: &Files) {
    for (path, bytes) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }
}

/// The files of each sample, in the order in which a version counts them.
pub(crate) fn samples(files: &Files) -> Vec<Vec<(String, Vec<u8>)>> {
    let mut paths: Vec<_> = files.keys().cloned().collect();
    paths.sort_by(|left, right| headwater_protocol::path::compare(left.as_bytes(), right.as_bytes()));
    let mut samples: Vec<Vec<(String, Vec<u8>)>> = Vec::new();
    let mut last = Vec::new();
    for path in paths {
        let stem = headwater_protocol::path::stem(path.as_bytes()).to_vec();
        let file = (path.clone(), files[&path].clone());
        match samples.last_mut() {
            Some(sample) if stem == last => sample.push(file),
            _ => samples.push(vec![file]),
        }
        last = stem;
    }
    samples
}

/// A core that has imported `files` as `lab/data`.
pub(crate) fn core_with(files: &Files) -> CoreProcess {
    core_with_settings(files, "")
}

/// The same with settings.
pub(crate) fn core_with_settings(files: &Files, settings: &str) -> CoreProcess {
    let mut core = CoreProcess::init();
    let file = core.data().join("core.toml");
    let text = fs::read_to_string(&file).expect("read");
    fs::write(&file, format!("{text}\n{settings}\n")).expect("written");
    core.run();
    import(&core, "lab/data", files);
    core
}

pub(crate) fn import(core: &CoreProcess, dataset: &str, files: &Files) -> PathBuf {
    let folder = core.scratch().join(dataset.replace('/', "-"));
    write(&folder, files);
    core.run_command(&["import", folder.to_str().expect("text"), "--dataset", dataset]).success();
    folder
}

/// The command `headwater`, with this token, to the core at `address`.
pub(crate) fn headwater_at(
    core: &CoreProcess,
    address: impl std::fmt::Display,
    token: &str,
    arguments: &[&str],
) -> Command {
    let file = core.scratch().join(format!("token-{}", blake3::hash(token.as_bytes()).to_hex()));
    fs::write(&file, token).expect("written");
    let mut command = Command::new(program(Program::Client));
    command.args(arguments).env("HEADWATER_TOKEN_FILE", file).env("HEADWATER_CORE", address.to_string());
    command.env("XDG_CACHE_HOME", core.scratch().join("cache")).env_remove("HEADWATER_TOKEN");
    command
}

/// Runs `headwater` to its end.
pub(crate) fn headwater(core: &CoreProcess, token: &str, arguments: &[&str]) -> Said {
    run(headwater_at(core, core.address(), token, arguments))
}

/// A token of a reader that may read `read`.
pub(crate) fn reader_token(core: &CoreProcess, read: &str) -> String {
    core.token(&["--role", "reader", "--read", read])
}

pub(crate) async fn client(core: &CoreProcess) -> Client {
    connect(&reader_token(core, "**")).await
}

pub(crate) async fn connect(token: &str) -> Client {
    Client::connect(Options::of_token(token, None).expect("a token")).await.expect("connected")
}

/// Checks a batch against the samples with these numbers.
pub(crate) fn check(batch: &Batch, numbers: &[u64], all: &[Vec<(String, Vec<u8>)>]) {
    assert_eq!(batch.len(), numbers.len());
    for (index, &number) in numbers.iter().enumerate() {
        let sample = batch.sample(index).expect("readable");
        let expected = &all[number as usize];
        let fields: Vec<_> = sample.fields().collect();
        assert_eq!(fields.len(), expected.len(), "files of sample {number}");
        for (field, (path, bytes)) in fields.iter().zip(expected) {
            assert!(path.as_bytes().ends_with(field.name), "{path} is not {:?}", field.name);
            assert!(field.bytes == bytes.as_slice(), "bytes of {path}, sample {number}");
        }
    }
}

/// Reads all samples in a mixed order, in batches, and checks them.
pub(crate) async fn read_all(dataset: &Dataset, all: &[Vec<(String, Vec<u8>)>]) {
    assert_eq!(dataset.len(), all.len() as u64);
    let order =
        headwater_client::order::Order::new(dataset.id(), dataset.len(), 42, 0, headwater_client::order::Shuffle::Full);
    let numbers: Vec<u64> = (0..order.len()).filter_map(|position| order.sample(position)).collect();
    let batches: Vec<Vec<u64>> = numbers.chunks(61).map(<[u64]>::to_vec).collect();
    let mut reading = dataset.batches(batches.clone(), 4);
    for expected in &batches {
        let batch = reading.next().await.expect("a batch").expect("read");
        check(&batch, expected, all);
    }
    assert!(reading.next().await.is_none());
}
