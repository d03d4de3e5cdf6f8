//! A receive buffer as memory of Python's, by the buffer protocol.
#![allow(unsafe_code, reason = "the buffer protocol hands out addresses")]

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use headwater_client::Batch;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::process::Connected;

/// A receive buffer. It is used again when neither this nor any array over it lives.
#[pyclass(frozen, module = "headwater")]
pub(crate) struct Buffer {
    connected: Arc<Connected>,
    /// Owns the memory, and is only kept to be dropped: Python may write there.
    owner: Option<Batch>,
    address: usize,
    bytes: usize,
}

impl Buffer {
    /// The buffer of `batch`, which is not asked for anything from now on.
    pub(crate) fn new(connected: Arc<Connected>, mut batch: Batch) -> Self {
        let memory = batch.buffer_mut();
        let (address, bytes) = (memory.as_mut_ptr().expose_provenance(), memory.len());
        Self { connected, owner: Some(batch), address, bytes }
    }
}

#[pymethods]
impl Buffer {
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

impl Drop for Buffer {
    fn drop(&mut self) {
        self.connected.drop_here(self.owner.take());
    }
}
