//! How files are read and written here, wherever they are.

use headwater_protocol::tensors::{Layout, LayoutError};

/// A file's bytes can't be read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ReadError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// A file's bytes can't be written.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct WriteError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// A file that is read in pieces, by several threads at once.
pub trait Source: Sync {
    /// Its length.
    fn bytes(&self) -> u64;

    /// Fills `into` with the bytes from `from` on.
    fn read_at(&self, from: u64, into: &mut [u8]) -> Result<(), ReadError>;
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The new model.
    Model,
    /// What the strategy keeps for the next round.
    State,
}

/// Files that are written in pieces, by several threads at once.
pub trait Sink: Sync {
    /// Writes `bytes` at `at`.
    fn write_at(&self, output: Output, at: u64, bytes: &[u8]) -> Result<(), WriteError>;
}

/// Why a file's header could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadLayoutError {
    /// The file can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is no safetensors file.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// The header of a safetensors file.
pub fn read_layout(file: &dyn Source) -> Result<Layout, ReadLayoutError> {
    Layout::read(file.bytes(), |at, into| Ok(file.read_at(at, into)?))
}
