//! The native half of the Python package `headwater`: connections, reads and receive buffers. What users see of it is written in
//! Python, in `python/headwater`.
//!
//! No method holds the interpreter's lock while it waits, and each looks for signals while it does. What was made before a fork is
//! not used after it: threads don't survive one, so the child connects anew.

#![allow(clippy::needless_pass_by_value, reason = "what comes from Python comes by value")]

mod batch;
mod buffer;
mod client;
mod dataset;
mod epoch;
mod errors;
mod process;

use pyo3::prelude::*;

/// The module; the one that needs libibverbs has a name of its own, so that a package can hold both.
#[pymodule]
#[cfg_attr(feature = "rdma", pyo3(name = "_native_rdma"))]
#[cfg_attr(not(feature = "rdma"), pyo3(name = "_native"))]
mod native {
    #[pymodule_export]
    use super::batch::Batch;
    #[pymodule_export]
    use super::buffer::Buffer;
    #[pymodule_export]
    use super::client::Client;
    #[pymodule_export]
    use super::dataset::Dataset;
    #[pymodule_export]
    use super::epoch::Epoch;
    #[pymodule_export]
    use super::process::{command, log};
}
