//! Errors, as exceptions of the package: `headwater.Error` and its kinds, by code.

use headwater_client::CodedError;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The exception for an error: a class of the package, chosen there by the code.
pub(crate) fn raised(py: Python<'_>, error: &CodedError) -> PyErr {
    let mut message = error.message.clone();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    let made = py
        .import("headwater._errors")
        .and_then(|module| module.getattr("of"))
        .and_then(|of| of.call1((&*error.code, message, &error.hint)));
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(failed) => failed,
    }
}

/// What makes no sense in itself, as a rank past the last one.
pub(crate) fn senseless(error: impl std::error::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}
