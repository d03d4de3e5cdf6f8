//! A version of a dataset, seen as a model.

use std::sync::Arc;

use headwater_aggregate::{ReadLayoutError, read_layout};
use headwater_protocol::id::VersionId;
use headwater_protocol::tensors::Layout;

use super::lineage::{Lineage, LineageError, MODEL_FILE, lineage_of};
use super::staging::{StageError, held};
use super::{StoredFile, StoredFileError};
use crate::core::Core;

/// What a model is.
pub(crate) struct KnownModel {
    /// Its tensors.
    pub(crate) layout: Layout,
    /// Where it comes from, if a round has made it.
    pub(crate) lineage: Option<Lineage>,
}

/// Why a model can't be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    /// Its version can't be read.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// Its file is none.
    #[error(transparent)]
    Layout(#[from] ReadLayoutError),
    /// Its lineage is none.
    #[error(transparent)]
    Lineage(#[from] LineageError),
}

/// Looks at a version; none if it has no model. Blocks.
pub(crate) fn look_at_model(
    core: &Arc<Core>,
    dataset: &str,
    version: &VersionId,
) -> Result<Option<KnownModel>, LookError> {
    let (_lease, manifest) = held(core, dataset, version)?;
    let file = match StoredFile::open(core, &manifest, MODEL_FILE) {
        Err(StoredFileError::Missing(_)) => return Ok(None),
        file => file.map_err(StageError::from)?,
    };
    let layout = read_layout(&file)?;
    Ok(Some(KnownModel { layout, lineage: lineage_of(core, dataset, version)? }))
}
