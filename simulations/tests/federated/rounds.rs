//! Runs as they should go.

use std::fs;

use std::process::Command;

use simulations::processes::{Operator, Program, program, say_skipped};

use crate::lab::{DOUBLE, ELEMENTS, Lab, MODEL};

#[test]
fn devices_train_a_model_together() {
    let lab = Lab::new(&[DOUBLE, DOUBLE, DOUBLE]);
    let run = lab.start(&["--rounds", "3", "--min-updates", "3", "--deadline", "1m"]);
    let (of_run, rounds) = lab.finished(&run);
    assert_eq!((of_run["state"].as_str(), of_run["number"].as_u64()), (Some("finished"), Some(4)), "{of_run}");
    for (index, round) in rounds.iter().enumerate() {
        assert_eq!((round["updates"].as_u64(), round["state"].as_str()), (Some(3), Some("aggregated")), "{round}");
        // Weighted by samples: (1·1 + 2·2 + 3·3) / 6.
        let loss = &round["metrics"]["loss"];
        assert!((loss["mean"].as_f64().expect("a mean") - 14.0 / 6.0).abs() < 1e-12, "round {index}: {loss}");
        assert_eq!((loss["min"].as_f64(), loss["max"].as_f64()), (Some(1.0), Some(3.0)));
    }
    assert_eq!(lab.model(4), vec![8.0; ELEMENTS]);
    lab.verify_all(4);

    // What one device would have made no difference to.
    let to = lab.core.scratch().join("without");
    let version = format!("{MODEL}@4");
    lab.core
        .run_command(&["model", "without", &version, "--device", "dev-2", "--to", to.to_str().expect("text")])
        .success();
    assert_eq!(crate::lab::elements(&fs::read(to).expect("a model")), vec![8.0; ELEMENTS]);
    let to = lab.core.scratch().join("without-nobody");
    let without = ["model", "without", &version, "--device", "dev-9", "--to", to.to_str().expect("text")];
    lab.core.run_command(&without).failed("HW-8003", &["no update of `dev-9`"]);

    // A device knows what became of its work, and nothing of a task is left.
    let device = &lab.devices[0];
    let tasks = device.ask(&["training", "list"]);
    assert_eq!(tasks[0]["state"], "its update counts", "{tasks}");
    let place = device.data().join("training").join(&run);
    assert!(!place.join("update").exists() && !place.join("task").exists() && place.join("state").exists());
    assert!(lab.devices[0].run_command(&["training", "log", &run]).success().stdout.contains("\"step\": 1"));
}

#[test]
fn updates_that_are_not_to_be_kept_are_gone_with_the_round() {
    let lab = Lab::of_core("[federation]\nupdates_keep = \"none\"\n", &[DOUBLE, DOUBLE]);
    let run = lab.start(&["--rounds", "3", "--min-updates", "2", "--evaluate-every", "1"]);
    assert_eq!(lab.finished(&run).0["state"], "finished");
    assert_eq!(lab.model(4), vec![8.0; ELEMENTS]);
    let datasets = lab.core.run_command(&["dataset", "list"]).success().stdout;
    assert!(datasets.contains(MODEL) && !datasets.contains("federation/updates"), "{datasets}");
    let version = format!("{MODEL}@4");
    let verified = lab.core.run_command(&["model", "verify", &version]);
    assert!(verified.stdout.contains("dev-1") && verified.stdout.contains("not kept"), "{}", verified.stdout);
}

#[test]
fn models_are_judged_and_settings_come_from_a_file() {
    let seen = r#"
grep -q '"learning-rate": 0.5' "$HEADWATER_TASK/task.json"
if grep -q '"kind": "evaluate"' "$HEADWATER_TASK/task.json"; then
    echo '{"samples": 5, "accuracy": 0.75}' > "$HEADWATER_TASK/metrics.json"
else
    cp "$HEADWATER_TASK/model.safetensors" "$HEADWATER_TASK/update.safetensors"
    echo '{"samples": 5}' > "$HEADWATER_TASK/metrics.json"
fi
"#;
    let lab = Lab::new(&[seen, seen]);
    let file = lab.core.scratch().join("run.toml");
    let settings = format!(
        "model = \"{MODEL}\"\nstrategy = \"fedavg:eta=0.5\"\nmin_updates = 2\nevaluate_every = 1\nencodings = [\"int8\"]\n[config]\nlearning-rate = 0.5\n"
    );
    fs::write(&file, settings).expect("written");
    let said = lab.core.ask(&["federation", "start", "--config", file.to_str().expect("text"), "--rounds", "2"]);
    let run = said["run"].as_str().expect("a run");
    let (_, rounds) = lab.finished(run);
    let kinds: Vec<_> = rounds.iter().map(|round| round["for_what"].as_str().expect("a kind")).collect();
    assert_eq!(kinds, ["train", "evaluate", "train", "evaluate"]);
    assert_eq!(rounds[1]["metrics"]["accuracy"]["mean"], 0.75);
    // Half of what devices would have doubled to, as near as a byte for each number says it.
    for value in lab.model(3) {
        assert!((value - 2.25).abs() < 2.0 / 127.0, "{value}");
    }
    lab.verify_all(3);

    fs::write(&file, "modell = \"x\"\n").expect("written");
    lab.core
        .run_command(&["federation", "start", "--config", file.to_str().expect("text")])
        .failed("HW-5001", &["modell"]);
    lab.core.run_command(&["federation", "start", "--model", "none"]).failed("HW-2002", &[]);
    let bad = ["federation", "start", "--model", MODEL, "--strategy", "fedavgg"];
    lab.core.run_command(&bad).failed("HW-5001", &["did you mean `fedavg`"]);
}

#[test]
fn a_run_is_paused_and_ended_by_people() {
    let slow = r#"
echo $$ > "$HEADWATER_TASK/../pid"
sleep 1000
"#;
    let mut lab = Lab::new(&[slow, DOUBLE]);
    let run = lab.start(&["--rounds", "2", "--min-updates", "2"]);
    lab.wait_log(&run, "dev-2 counts");
    lab.core.run_command(&["federation", "pause", &run]).success();
    assert_eq!(lab.status(&run).0["state"], "paused");
    lab.core.run_command(&["federation", "resume", &run]).success();
    let explained = lab.core.run_command(&["federation", "explain", &run]).success().stdout;
    assert!(explained.contains("1 of 2 updates"), "{explained}");
    let pid_file = lab.devices[0].data().join("training").join(&run).join("pid");
    let pid = simulations::processes::wait_for("the program", || fs::read_to_string(&pid_file).ok());
    lab.core.run_command(&["federation", "abort", &run]).success();
    simulations::processes::wait_for("the program to end", || {
        (!std::path::Path::new(&format!("/proc/{}", pid.trim())).exists()).then_some(())
    });
    assert_eq!(lab.finished(&run).0["state"], "aborted");
    // A device's own operator can leave, too: the round goes on without it.
    let run = lab.start(&["--rounds", "1", "--min-updates", "1", "--goal", "2"]);
    lab.devices[0].wait_status("it trains", |status| status["training"].to_string().contains("trains"));
    lab.devices[0].run_command(&["training", "abort", &run]).success();
    let (of_run, rounds) = lab.finished(&run);
    assert_eq!((of_run["state"].as_str(), rounds[0]["left"].as_u64()), (Some("finished"), Some(1)), "{of_run}");
    lab.core.stop();
}

#[test]
fn strategies_give_what_numpy_computes() {
    // The machine's own has numpy where `cargo xtask setup` ran; another may stand before it.
    let has_numpy = |python: &&str| {
        Command::new(python).args(["-c", "import numpy"]).output().is_ok_and(|said| said.status.success())
    };
    let Some(python) = ["/usr/bin/python3", "python3"].into_iter().find(has_numpy) else {
        return say_skipped("no Python with numpy to compare with (`cargo xtask setup`)");
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/federated.py");
    let mut check = Command::new(python);
    check.args([script, "check", "--seeds", "2", "--core"]).arg(program(Program::Core));
    let said = check.output().expect("python3 runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn a_coordinator_runs_rounds_from_elsewhere_and_others_can_not() {
    let lab = Lab::new(&[DOUBLE, DOUBLE]);
    let coordinator = Operator::login(&lab.core, "ann", &["--role", "coordinator"]);
    let begun = coordinator.list(&["federation", "start", "--model", MODEL, "--rounds", "2", "--min-updates", "2"]);
    let run = begun[0]["run"].as_str().expect("a run");
    simulations::processes::wait_for("the run to be over", || {
        let status = coordinator.list(&["federation", "status", run]);
        (status[0]["state"] == "finished").then_some(())
    });
    assert!(coordinator.says(&["federation", "log", run]).success().stdout.contains("round 2 is aggregated"));
    let models = coordinator.list(&["model", "log", MODEL]);
    assert_eq!(models.len(), 3, "{models:?}");
    let writer = Operator::login(&lab.core, "bob", &["--role", "writer"]);
    for command in
        [&["federation", "start", "--model", MODEL][..], &["federation", "pause", run], &["federation", "abort", run]]
    {
        writer.says(command).failed("HW-2006", &[]);
    }
    let device = lab.devices[0].ask(&["status"]);
    assert_eq!(device["training"][0]["state"], "its update counts", "{device}");
}
