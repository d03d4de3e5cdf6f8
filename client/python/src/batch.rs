//! What was read, as memory that Python looks into.
#![allow(unsafe_code, reason = "the buffer protocol hands out addresses")]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

use headwater_client as client;
use headwater_client::CodedError;
use pyo3::exceptions::{PyBufferError, PyIndexError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::raised;
use crate::process::Connected;

/// Samples that were read at once. It exports the receive buffer, which is used again when neither it nor any array over it
/// lives.
#[pyclass(frozen, module = "headwater")]
pub(crate) struct Batch {
    connected: Arc<Connected>,
    /// Owns the memory, and is not looked at through: Python may write there.
    owner: Option<client::Batch>,
    address: usize,
    bytes: usize,
    numbers: Vec<u64>,
    /// Names of fields in the order in which they first appear.
    names: Vec<String>,
    files: Vec<File>,
    /// Files up to the end of each sample.
    ends: Vec<usize>,
    errors: BTreeMap<usize, CodedError>,
    position: u64,
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
        let mut laid = Self {
            connected,
            owner: None,
            address: 0,
            bytes: 0,
            numbers: batch.numbers().to_vec(),
            names: Vec::new(),
            files: Vec::new(),
            ends: Vec::with_capacity(batch.len()),
            errors: BTreeMap::new(),
            position,
        };
        for index in 0..batch.len() {
            match batch.sample(index) {
                Ok(sample) => laid.lay(&batch, &sample),
                Err(error) => {
                    laid.errors.insert(index, error);
                }
            }
            laid.ends.push(laid.files.len());
        }
        let mut owner = batch;
        let memory = owner.buffer_mut();
        laid.bytes = memory.len();
        laid.address = memory.as_mut_ptr().expose_provenance();
        laid.owner = Some(owner);
        Ok(laid)
    }

    fn lay(&mut self, batch: &client::Batch, sample: &client::Sample<'_>) {
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

    fn sample_files(&self, index: usize) -> &[File] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.files[start..self.ends[index]]
    }

    /// Where the file of this name lies in each sample; nothing if it has none.
    fn column(&self, name: usize) -> Vec<Option<File>> {
        let of = |index| self.sample_files(index).iter().find(|file| file.name == name).copied();
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
        self.ends.len()
    }

    /// Where in the epoch any world size goes on once this batch was received.
    #[getter]
    fn position(&self) -> u64 {
        self.position
    }

    /// The names of fields that any of its samples has.
    #[getter]
    fn names(&self) -> Vec<String> {
        self.names.clone()
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
        if index >= self.ends.len() {
            return Err(PyIndexError::new_err(format!("there is no sample {index} in a batch of {}", self.ends.len())));
        }
        Ok(self.sample_files(index).iter().map(|file| (&*self.names[file.name], file.start, file.length)).collect())
    }

    /// (start, stride, bytes) if that says where the file of this name is in every sample.
    fn stacked(&self, name: &str) -> Option<(usize, isize, usize)> {
        let name = self.names.iter().position(|known| known == name)?;
        even(&self.column(name))
    }

    /// Where the file of this name begins in each sample and how long it is, as little-endian 64-bit integers; -1 and 0 where a
    /// sample has none.
    fn places<'py>(&self, py: Python<'py>, name: &str) -> (Bound<'py, PyBytes>, Bound<'py, PyBytes>) {
        let column = match self.names.iter().position(|known| known == name) {
            Some(name) => self.column(name),
            None => vec![None; self.ends.len()],
        };
        let packed = |of: fn(&File) -> i64, none: i64| {
            let numbers = column.iter().flat_map(|file| file.as_ref().map_or(none, of).to_le_bytes());
            PyBytes::new(py, &numbers.collect::<Vec<_>>())
        };
        (packed(|file| file.start as i64, -1), packed(|file| file.length as i64, 0))
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let (address, bytes) = (slf.get().address, slf.get().bytes);
        let bytes = isize::try_from(bytes).map_err(|_| PyBufferError::new_err("the buffer is too large"))?;
        let memory = std::ptr::with_exposed_provenance_mut::<c_void>(address);
        // SAFETY: `view` is what the interpreter wants filled. The memory lives as long as this object, to which the view gets a
        // reference of its own, and nothing else looks at it: the batch that owns it is only kept to be dropped.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), memory, bytes, 0, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.connected.drop_here(self.owner.take());
    }
}
