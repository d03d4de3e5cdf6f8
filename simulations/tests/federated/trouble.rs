//! What goes wrong: kills on both sides, bad programs, bad updates.

use std::path::Path;
use std::time::Duration;

use simulations::processes::folder::Dice;
use simulations::processes::{Relay, wait_for};

use crate::lab::{DOUBLE, ELEMENTS, Lab, MODEL, model_file, model_of};

/// A program that takes its time, so that something can be killed in its middle.
const SLOW: &str = r#"
echo $$ > "$HEADWATER_TASK/../pid"
echo run >> "$HEADWATER_TASK/../runs"
sleep 0.4
cp "$HEADWATER_TASK/model.safetensors" "$HEADWATER_TASK/update.safetensors"
echo '{"samples": SAMPLES}' > "$HEADWATER_TASK/metrics.json"
"#;

#[test]
fn a_killed_core_finishes_its_rounds() {
    let mut lab = Lab::new(&[SLOW, SLOW, DOUBLE]);
    let run = lab.start(&["--rounds", "4", "--min-updates", "3", "--deadline", "2m"]);
    for pause in [100, 450, 700, 300, 550] {
        std::thread::sleep(Duration::from_millis(pause));
        lab.core.kill();
        lab.core.run();
    }
    let (of_run, rounds) = lab.finished(&run);
    assert_eq!(of_run["state"], "finished", "{of_run}");
    assert_eq!(of_run["number"], 5, "each round made one version: {of_run}");
    assert!(rounds.iter().all(|round| round["updates"] == 3 && round["state"] == "aggregated"), "{rounds:?}");
    assert_eq!(lab.model(5), vec![16.0; ELEMENTS]);
    lab.verify_all(5);
}

#[test]
fn a_killed_agent_goes_on_and_leaves_no_program_behind() {
    let mut lab = Lab::new(&[SLOW, DOUBLE]);
    let run = lab.start(&["--rounds", "3", "--min-updates", "2", "--deadline", "2m"]);
    let place = lab.devices[0].data().join("training").join(&run);
    for round in 1..=2 {
        let pid = wait_for("the program", || {
            let pid = std::fs::read_to_string(place.join("pid")).ok()?;
            let _ = std::fs::remove_file(place.join("pid"));
            Some(pid)
        });
        lab.devices[0].kill();
        wait_for("the program to be gone", || (!Path::new(&format!("/proc/{}", pid.trim())).exists()).then_some(()));
        lab.devices[0].run();
        lab.wait_log(&run, &format!("round {round} is aggregated"));
    }
    let (of_run, _) = lab.finished(&run);
    assert_eq!(of_run["state"], "finished", "{of_run}");
    assert_eq!(lab.model(4), vec![8.0; ELEMENTS]);
    lab.verify_all(4);
}

#[test]
fn an_update_that_was_nearly_there_goes_on_where_it_was() {
    /// Elements of the model, which is all zeros.
    const ELEMENTS: usize = 1 << 19;
    let folder = tempfile::tempdir().expect("a folder");
    let learnt = folder.path().join("learnt");
    let learn = |seed| {
        let noise = Dice::new(seed).bytes(ELEMENTS * 4);
        let words = noise.as_chunks().0.iter();
        let values: Vec<f32> = words.map(|word| (u32::from_le_bytes(*word) >> 8) as f32 / 16_777_216.0).collect();
        std::fs::write(&learnt, model_of(&values)).expect("written");
    };
    let program = format!(
        "cp {} $HEADWATER_TASK/update.safetensors\necho '{{\"samples\": 1}}' > $HEADWATER_TASK/metrics.json",
        learnt.display()
    );
    let mut lab = Lab::of_model(&model_of(&vec![0.0; ELEMENTS]), &[&program]);
    lab.devices[0].stop();
    let file = lab.devices[0].data().join("agent.toml");
    let settings = std::fs::read_to_string(&file).expect("its settings");
    let dial = |relay: &Relay| {
        let dialled = format!("[core]\naddresses = [\"{}\"]\n{settings}", relay.address());
        std::fs::write(&file, dialled).expect("written");
    };
    let relay = Relay::start(lab.core.address(), u64::MAX);
    dial(&relay);
    learn(88);
    lab.devices[0].run();
    let run = lab.start(&["--rounds", "1"]);
    lab.finished(&run);
    lab.devices[0].stop();
    let whole = relay.bytes_up();
    assert!(whole > 1 << 20, "{whole}");

    let relay = Relay::start(lab.core.address(), whole / 100 * 98);
    dial(&relay);
    learn(89);
    lab.devices[0].run();
    let run = lab.start(&["--rounds", "1"]);
    relay.wait_held();
    lab.devices[0].kill();
    let before = relay.bytes_up();
    relay.release();
    lab.devices[0].run();
    assert_eq!(lab.finished(&run).0["state"], "finished");
    let rest = relay.bytes_up() - before;
    assert!(rest < whole / 10, "{rest} of {whole} bytes were sent after the restart");
    lab.verify_all(3);
}

#[test]
fn what_devices_do_wrong_is_attributed_and_the_round_goes_on() {
    let as_update = |script: &str| format!("{script}\necho '{{\"samples\": 1}}' > $HEADWATER_TASK/metrics.json");
    let last_bytes = |bytes: &str| {
        as_update(&format!(
            "head -c -4 $HEADWATER_TASK/model.safetensors > $HEADWATER_TASK/update.safetensors; printf '{bytes}' >> $HEADWATER_TASK/update.safetensors"
        ))
    };
    let cases: Vec<(String, &str)> = vec![
        (last_bytes(r"\000\000\300\177"), "has changed by NaN"),
        (last_bytes(r"\377\377\177\177"), "no change can be over"),
        (
            as_update("head -c 500 $HEADWATER_TASK/model.safetensors > $HEADWATER_TASK/update.safetensors"),
            "can't be used",
        ),
        ("exit 0".to_owned(), "said no `samples`"),
        ("echo '{\"samples\": 1}' > $HEADWATER_TASK/metrics.json".to_owned(), "is not there"),
        ("echo no camera >&2; exit 3".to_owned(), "no camera"),
        ("sleep 1000".to_owned(), "all that it may"),
        (
            as_update(
                "sed s/layer.weight/layer.height/ $HEADWATER_TASK/model.safetensors > $HEADWATER_TASK/update.safetensors",
            ),
            "layer.weight",
        ),
    ];
    let mut programs: Vec<&str> = cases.iter().map(|(program, _)| program.as_str()).collect();
    programs.push(DOUBLE);
    let lab = Lab::with_settings(&programs, "time = \"3s\"");
    let goal = programs.len().to_string();
    let run = lab.start(&["--rounds", "1", "--min-updates", "1", "--goal", &goal, "--deadline", "1m"]);
    let (of_run, rounds) = lab.finished(&run);
    let log = lab.log(&run);
    assert_eq!((of_run["state"].as_str(), rounds[0]["updates"].as_u64()), (Some("finished"), Some(1)), "{log}");
    for (index, (_, said)) in cases.iter().enumerate() {
        let device = format!("dev-{}", index + 1);
        let said_of_it =
            log.split("\n20").any(|entry| entry.contains(&device) && entry.contains(said) && !entry.contains("asks"));
        assert!(said_of_it, "{device} should have been told of `{said}`:\n{log}");
    }
    assert_eq!(lab.model(2), vec![2.0; ELEMENTS]);
    // All agents live.
    for device in &lab.devices {
        device.ask(&["status"]);
    }
}

#[test]
fn a_round_without_enough_devices_fails_and_says_why() {
    let lab = Lab::new(&["exit 1", DOUBLE]);
    let run = lab.start(&["--rounds", "1", "--min-updates", "2", "--deadline", "500ms"]);
    let (of_run, rounds) = lab.finished(&run);
    assert_eq!(of_run["state"], "failed", "{of_run}");
    assert!(rounds.iter().all(|round| round["state"] == "failed"), "{rounds:?}");
    assert!(!of_run["reason"].as_str().expect("a reason").is_empty());
    // Nothing came of it, and another run of the same model goes its way.
    let run = lab.start(&["--rounds", "1", "--devices", "number=2"]);
    assert_eq!(lab.finished(&run).0["number"], 2);
    let damaged = lab.core.scratch().join("damaged");
    let whole = model_file(1.0);
    std::fs::write(&damaged, &whole[..whole.len() - 1]).expect("written");
    let path = damaged.to_str().expect("text");
    lab.core.run_command(&["model", "publish", path, "--model", "x"]).failed("HW-8001", &["end at byte"]);
    // A name stands for one model, and a program that combines updates is there before devices are asked for any.
    std::fs::write(&damaged, model_of(&[1.0; 2])).expect("written");
    lab.core.run_command(&["model", "publish", path, "--model", MODEL]).failed("HW-8006", &["layer.weight", "[3000]"]);
    let combined = ["federation", "start", "--model", MODEL, "--strategy", path];
    lab.core.run_command(&combined).failed("HW-8002", &["is no program"]);
}
