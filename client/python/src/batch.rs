//! What was read: where in the receive buffer each file of each sample lies.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_client as client;
use headwater_client::CodedError;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::Buffer;
use crate::errors::raised;
use crate::process::Connected;

/// Samples that were read at once.
#[pyclass(frozen, module = "headwater")]
pub(crate) struct Batch {
    buffer: Py<Buffer>,
    numbers: Vec<u64>,
    places: Places,
    errors: BTreeMap<usize, CodedError>,
    position: u64,
}

/// Where files lie.
#[derive(Default)]
struct Places {
    /// Names of fields in the order in which they first appear.
    names: Vec<String>,
    files: Vec<File>,
    /// Files up to the end of each sample.
    ends: Vec<usize>,
}

/// A file in the buffer.
#[derive(Clone, Copy)]
struct File {
    name: usize,
    start: usize,
    length: usize,
}

impl Batch {
    pub(crate) fn new(
        py: Python<'_>,
        connected: Arc<Connected>,
        batch: client::Batch,
        position: u64,
    ) -> PyResult<Self> {
        py.check_signals()?;
        let (mut places, mut errors) = (Places::default(), BTreeMap::new());
        for index in 0..batch.len() {
            match batch.sample(index) {
                Ok(sample) => places.add(&batch, &sample),
                Err(error) => {
                    errors.insert(index, error);
                }
            }
            places.ends.push(places.files.len());
        }
        let numbers = batch.numbers().to_vec();
        let buffer = Py::new(py, Buffer::new(connected, batch))?;
        Ok(Self { buffer, numbers, places, errors, position })
    }
}

impl Places {
    fn add(&mut self, batch: &client::Batch, sample: &client::Sample<'_>) {
        let base = batch.buffer().as_ptr().addr();
        for (place, field) in sample.fields().enumerate() {
            let name = self.name(place, field.name);
            self.files.push(File { name, start: field.bytes.as_ptr().addr() - base, length: field.bytes.len() });
        }
    }

    /// The number of a name. Nearly always all samples have the same fields in the same order.
    fn name(&mut self, place: usize, name: &[u8]) -> usize {
        if self.names.get(place).is_some_and(|known| known.as_bytes() == name) {
            return place;
        }
        let name = String::from_utf8_lossy(name);
        self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.names.push(name.into_owned());
            self.names.len() - 1
        })
    }

    fn of_sample(&self, index: usize) -> &[File] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.files[start..self.ends[index]]
    }

    /// Where the file of this name lies in each sample; nothing if it has none.
    fn column(&self, name: &str) -> Vec<Option<File>> {
        let Some(name) = self.names.iter().position(|known| known == name) else { return vec![None; self.ends.len()] };
        let of = |index| self.of_sample(index).iter().find(|file| file.name == name).copied();
        (0..self.ends.len()).map(of).collect()
    }
}

/// The start of the first, and the distance between each two, where all files are of one length and evenly apart.
fn even(column: &[Option<File>]) -> Option<(usize, isize, usize)> {
    let first = (*column.first()?)?;
    let stride = match column.get(1) {
        Some(second) => (*second)?.start as isize - first.start as isize,
        None => first.length as isize,
    };
    let fits = |(index, file): (usize, &Option<File>)| {
        file.is_some_and(|file| {
            file.length == first.length && file.start as isize == first.start as isize + stride * index as isize
        })
    };
    column.iter().enumerate().all(fits).then_some((first.start, stride, first.length))
}

#[pymethods]
impl Batch {
    fn __len__(&self) -> usize {
        self.places.ends.len()
    }

    /// The memory in which the samples lie.
    #[getter]
    fn buffer(&self, py: Python<'_>) -> Py<Buffer> {
        self.buffer.clone_ref(py)
    }

    /// Where in the epoch any world size goes on once this batch was received.
    #[getter]
    fn position(&self) -> u64 {
        self.position
    }

    /// The names of fields that any of its samples has.
    #[getter]
    fn names(&self) -> Vec<String> {
        self.places.names.clone()
    }

    /// The numbers of its samples, as little-endian 64-bit integers.
    #[getter]
    fn numbers<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>())
    }

    /// Those of its samples that can't be read.
    #[getter]
    fn unreadable(&self) -> Vec<usize> {
        self.errors.keys().copied().collect()
    }

    /// The files of a sample: (name, start in the buffer, bytes) of each. Raises if it can't be read.
    fn sample(&self, py: Python<'_>, index: usize) -> PyResult<Vec<(&str, usize, usize)>> {
        if let Some(error) = self.errors.get(&index) {
            return Err(raised(py, error));
        }
        if index >= self.places.ends.len() {
            return Err(PyIndexError::new_err(format!(
                "there is no sample {index} in a batch of {}",
                self.places.ends.len()
            )));
        }
        Ok(self
            .places
            .of_sample(index)
            .iter()
            .map(|file| (&*self.places.names[file.name], file.start, file.length))
            .collect())
    }

    /// (start, stride, bytes) if that says where the file of this name is in every sample.
    fn stacked(&self, name: &str) -> Option<(usize, isize, usize)> {
        even(&self.places.column(name))
    }

    /// Where the file of this name begins in each sample and how long it is, as little-endian 64-bit integers; -1 and 0 where a
    /// sample has none.
    fn places<'py>(&self, py: Python<'py>, name: &str) -> (Bound<'py, PyBytes>, Bound<'py, PyBytes>) {
        let column = self.places.column(name);
        let packed = |of: fn(&File) -> i64, none: i64| {
            let numbers = column.iter().flat_map(|file| file.as_ref().map_or(none, of).to_le_bytes());
            PyBytes::new(py, &numbers.collect::<Vec<_>>())
        };
        (packed(|file| file.start as i64, -1), packed(|file| file.length as i64, 0))
    }
}
