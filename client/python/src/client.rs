//! A connection to one core.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_client::Options;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::dataset::Dataset;
use crate::errors::{raised, senseless};
use crate::process::Connected;

/// What a connection is made with, as the package names and describes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct ClientArguments {
    core: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    verify: bool,
    buffer_bytes: Option<usize>,
    reconnect_seconds: Option<f64>,
    job: Option<String>,
}

impl ClientArguments {
    fn options(self, py: Python<'_>) -> PyResult<Options> {
        let core = self.core.as_deref();
        let options = match &self.token {
            Some(token) => Options::of_token(token, core),
            None => Options::from_arguments(core, self.token_file.as_deref()),
        };
        let mut options = options.map_err(|error| raised(py, &error))?;
        options.verify = self.verify;
        options.buffer_bytes = self.buffer_bytes.unwrap_or(options.buffer_bytes);
        options.job = self.job.unwrap_or(options.job);
        if let Some(seconds) = self.reconnect_seconds {
            options.reconnect_for = Duration::try_from_secs_f64(seconds).map_err(senseless)?;
        }
        Ok(options)
    }
}

/// A connection to one core. After a fork the child makes its own when it first needs one.
#[pyclass(frozen, module = "headwater")]
pub(crate) struct Client {
    options: Options,
    /// Locked only while the interpreter's lock is held too, and never across a wait: so a fork finds it free.
    connected: Mutex<Option<Arc<Connected>>>,
}

impl Client {
    /// The connection of this process.
    pub(crate) fn here(&self, py: Python<'_>) -> PyResult<Arc<Connected>> {
        let found = self.connected.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(found) = found {
            if found.is_here() {
                return Ok(found);
            }
            std::mem::forget(found);
        }
        let made = Connected::new(py, self.options.clone())?;
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        match &*connected {
            // Another thread was faster.
            Some(other) if other.is_here() => Ok(other.clone()),
            _ => {
                std::mem::forget(connected.replace(made.clone()));
                Ok(made)
            }
        }
    }
}

#[pymethods]
impl Client {
    #[new]
    fn new(py: Python<'_>, arguments: ClientArguments) -> PyResult<Self> {
        let options = arguments.options(py)?;
        let connected = Connected::new(py, options.clone())?;
        Ok(Self { options, connected: Mutex::new(Some(connected)) })
    }

    /// The id of the job that this process is of.
    #[getter]
    fn job(&self) -> &str {
        &self.options.job
    }

    /// Opens a version or a collection.
    fn dataset(slf: Py<Self>, py: Python<'_>, name: &str) -> PyResult<Dataset> {
        Dataset::open(py, slf, name)
    }

    /// What the datasets are that this token reads: (name, newest version, files, bytes) of each.
    fn datasets(&self, py: Python<'_>) -> PyResult<Vec<(String, u64, u64, u64)>> {
        let here = self.here(py)?;
        let client = here.client();
        let found = here.wait(py, async move { client.datasets().await })?.map_err(|error| raised(py, &error))?;
        Ok(found.into_iter().map(|dataset| (dataset.name, dataset.number, dataset.files, dataset.bytes)).collect())
    }

    /// The files of a version at or below a path: (path, kind, bytes, modification time in ns) of each.
    fn files(&self, py: Python<'_>, version: String, under: String) -> PyResult<Vec<(String, String, u64, i64)>> {
        let here = self.here(py)?;
        let client = here.client();
        let found = here.wait(py, async move { client.files(&version, &under).await })?;
        let found = found.map_err(|error| raised(py, &error))?;
        Ok(found.into_iter().map(|file| (file.path, file.kind, file.bytes, file.mtime_ns)).collect())
    }

    /// What it has done in this process.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let here = self.here(py)?;
        let client = here.client();
        let stats = here.wait(py, async move { client.stats().await })?;
        let found = PyDict::new(py);
        found.set_item("samples", stats.samples)?;
        found.set_item("bytes", stats.bytes)?;
        found.set_item("mismatches", stats.mismatches)?;
        found.set_item("connections", stats.connections)?;
        found.set_item("wait_seconds", here.waited().as_secs_f64())?;
        found.set_item("transport", stats.transport)?;
        found.set_item("transport_reason", stats.transport_reason)?;
        Ok(found)
    }

    /// Ends the connection; the next read makes it anew.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let found = self.connected.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match found {
            Some(found) if found.is_here() => {
                let client = found.client();
                found.wait(py, async move { client.close().await })
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let connected = self.connected.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(connected) = connected {
            // The last one that holds it says goodbye to the core, which takes a moment.
            if connected.is_here() { drop(connected) } else { std::mem::forget(connected) }
        }
    }
}
