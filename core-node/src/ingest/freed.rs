//! What devices have freed: bytes of which the core may hold the only copy from then on.

use headwater_protocol::id::VersionId;
use headwater_protocol::trust::Principal as Peer;

use crate::catalog::{CatalogError, Principal};
use crate::core::Core;

/// Notes that `peer` freed bytes of files, all of which `version` has; durable when this returns. Says whether there is such a
/// version of a dataset that it writes. What it said of versions from `since` on is done with. Blocks.
pub(crate) fn note_freed(
    core: &Core,
    peer: &Peer,
    dataset: &str,
    version: &VersionId,
    since: u64,
) -> Result<bool, CatalogError> {
    let Some(dataset) = core.catalog.dataset(dataset)? else { return Ok(false) };
    if dataset.writer != Principal::Device(peer.key) {
        return Ok(false);
    }
    let Some(record) = core.catalog.version_by_id(dataset.id, version)? else { return Ok(false) };
    core.catalog.note_freed(&peer.key, dataset.id, record.summary.number, since)?;
    Ok(true)
}
