//! What a name stands for: a dataset, a pattern, a collection and its later editions, each in the folder that it was
//! meant for and in no other.

use std::fs;
use std::path::Path;

use crate::support::{Core, Device, assert_same, eventually, put};

/// A device that publishes one small file as `name`.
fn camera(core: &Core, device: &str, dataset: &str) -> Device {
    let camera = core.device(device);
    put(&camera.files("out"), "photo.txt", device);
    camera.publish(&camera.files("out"), dataset);
    camera.sync();
    camera
}

fn entries(folder: &Path) -> Vec<String> {
    let listed = fs::read_dir(folder).expect("listed");
    let mut names: Vec<_> =
        listed.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_collection_goes_to_its_own_folder_alone() {
    let core = Core::start();
    let a = camera(&core, "a", "cam/a");
    camera(&core, "b", "cam/b");
    core.run(&["collection", "create", "all", "--match", "cam/*"]);
    let reader = core.device("reader");
    let (cams, models) = (reader.files("cams"), reader.files("models"));
    reader.subscribe("all", &cams);
    // Nothing has this name yet, so it could be anything.
    reader.subscribe("models/m", &models);
    let output = reader.output(&["sync", "--once", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["received"].as_array().map(Vec::len), Some(2), "{report}");
    assert_eq!(report["problems"][0]["dataset"], "models/m", "{report}");
    assert_same(&a.files("out"), &cams.join("cam/a/current"));
    assert!(entries(&models).is_empty(), "{:?}", entries(&models));

    // A dataset that was in the removed collection goes nowhere any more; the other subscription carries on.
    let daemon = reader.start();
    eventually("the session", || (reader.json(&["status"])["link"] == "connected").then_some(()));
    reader.run(&["remove", "all"]);
    put(&a.files("out"), "late.txt", "late");
    a.sync();
    core.run(&["collection", "create", "more", "--match", "cam/*"]);
    let m = camera(&core, "m", "models/m");
    eventually("the model", || fs::read(models.join("current/photo.txt")).ok());
    assert_same(&m.files("out"), &models.join("current"));
    assert_eq!(entries(&models), ["current", "versions"]);
    assert!(!cams.join("cam/a/current/late.txt").exists(), "a removed subscription was served");
    // Another one with the same folder does not bring it back.
    reader.subscribe("models/*", &cams);
    eventually("the model below the folder", || fs::read(cams.join("models/m/current/photo.txt")).ok());
    let status = reader.json(&["status"]);
    let known: Vec<_> = status["datasets"].as_array().expect("datasets").iter().map(|row| &row["name"]).collect();
    assert!(known.iter().all(|name| *name == "models/m") && !known.is_empty(), "{status}");
    drop(daemon);
}

#[test]
fn later_editions_reach_those_who_follow() {
    let core = Core::start();
    let a = camera(&core, "a", "cam/a");
    core.run(&["collection", "create", "all", "--match", "cam/*", "--every", "10s"]);
    core.run(&["collection", "create", "fixed", "--match", "cam/*"]);
    let reader = core.device("reader");
    let (timed, fixed) = (reader.files("timed"), reader.files("fixed"));
    reader.subscribe("all", &timed);
    reader.subscribe("fixed", &fixed);
    let _daemon = reader.start();
    let photo = |folder: &Path, camera: &str| fs::read(folder.join("cam").join(camera).join("current/photo.txt")).ok();
    eventually("the first edition", || photo(&timed, "a"));
    eventually("the collection", || photo(&fixed, "a"));

    // What changes between two editions comes with the next one, and never to a collection that is made by hand.
    put(&a.files("out"), "photo.txt", "another");
    a.sync();
    camera(&core, "b", "cam/b");
    eventually("the next edition", || photo(&timed, "b"));
    eventually("the next version", || photo(&timed, "a").filter(|photo| photo == b"another"));
    assert_eq!(photo(&fixed, "a").expect("there"), b"a");
    assert!(photo(&fixed, "b").is_none());
}

#[test]
fn subscriptions_do_not_share_folders() {
    let core = Core::start();
    let reader = core.device("reader");
    let to = reader.files("in");
    reader.subscribe("models/m", &to);
    for (name, to) in [("models/n", to.clone()), ("cam/*", to.join("below")), ("cam/*", reader.folder.path().into())] {
        let said = reader.fails(&["subscribe", name, "--to", to.to_str().expect("UTF-8")]);
        assert!(said.contains("overlaps"), "{said}");
    }
    let shared = reader.files("many");
    reader.subscribe("cam/*", &shared);
    reader.subscribe("models/*", &shared);
}
