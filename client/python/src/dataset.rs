//! A dataset that was opened.

use std::sync::{Arc, Mutex, PoisonError};

use headwater_client as client;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::batch::Batch;
use crate::client::Client;
use crate::epoch::{Epoch, EpochArguments};
use crate::errors::raised;
use crate::process::Connected;

/// A version or a collection, resolved once.
#[pyclass(frozen, module = "headwater")]
pub(crate) struct Dataset {
    client: Py<Client>,
    label: String,
    number: u64,
    samples: u64,
    id: Vec<u8>,
    open: Mutex<Option<Open>>,
}

/// A dataset as it is open in one process.
struct Open {
    connected: Arc<Connected>,
    dataset: Option<client::Dataset>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connected.drop_here(self.dataset.take());
    }
}

impl Dataset {
    pub(crate) fn open(py: Python<'_>, client: Py<Client>, name: &str) -> PyResult<Self> {
        let connected = client.get().here(py)?;
        let dataset = open(py, &connected, name)?;
        let opened = Self {
            client,
            label: dataset.label().to_owned(),
            number: dataset.number(),
            samples: dataset.len(),
            id: dataset.id().to_vec(),
            open: Mutex::new(Some(Open { connected, dataset: Some(dataset) })),
        };
        Ok(opened)
    }

    /// The connection of this process, and the dataset on it.
    pub(crate) fn here(&self, py: Python<'_>) -> PyResult<(Arc<Connected>, client::Dataset)> {
        {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(Open { connected, dataset: Some(dataset) }) = &*open
                && connected.is_here()
            {
                return Ok((connected.clone(), dataset.clone()));
            }
        }
        let connected = self.client.get().here(py)?;
        let dataset = open(py, &connected, &self.label)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *open = Some(Open { connected: connected.clone(), dataset: Some(dataset.clone()) });
        Ok((connected, dataset))
    }
}

fn open(py: Python<'_>, connected: &Arc<Connected>, name: &str) -> PyResult<client::Dataset> {
    let client = connected.client();
    let name = name.to_owned();
    connected.wait(py, async move { client.dataset(&name).await })?.map_err(|error| raised(py, &error))
}

#[pymethods]
impl Dataset {
    fn __len__(&self) -> usize {
        usize::try_from(self.samples).unwrap_or(usize::MAX)
    }

    /// Its name with the number that was resolved.
    #[getter]
    fn label(&self) -> &str {
        &self.label
    }

    /// The number of the version.
    #[getter]
    fn number(&self) -> u64 {
        self.number
    }

    /// The id of the version: what the order of samples follows from.
    #[getter]
    fn id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.id)
    }

    /// Reads samples by their numbers.
    fn read(&self, py: Python<'_>, numbers: Vec<u64>) -> PyResult<Batch> {
        let (connected, dataset) = self.here(py)?;
        let batch = connected.wait(py, async move { dataset.read(&numbers).await })?;
        Batch::new(py, connected, batch.map_err(|error| raised(py, &error))?, 0)
    }

    /// The samples that have a file which one of the patterns matches, and these labels: (first, one after the last) of each run.
    fn select(
        &self,
        py: Python<'_>,
        patterns: Vec<String>,
        labels: Vec<(String, Vec<String>)>,
    ) -> PyResult<Vec<(u64, u64)>> {
        let (connected, dataset) = self.here(py)?;
        let found = connected.wait(py, async move { dataset.select(&client::Filter { patterns, labels }).await })?;
        Ok(found.map_err(|error| raised(py, &error))?.into_iter().map(|run| (run.start, run.end)).collect())
    }

    /// Reads a range of a file.
    #[pyo3(signature = (path, offset, length, member=0))]
    fn read_range(&self, py: Python<'_>, path: Vec<u8>, offset: u64, length: u64, member: u32) -> PyResult<Batch> {
        let (connected, dataset) = self.here(py)?;
        let batch =
            connected.wait(py, async move { dataset.read_member_range(member, &path, offset, length).await })?;
        Batch::new(py, connected, batch.map_err(|error| raised(py, &error))?, 0)
    }

    /// Reads what one rank, or one worker of it, reads of an epoch.
    fn epoch(&self, py: Python<'_>, arguments: EpochArguments) -> PyResult<Epoch> {
        let (connected, dataset) = self.here(py)?;
        Epoch::new(connected, dataset, &arguments)
    }
}
