//! What every version that comes from the core has to pass before the catalog takes it, and its pages on their way there.

use std::sync::Arc;

use headwater_host::error::{CodedError, codes};
use headwater_protocol::commit::CommitRecord;
use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::page::Page;
use headwater_protocol::tree::{Tree, verify_shape};
use headwater_protocol::trust::Certificate;
use headwater_protocol::wire::Following;
use headwater_quic::transfer::IncomingOffer;

use crate::catalog::{Catalog, CatalogError, DatasetPages, DatasetRow, VersionRow, VersionState, refers_to_pages};

/// Checks that this is what was asked for, by the author's and the core's word, and that its tree can be. All its pages are in
/// the catalog. Gives it as one that is not committed here yet.
pub(super) fn checked(
    catalog: &Arc<Catalog>,
    row: &DatasetRow,
    wanted: &Following,
    authority: &Certificate,
    (offer, manifest): (&IncomingOffer, &Manifest),
) -> Result<VersionRow, CodedError> {
    let bad = |reason: String| CodedError::new(&codes::UNSAFE_MANIFEST, reason);
    CommitRecord::decode_committed(&offer.commit, &row.name, wanted.number, wanted.version, authority)
        .map_err(|error| bad(error.to_string()))?;
    let pages = DatasetPages::new(Arc::clone(catalog), row.id);
    let before = catalog.committed(row.id)?;
    let before = before.as_ref().map(VersionRow::decode_manifest).transpose()?;
    let verified = before.as_ref().map(|before| Tree::new(before, &pages));
    verify_shape(Tree::new(manifest, &pages), verified).map_err(|error| bad(error.to_string()))?;
    Ok(VersionRow {
        number: wanted.number,
        version: wanted.version,
        state: VersionState::Offered,
        manifest: offer.manifest.to_vec(),
        record: offer.commit.to_vec(),
        receipt: Vec::new(),
    })
}

/// Keeps pages that have come, and shows each to `seen`.
pub(super) fn keep_pages<'a>(
    catalog: &Catalog,
    row: &DatasetRow,
    pages: impl Iterator<Item = (ChunkId, &'a [u8])>,
    mut seen: impl FnMut(ChunkId, &Page),
) -> Result<(), CatalogError> {
    let mut rows = Vec::new();
    for (id, bytes) in pages {
        let page = Page::decode(bytes).map_err(|error| CatalogError::damaged(error.to_string()))?;
        seen(id, &page);
        rows.push((id, refers_to_pages(&page), bytes.to_vec()));
    }
    catalog.put_pages(row.id, &rows)
}
