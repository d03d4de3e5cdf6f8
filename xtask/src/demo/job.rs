//! A training job that reads what the devices have published: the example of the client library, as processes of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::show::Table;
use crate::process::output;
use crate::world::{Core, Daemon, Programs};

/// What the job reads: the collection that the subscriber has too.
const COLLECTION: &str = "all@latest";
/// A step of training in the epoch that is cut short, in microseconds: reading alone would be too fast to aim at its middle.
const STEP_US: &str = "1500";
/// Samples of its batches: few enough that also a handful of files has a middle.
const BATCH: &str = "64";
/// Files that are too few for a middle.
const SAMPLES_MIN: usize = 256;
/// How often the job's state is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long the job may take to the middle of its epoch.
const HALF_WITHIN: Duration = Duration::from_mins(2);
/// Ranks that go on where the killed one was.
const RANKS: usize = 2;
/// What a classifier reaches that was given the right labels with the right images; one of ten classes is right by chance.
const ACCURACY_MIN: f64 = 0.7;
/// Epochs of training.
const EPOCHS: &str = "3";

/// The job, with a token of its own.
pub(super) struct Job {
    program: PathBuf,
    token: PathBuf,
    work: PathBuf,
}

/// Where the job was when it was killed.
struct Killed {
    /// Samples that its state counts.
    position: usize,
    /// Samples of an epoch.
    samples: usize,
    /// The numbers of those that came, in order.
    seen: Vec<usize>,
}

impl Job {
    pub(super) fn new(programs: &Programs, core: &Core, work: &Path) -> anyhow::Result<Self> {
        let work = work.join("job");
        fs::create_dir_all(&work)?;
        Ok(Self { program: programs.job.clone(), token: core.reader_token()?, work })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("HEADWATER_TOKEN_FILE", &self.token).env("HEADWATER_JOB", "demo");
        command.env_remove("HEADWATER_TOKEN").env_remove("HEADWATER_CORE");
        command
    }

    fn file(&self, name: &str) -> String {
        self.work.join(name).to_string_lossy().into_owned()
    }

    /// Reads an epoch, is killed in the middle of it, and goes on with two ranks. Fails unless each sample came exactly once.
    pub(super) fn read_killed_and_resumed(&self, table: &mut Table) -> anyhow::Result<()> {
        println!("\nA training job reads them all in random order, and is killed half-way");
        let killed = self.read_until_killed()?;
        println!(
            "killed with SIGKILL; its last saved state counts {} of {} samples. {} more had come and are read again; {RANKS} ranks go on",
            killed.position,
            killed.samples,
            killed.seen.len() - killed.position,
        );
        let start = Instant::now();
        let mut ranks = Vec::new();
        for rank in 0..RANKS {
            let mut command = self.command(&["read", COLLECTION, "--resume", &self.file("state.json")]);
            command.args(["--rank", &rank.to_string(), "--world-size", &RANKS.to_string()]);
            command.args(["--seen", &self.file(&format!("seen-{rank}"))]).stdout(Stdio::piped());
            ranks.push(command.spawn().context("a rank can't be started")?);
        }
        // What came after the last state was saved is read again: its batch was not learnt from.
        let mut came = killed.seen[..killed.position].to_vec();
        let mut said = Value::Null;
        for (rank, process) in ranks.into_iter().enumerate() {
            let ended = process.wait_with_output()?;
            if !ended.status.success() {
                bail!("rank {rank} failed ({})", ended.status);
            }
            said = serde_json::from_slice(&ended.stdout).context("a rank says what it read")?;
            came.extend(self.seen(&format!("seen-{rank}"))?);
        }
        let took = start.elapsed().as_secs_f64();
        let after = came.len() - killed.position;
        came.sort_unstable();
        if came.len() != killed.samples || came.iter().enumerate().any(|(number, &seen)| number != seen) {
            bail!("{} samples came, and not each of {} exactly once", came.len(), killed.samples);
        }
        let why = said["why_not_rdma"].as_str().map(|why| format!(" (no RDMA: {why})")).unwrap_or_default();
        table.note(format!(
            "a training job read each of {} samples exactly once, over {}{why}: {} until it was killed, and {after} by {RANKS} ranks after \
             that, in {took:.1} s",
            killed.samples,
            said["transport"].as_str().unwrap_or("nothing"),
            killed.position,
        ));
        Ok(())
    }

    fn read_until_killed(&self) -> anyhow::Result<Killed> {
        let state = self.file("state.json");
        let arguments =
            ["read", COLLECTION, "--state", &state, "--seen", &self.file("seen"), "--step-us", STEP_US, "--batch"];
        let mut job =
            Daemon::start("the training job", self.command(&arguments).arg(BATCH), &self.work.join("job.log"))?;
        let began = Instant::now();
        loop {
            // A state is there once the first batch was learnt from.
            let found = fs::read(&state).ok().map(|text| serde_json::from_slice::<Value>(&text)).transpose()?;
            let number = |key: &str| found.as_ref().and_then(|found| found[key].as_u64()).unwrap_or_default() as usize;
            if number("position") > 0 && number("position") >= number("samples") / 2 {
                break;
            }
            job.check_alive()?;
            if began.elapsed() > HALF_WITHIN {
                bail!("the job is not half-way after {} s", HALF_WITHIN.as_secs());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        job.kill()?;
        let found: Value = serde_json::from_slice(&fs::read(&state)?)?;
        let number = |key: &str| found[key].as_u64().map(|number| number as usize).context("the state is whole");
        let killed = Killed { position: number("position")?, samples: number("samples")?, seen: self.seen("seen")? };
        if killed.samples >= SAMPLES_MIN && killed.position >= killed.samples {
            bail!("the job had read all {} samples before it could be killed", killed.samples);
        }
        if killed.seen.len() < killed.position {
            bail!("the state counts {} samples, and {} came", killed.position, killed.seen.len());
        }
        Ok(killed)
    }

    /// The numbers of samples in a file that the job wrote; a line that it was killed in is left out.
    fn seen(&self, name: &str) -> anyhow::Result<Vec<usize>> {
        let text = fs::read_to_string(self.work.join(name))?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| line.parse().with_context(|| format!("`{line}` is no sample"))).collect()
    }

    /// Trains a classifier, which is tested with samples that it never saw.
    pub(super) fn train(&self, table: &mut Table) -> anyhow::Result<()> {
        println!("It learns to tell the images apart, in {EPOCHS} epochs");
        let start = Instant::now();
        let said = output(&mut self.command(&["train", COLLECTION, "--epochs", EPOCHS]))?;
        let said: Value = serde_json::from_str(&said).context("the job says how well it does")?;
        let accuracy = said["accuracy"].as_f64().context("the job says how well it does")?;
        if accuracy < ACCURACY_MIN {
            bail!("the classifier tells only {:.1} % right: the samples are not what they should be", accuracy * 100.0);
        }
        table.note(format!(
            "a small classifier, trained on them for {EPOCHS} epochs in {:.1} s: {:.1} % of {} samples that it never saw are told right",
            start.elapsed().as_secs_f64(),
            accuracy * 100.0,
            said["tested"],
        ));
        Ok(())
    }
}
