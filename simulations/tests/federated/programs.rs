//! Programs that the core ships: only by authors whom a device trusts.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::lab::{DOUBLE, ELEMENTS, Lab};

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
