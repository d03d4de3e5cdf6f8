//! Where the files of a run's tasks are on this device, below the agent's data folder.
//!
//! ```text
//! training/RUN/standing.json         the task and where it stands
//! training/RUN/model/current/        the model, as a version that was fetched
//! training/RUN/program/current/      the run's program, if it has one
//! training/RUN/task/                 what the program is given, and leaves
//! training/RUN/state/                what it keeps from task to task
//! training/RUN/update/               the update: a published folder of its own
//! training/RUN/residual.safetensors  what the last update's encoding lost
//! training/RUN/log.txt               what the program said
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use headwater_host::durable;
use headwater_protocol::federated::participant::Stage;
use headwater_protocol::federated::{Task, UPDATE_FILE};
use serde::{Deserialize, Serialize};

/// The folder of all runs.
const FOLDER: &str = "training";
/// The model's file in its version.
pub(super) const MODEL_FILE: &str = "model.safetensors";
/// Runs without a task whose folders stay, for the sake of their state.
const IDLE_RUNS_MAX: usize = 32;

/// The files of one run.
#[derive(Clone, Debug)]
pub(super) struct Place(PathBuf);

/// A task, as it is kept over restarts.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Standing {
    /// The task.
    pub(super) task: Task,
    /// Where it stood.
    pub(super) stage: Stage,
}

impl Place {
    pub(super) fn new(data: &Path, run: &str) -> Self {
        Self(data.join(FOLDER).join(run))
    }

    pub(super) fn model(&self) -> PathBuf {
        self.0.join("model")
    }

    pub(super) fn model_file(&self) -> PathBuf {
        self.model().join("current").join(MODEL_FILE)
    }

    pub(super) fn program(&self) -> PathBuf {
        self.0.join("program")
    }

    pub(super) fn task(&self) -> PathBuf {
        self.0.join("task")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    pub(super) fn update(&self) -> PathBuf {
        self.0.join("update")
    }

    pub(super) fn update_file(&self) -> PathBuf {
        self.update().join(UPDATE_FILE)
    }

    pub(super) fn residual(&self) -> PathBuf {
        self.0.join("residual.safetensors")
    }

    /// The residual that belongs to an update which is not in place yet.
    pub(super) fn next_residual(&self) -> PathBuf {
        self.0.join("residual.next")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.join("log.txt")
    }

    fn standing(&self) -> PathBuf {
        self.0.join("standing.json")
    }

    /// Makes the run's folder.
    pub(super) fn create(&self) -> io::Result<()> {
        durable::create_folder(&self.0, durable::PRIVATE_FOLDER_MODE)
    }

    /// Keeps a task, durably.
    pub(super) fn keep(&self, task: &Task, stage: &Stage) -> io::Result<()> {
        self.create()?;
        let standing = Standing { task: task.clone(), stage: stage.clone() };
        let bytes = serde_json::to_vec(&standing).map_err(io::Error::other)?;
        durable::write_atomic(&self.standing(), &bytes, durable::PRIVATE_FILE_MODE)
    }

    /// Forgets a task that is done with. What the program keeps stays, and so does the model: the next one will share much.
    pub(super) fn forget(&self) -> io::Result<()> {
        durable::remove_file(&self.standing())?;
        for folder in [self.task(), self.update()] {
            remove_folder(&folder)?;
        }
        Ok(())
    }

    /// The tasks that an earlier process kept. Those that can't be read are left out.
    pub(super) fn kept(data: &Path) -> Vec<Standing> {
        let mut found = Vec::new();
        for run in runs(data) {
            let read = fs::read(run.join("standing.json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            found.extend(read);
        }
        found
    }

    /// Removes the folders of runs that had their last task longest ago, if there are many.
    pub(super) fn tidy(data: &Path) {
        let mut idle: Vec<_> = runs(data)
            .into_iter()
            .filter(|run| !run.join("standing.json").exists())
            .map(|run| (fs::metadata(&run).and_then(|metadata| metadata.modified()).ok(), run))
            .collect();
        idle.sort();
        let surplus = idle.len().saturating_sub(IDLE_RUNS_MAX);
        for (_, run) in idle.into_iter().take(surplus) {
            if let Err(error) = fs::remove_dir_all(&run) {
                tracing::debug!(folder = %run.display(), %error, "what a run left can't be removed");
            }
        }
    }
}

fn runs(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join(FOLDER)).into_iter().flatten().flatten();
    let mut runs: Vec<_> = entries.map(|entry| entry.path()).collect();
    runs.sort();
    runs
}

/// Removes a folder that need not be there.
pub(super) fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
