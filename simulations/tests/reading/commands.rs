//! The `headwater` command, as a person at a cluster runs it.

use std::fs;

use crate::support::{core_with, headwater, mixed, reader_token};

#[test]
fn a_version_is_looked_at_and_copied() {
    let files = mixed();
    let core = core_with(&files);
    let token = reader_token(&core, "**");
    let said = |arguments: &[&str]| headwater(&core, &token, arguments).success().stdout.clone();
    assert!(said(&["ls"]).contains("lab/data"));
    assert!(said(&["ls", "lab/data@latest/video"]).contains("40000000  video/long.mp4"));
    assert!(said(&["du", "lab/data@1"]).lines().any(|line| line.trim_end().ends_with("1400  train")));
    assert_eq!(said(&["cat", "lab/data@latest/train/03/00003.json"]), "{\"label\":3}");
    let to = core.scratch().join("copied");
    said(&["cp", "lab/data@1", to.to_str().expect("text")]);
    for (path, bytes) in &files {
        assert!(fs::read(to.join(path)).expect("copied") == *bytes, "{path}");
    }
    said(&["cp", "lab/data@1/video/middle.mp4", to.join("one.mp4").to_str().expect("text")]);
    assert!(fs::read(to.join("one.mp4")).expect("copied") == files["video/middle.mp4"]);
    assert!(said(&["sample", "lab/data", "1"]).contains("train/"));
    assert!(said(&["doctor"]).contains("1 datasets can be read"));
    let measured = said(&["bench", "lab/data", "--seconds", "1", "--batch", "64", "--json"]);
    assert!(measured.contains("\"transport\":\"tcp\""), "{measured}");
}

#[test]
fn what_is_wrong_has_a_code_and_a_hint() {
    let core = core_with(&mixed());
    let token = reader_token(&core, "**");
    headwater(&core, &token, &["cat", "lab/data/no-version"]).failed("HW-5005", &[]);
    headwater(&core, &token, &["cat", "lab/data@1/none"]).failed("HW-2010", &["none"]);
    headwater(&core, &token, &["ls", "lab/other@1"]).failed("HW-2002", &["lab/other"]);
    headwater(&core, &token, &["sample", "lab/data", "99999"]).failed("HW-7001", &["99999"]);
    headwater(&core, "hw1-nonsense", &["ls"]).failed("HW-1003", &[]);
    let device = core.token(&["--read", "**"]);
    headwater(&core, &device, &["ls"]).failed("HW-2006", &[]);
}
