//! How updates are combined: by a strategy of this core's, or by a program of its operator's.
//!
//! A program is given a folder in `HEADWATER_AGGREGATION` with `base.safetensors`, `update-0.safetensors` and so on, decoded to
//! differences in F32, and `aggregation.json`; it leaves `model.safetensors` there, with the base's tensors, and ends with the
//! status 0. It runs as the core's user, so only who may do anything on the core's machine can name one.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use headwater_aggregate::{Strategy, StrategyError, check_values, read_layout};
use headwater_protocol::tensors::encoding::{BLOCK, Encoded, Encoding, layout_of};
use headwater_protocol::tensors::{Dtype, Layout};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::combine::Input;
use super::files::PlainFile;

/// Names the folder to the program.
const FOLDER_VARIABLE: &str = "HEADWATER_AGGREGATION";
/// Elements that are decoded at once.
const STEP: u64 = 256 * BLOCK;
/// How often is looked whether the program has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long it may run.
const TIME_MAX: Duration = Duration::from_hours(1);
/// So much of its output is told where it fails, in bytes.
const TAIL_BYTES: usize = 1000;

/// How updates are combined, as a plan has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Combiner {
    /// By a program of the operator's.
    Program {
        /// Where it is.
        program: PathBuf,
    },
    /// By one of the strategies.
    Strategy(Strategy),
}

impl FromStr for Combiner {
    type Err = StrategyError;

    fn from_str(text: &str) -> Result<Self, StrategyError> {
        if is_path(text) { Ok(Self::Program { program: text.into() }) } else { text.parse().map(Self::Strategy) }
    }
}

/// Whether a text names a program and no strategy.
pub(crate) fn is_path(text: &str) -> bool {
    text.starts_with('/') || text.starts_with("./") || text.starts_with("../")
}

impl Combiner {
    /// The strategy, if it is one.
    pub(crate) fn strategy(&self) -> Option<&Strategy> {
        match self {
            Self::Strategy(strategy) => Some(strategy),
            Self::Program { .. } => None,
        }
    }
}

/// Has a program combine updates. Blocks.
pub(super) fn run(program: &Path, base: &Path, updates: &[Input<'_>], out: &Path) -> anyhow::Result<()> {
    let folder = out.with_extension("aggregation");
    fs::create_dir_all(&folder)?;
    let base_file = PlainFile::open(base)?;
    let layout = read_layout(&base_file)?;
    fs::copy(base, folder.join("base.safetensors"))?;
    let mut told = Vec::new();
    for (index, update) in updates.iter().enumerate() {
        let path = folder.join(format!("update-{index}.safetensors"));
        decode(&layout, update.path, &path).with_context(|| format!("update number {index} can't be decoded"))?;
        told.push(json!({ "file": path, "samples": update.samples, "staleness": update.staleness }));
    }
    let made = folder.join("model.safetensors");
    let aggregation = json!({ "base": folder.join("base.safetensors"), "updates": told, "out": made });
    fs::write(folder.join("aggregation.json"), serde_json::to_vec_pretty(&aggregation)?)?;
    carry_out(program, &folder)?;
    let file = PlainFile::open(&made).context("the program left no `model.safetensors`")?;
    let found = read_layout(&file).context("the program's model can't be used")?;
    let fits = Encoded::new(&layout, &found).context("the program's model is no model like its base")?;
    check_values(&layout, &fits, &file).context("the program's model can't be used")?;
    fs::rename(&made, out)?;
    Ok(fs::remove_dir_all(&folder)?)
}

fn carry_out(program: &Path, folder: &Path) -> anyhow::Result<()> {
    let log = folder.join("log.txt");
    let output = File::create(&log)?;
    let mut command = Command::new(program);
    command.current_dir(folder).env(FOLDER_VARIABLE, folder).stdin(Stdio::null()).process_group(0);
    let started = command.stdout(output.try_clone()?).stderr(output).spawn();
    let mut child = started.with_context(|| format!("`{}` can't be started", program.display()))?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > TIME_MAX {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            child.wait()?;
            bail!("`{}` ran for {} s, which is all that it may", program.display(), TIME_MAX.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    };
    if status.success() {
        return Ok(());
    }
    let said = fs::read(&log).unwrap_or_default();
    let tail = String::from_utf8_lossy(&said[said.len().saturating_sub(TAIL_BYTES)..]).trim().to_owned();
    Err(anyhow!("`{}` ended with {status}; it said:\n{tail}", program.display()))
}

/// Writes an update as differences in F32.
fn decode(model: &Layout, update: &Path, to: &Path) -> anyhow::Result<()> {
    let file = PlainFile::open(update)?;
    let known = read_layout(&file)?;
    let encoded = Encoded::new(model, &known)?;
    let layout = layout_of(model, Encoding::Full, known.metadata().clone())?;
    let out = File::create(to)?;
    out.write_all_at(&layout.encode_header(), 0)?;
    let read = |range: std::ops::Range<u64>| -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        headwater_aggregate::Source::read_at(&file, range.start, &mut bytes)?;
        Ok(bytes)
    };
    for (index, tensor) in model.tensors().iter().enumerate() {
        let target = layout.find(&tensor.name).context("a tensor is missing")?;
        for stretch in tensor.stretches(STEP) {
            let (data, scales) = encoded.bytes_of(index, stretch.clone());
            let mut bytes = read(data)?;
            if tensor.dtype.is_float() {
                let scales = scales.map(read).transpose()?.unwrap_or_default();
                let mut values = vec![0.0; (stretch.end - stretch.start) as usize];
                encoded.decode(index, stretch.clone(), &bytes, &scales, &mut values);
                bytes.resize(values.len() * Dtype::F32.bytes() as usize, 0);
                Dtype::F32.put_floats(&values, &mut bytes);
            }
            out.write_all_at(&bytes, layout.place(target, stretch.clone()).start)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_program_and_everything_else_a_strategy() {
        let program: Combiner = "/opt/combine".parse().expect("a program");
        let json = serde_json::to_string(&program).expect("plain data");
        assert_eq!(json, r#"{"program":"/opt/combine"}"#);
        assert_eq!(serde_json::from_str::<Combiner>(&json).expect("a combiner"), program);
        let strategy: Combiner = "fedadam:eta=0.5".parse().expect("a strategy");
        let json = serde_json::to_string(&strategy).expect("plain data");
        assert_eq!(serde_json::from_str::<Combiner>(&json).expect("a combiner"), strategy);
        assert!("fedadm".parse::<Combiner>().is_err());
    }
}
