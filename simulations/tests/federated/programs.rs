//! Programs that the core ships: only by authors whom a device trusts.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::lab::{DOUBLE, ELEMENTS, Lab, MODEL};

#[test]
fn a_program_runs_where_its_author_is_trusted() {
    let mut lab = Lab::new(&["exit 1", "exit 1"]);
    let folder = lab.core.scratch().join("program");
    fs::create_dir_all(&folder).expect("made");
    fs::write(folder.join("run"), format!("#!/bin/sh\n{}", DOUBLE.replace("SAMPLES", "2"))).expect("written");
    fs::set_permissions(folder.join("run"), fs::Permissions::from_mode(0o755)).expect("allowed");
    lab.core.run_command(&["import", folder.to_str().expect("text"), "--dataset", "programs/double"]).success();
    let author = lab.core.ask(&["dataset", "show", "programs/double"])["author"].as_str().expect("a key").to_owned();

    // The second trusts somebody else.
    for (index, key) in [author, "00".repeat(32)].iter().enumerate() {
        lab.devices[index].stop();
        lab.devices[index].set(&format!("trust = [\"{key}\"]"));
        lab.devices[index].run();
    }
    let run = lab.start(&["--program", "programs/double", "--min-updates", "1", "--goal", "2", "--deadline", "1m"]);
    let (of_run, _) = lab.finished(&run);
    let log = lab.log(&run);
    assert_eq!(of_run["state"], "finished", "{log}");
    assert!(log.contains("dev-2 leaves") && log.contains("does not trust"), "{log}");
    assert_eq!(lab.model(2), vec![2.0; ELEMENTS]);
    lab.verify_all(2);
}

/// The core's operator can bring a way of combining; what comes of it is checked like everything that comes from outside.
#[test]
fn a_program_combines_updates_where_its_operator_says_so() {
    let lab = Lab::new(&[DOUBLE, DOUBLE]);
    let script = |name: &str, body: &str| {
        let path = lab.core.scratch().join(name);
        fs::write(&path, format!("#!/bin/sh\nset -e\ncd \"$HEADWATER_AGGREGATION\"\n{body}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("allowed");
        path.to_str().expect("text").to_owned()
    };
    let good = script(
        "keep",
        "grep -q '\"samples\": 2' aggregation.json; test -s update-1.safetensors; cp base.safetensors model.safetensors",
    );
    let run = lab.start(&["--strategy", &good, "--min-updates", "2", "--deadline", "1m"]);
    let (of_run, _) = lab.finished(&run);
    assert_eq!(of_run["state"], "finished", "{}", lab.log(&run));
    assert_eq!(lab.model(2), vec![1.0; ELEMENTS]);
    lab.verify_all(2);
    let bad = script("fail", "echo no idea; exit 7");
    let settings = lab.core.scratch().join("bad.toml");
    fs::write(&settings, format!("model = \"{MODEL}\"\nstrategy = \"{bad}\"\nmin_updates = 2\nfailures_max = 1\n"))
        .expect("written");
    let said = lab.core.ask(&["federation", "start", "--config", settings.to_str().expect("text")]);
    let (of_run, rounds) = lab.finished(said["run"].as_str().expect("a run"));
    assert_eq!(of_run["state"], "failed", "{of_run}");
    assert!(rounds[0]["reason"].as_str().expect("a reason").contains("no idea"), "{rounds:?}");
}
