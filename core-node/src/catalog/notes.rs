//! Small values that a core keeps for itself under a name.

use super::CatalogError;

/// Notes.
pub trait NoteTable {
    /// The value under a key.
    fn note(&self, key: &str) -> Result<Option<Vec<u8>>, CatalogError>;
    /// Sets it.
    fn set_note(&self, key: &str, value: &[u8]) -> Result<(), CatalogError>;
}
