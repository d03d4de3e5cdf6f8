//! A core with a model, and devices that train it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use headwater_protocol::tensors::{Dtype, Layout, Tensor};
use serde_json::Value;
use simulations::processes::{AgentProcess, CoreProcess, wait_for};

/// The name of the model.
pub(crate) const MODEL: &str = "lab/digits";
/// Elements of its one tensor.
pub(crate) const ELEMENTS: usize = 3000;

/// A program that doubles the model's numbers, and says what it used as many samples as the device's name ends with.
pub(crate) const DOUBLE: &str = r#"
cp "$HEADWATER_TASK/model.safetensors" "$HEADWATER_TASK/update.safetensors"
echo '{"step": 1, "steps": 1}'
echo '{"samples": SAMPLES, "loss": SAMPLES}' > "$HEADWATER_TASK/metrics.json"
"#;

/// A model's file, all of whose elements are `value`.
pub(crate) fn model_file(value: f32) -> Vec<u8> {
    model_of(&[value; ELEMENTS])
}

/// A model's file with these elements.
pub(crate) fn model_of(values: &[f32]) -> Vec<u8> {
    let metadata = BTreeMap::from([("headwater.update".to_owned(), "delta".to_owned())]);
    let tensor =
        Tensor { name: "layer.weight".to_owned(), dtype: Dtype::F32, shape: vec![values.len() as u64], range: 0..0 };
    let layout = Layout::build(vec![tensor], metadata).expect("a layout");
    let mut bytes = layout.encode_header();
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// The elements of a model's file.
pub(crate) fn elements(bytes: &[u8]) -> Vec<f32> {
    let layout = Layout::of(bytes).expect("a model");
    let tensor = layout.find("layer.weight").expect("its tensor");
    let range = layout.place(tensor, 0..tensor.elements());
    let mut values = vec![0.0; ELEMENTS];
    tensor.dtype.floats(&bytes[range.start as usize..range.end as usize], &mut values);
    values
}

/// A core and devices.
pub(crate) struct Lab {
    pub(crate) core: CoreProcess,
    pub(crate) devices: Vec<AgentProcess>,
}

impl Lab {
    /// A core with a model of ones, and devices `dev-1`, `dev-2` and so on that run these programs; `SAMPLES` in a program is
    /// the device's number.
    pub(crate) fn new(programs: &[&str]) -> Self {
        Self::with_settings(programs, "")
    }

    /// The same with further settings of training.
    pub(crate) fn with_settings(programs: &[&str], settings: &str) -> Self {
        Self::around(CoreProcess::start(), &model_file(1.0), programs, settings)
    }

    /// The same on a core with these settings.
    pub(crate) fn of_core(settings: &str, programs: &[&str]) -> Self {
        Self::around(CoreProcess::with_settings(settings), &model_file(1.0), programs, "")
    }

    /// The same with another model.
    pub(crate) fn of_model(model: &[u8], programs: &[&str]) -> Self {
        Self::around(CoreProcess::start(), model, programs, "")
    }

    fn around(core: CoreProcess, model: &[u8], programs: &[&str], settings: &str) -> Self {
        let file = core.scratch().join("model.safetensors");
        fs::write(&file, model).expect("written");
        core.run_command(&["model", "publish", file.to_str().expect("text"), "--model", MODEL]).success();
        let mut lab = Self { core, devices: Vec::new() };
        for (index, program) in programs.iter().enumerate() {
            lab.join(index + 1, program, settings);
        }
        lab
    }

    fn join(&mut self, number: usize, program: &str, settings: &str) {
        let token = self.core.token(&["--label", &format!("number={number}")]);
        let name = format!("dev-{number}");
        let mut device = AgentProcess::new(&name);
        device.run_command(&["join", &token, "--name", &name]).success();
        let script = device.scratch().join("train.sh");
        fs::write(&script, program.replace("SAMPLES", &number.to_string())).expect("written");
        device
            .set(&format!("[training]\ncommand = [\"sh\", \"-e\", {:?}]\n{settings}", script.to_str().expect("text")));
        device.run();
        self.devices.push(device);
    }

    /// Begins a run, and gives its name.
    pub(crate) fn start(&self, arguments: &[&str]) -> String {
        let command = [&["federation", "start", "--model", MODEL], arguments].concat();
        let said = self.core.ask(&command);
        said["run"].as_str().expect("a run").to_owned()
    }

    /// The parts of the status of a run: the run itself, its rounds, its devices.
    pub(crate) fn status(&self, run: &str) -> (Value, Vec<Value>, Vec<Value>) {
        let said = self.core.run_command(&["federation", "status", run, "--json"]).success();
        let mut parts = said.documents().into_iter();
        let of_run = parts.next().expect("a run");
        let (rounds, devices) = parts.partition(|part| part.get("round").is_some());
        (of_run, rounds, devices)
    }

    /// Waits until a run is over, and gives it and its rounds.
    #[track_caller]
    pub(crate) fn finished(&self, run: &str) -> (Value, Vec<Value>) {
        wait_for("the run to be over", || {
            let (of_run, rounds, _) = self.status(run);
            matches!(of_run["state"].as_str(), Some("finished" | "failed" | "aborted")).then_some((of_run, rounds))
        })
    }

    /// Waits until the log of a run says something.
    #[track_caller]
    pub(crate) fn wait_log(&self, run: &str, what: &str) -> String {
        wait_for(what, || {
            let log = self.log(run);
            log.contains(what).then_some(log)
        })
    }

    /// The log of a run, in words.
    pub(crate) fn log(&self, run: &str) -> String {
        self.core.run_command(&["federation", "log", run]).success().stdout
    }

    /// The elements of a version of the model.
    pub(crate) fn model(&self, number: u64) -> Vec<f32> {
        let to: PathBuf = self.core.scratch().join(format!("export-{number}"));
        let version = format!("{MODEL}@{number}");
        self.core.run_command(&["model", "export", &version, to.to_str().expect("text")]).success();
        elements(&fs::read(to).expect("a model"))
    }

    /// All versions but the first are what their lineage says.
    #[track_caller]
    pub(crate) fn verify_all(&self, newest: u64) {
        for number in 2..=newest {
            let said = self.core.ask(&["model", "verify", &format!("{MODEL}@{number}")]);
            assert_eq!(said["made"], said["stored"], "{said}");
        }
    }
}
