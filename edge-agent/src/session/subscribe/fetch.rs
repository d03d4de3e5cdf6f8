//! Fetching the newest version of a dataset and putting it into its folder.

use std::path::Path;
use std::sync::Arc;

use headwater_host::error::{CodedError, codes};
use headwater_host::materialise::{
    MaterialiseError, MaterialiseOptions, Version, current_version, is_complete, materialise,
};
use headwater_host::scan::Cancel;
use headwater_protocol::wire::Following;
use headwater_quic::transfer::ReceiveReport;

use super::destination::SubscribeDestination;
use super::wanted::Wanted;
use crate::agent::Agent;
use crate::blocking::blocking;
use crate::catalog::{Catalog, DatasetPages, DatasetRow, EventLevel, Role, VersionRow};
use crate::session::collect::Collector;
use crate::session::link::Link;
use crate::session::transfer_error;

/// Brings the folder of one subscribed dataset to the version that the core says is newest.
pub async fn fetch(agent: &Arc<Agent>, wanted: &Wanted, link: &Link, collector: &Collector) -> Result<(), CodedError> {
    let folder = wanted.folder.clone()?;
    let newest = &wanted.newest;
    let _mine = agent.have(&newest.dataset, &folder).await;
    let catalog = agent.catalog();
    let before = {
        let (catalog, newest) = (Arc::clone(&catalog), newest.clone());
        blocking(move || Before::look(&catalog, &newest, &folder)).await?
    };
    if before.is_done {
        collector.unchanged();
        return Ok(());
    }
    let work = Work { agent, catalog, row: before.row, keep: wanted.keep, link, collector };
    if let Some(forgotten) = &before.forgotten
        && let Err(error) = work.bring(forgotten, false).await
    {
        tracing::debug!(%error, "the version that the folder holds can't be had any more");
    }
    let (version, received) = work.bring(newest, before.is_damaged).await?;
    agent.note(EventLevel::Info, "", &newest.dataset, format!("version {} is here", newest.number));
    collector.received(&newest.dataset, &version, &received);
    Ok(())
}

/// How the folder and the catalog stand before a fetch.
struct Before {
    row: DatasetRow,
    /// The newest version is here, and nothing in it is known to be damaged.
    is_done: bool,
    /// It is here in part: files proved damaged, or are gone.
    is_damaged: bool,
    /// What the folder holds though the catalog, which was lost, doesn't know it. With its pages known again nothing that
    /// the newest version shares with it travels.
    forgotten: Option<Following>,
}

impl Before {
    fn look(catalog: &Catalog, newest: &Following, folder: &Path) -> Result<Self, CodedError> {
        let row = catalog.dataset(&newest.dataset, Role::Subscribe, folder)?;
        let committed = catalog.committed(row.id)?;
        let in_force = current_version(folder);
        let is_known = committed.as_ref().is_some_and(|committed| committed.version == newest.version);
        let is_whole = in_force.as_ref().is_some_and(|(number, id, _)| {
            *id == newest.version && *number == newest.number && is_complete(folder, *number, *id)
        });
        let forgotten = in_force
            .filter(|(_, id, _)| committed.is_none() && *id != newest.version)
            .map(|(number, version, _)| Following { dataset: newest.dataset.clone(), number, version });
        Ok(Self { row, is_done: is_known && is_whole, is_damaged: is_known && !is_whole, forgotten })
    }
}

/// The fetch of one dataset.
struct Work<'a> {
    agent: &'a Arc<Agent>,
    catalog: Arc<Catalog>,
    row: DatasetRow,
    keep: u32,
    link: &'a Link,
    collector: &'a Collector,
}

impl Work<'_> {
    /// Fetches a version and puts it in force. With `distrust` no file is believed to hold anything before it was read; that
    /// is also what a second attempt does.
    async fn bring(&self, wanted: &Following, distrust: bool) -> Result<(VersionRow, ReceiveReport), CodedError> {
        let mut received = ReceiveReport::default();
        let mut distrust = distrust;
        loop {
            let destination = destination(self.agent, &self.catalog, &self.row, wanted, distrust).await?;
            let progress = self.collector.transfer_progress(&wanted.dataset, false);
            let report = self
                .link
                .handle()
                .fetch_version(&wanted.dataset, wanted.version, Arc::new(destination.clone()), progress)
                .await
                .map_err(|error| transfer_error(&self.catalog, error))?;
            received = add(&received, report);
            match write_out(&self.catalog, &self.row, wanted, self.keep, destination).await? {
                Ok(version) => return Ok((version, received)),
                // A file that was said to hold a chunk does so no longer. Once more, reading before believing.
                Err(error) if !distrust => tracing::debug!(%error, "a chunk that should be here is gone"),
                Err(error) => return Err(error.into()),
            }
            distrust = true;
        }
    }
}

async fn destination(
    agent: &Arc<Agent>,
    catalog: &Arc<Catalog>,
    row: &DatasetRow,
    newest: &Following,
    distrust: bool,
) -> Result<SubscribeDestination, CodedError> {
    let authority = agent.joined()?.identity.authority().clone();
    let (agent, catalog, row, wanted) = (Arc::clone(agent), Arc::clone(catalog), row.clone(), newest.clone());
    blocking(move || {
        SubscribeDestination::new(agent, catalog, row, wanted, authority, distrust).map_err(|error| staging(&error))
    })
    .await
}

/// Writes the version's files, swaps `current`, and notes it. The inner error is one that another fetch may mend.
async fn write_out(
    catalog: &Arc<Catalog>,
    row: &DatasetRow,
    newest: &Following,
    keep: u32,
    destination: SubscribeDestination,
) -> Result<Result<VersionRow, MaterialiseError>, CodedError> {
    let (catalog, row, newest) = (Arc::clone(catalog), row.clone(), newest.clone());
    blocking(move || {
        let incoming = catalog.version(row.id, &newest.version)?.ok_or_else(|| {
            CodedError::new(&codes::CATALOG_DAMAGED, "a version that has just come is not in the catalog")
        })?;
        let manifest = incoming.decode_manifest()?;
        let before = catalog.committed(row.id)?;
        let before_manifest = before.as_ref().map(VersionRow::decode_manifest).transpose()?;
        let pages = DatasetPages::new(Arc::clone(&catalog), row.id);
        let version = Version { number: newest.number, id: newest.version, manifest: &manifest, pages: &pages };
        let previous = match (&before, &before_manifest) {
            (Some(before), Some(manifest)) => {
                Some(Version { number: before.number, id: before.version, manifest, pages: &pages })
            }
            _ => None,
        };
        let options = MaterialiseOptions { keep: keep as usize, cancel: Cancel::default() };
        let mut provider = destination.provider();
        match materialise(&row.folder, version, previous, &mut provider, &options, &mut |_| {}) {
            Ok(report) => {
                for note in &report.notes {
                    tracing::warn!(dataset = row.name, "{note}");
                }
                destination.index(&manifest)?;
                catalog.commit_version(row.id, &incoming, 1)?;
                destination.clear_staging().map_err(|error| staging(&error))?;
                catalog.prune_pages(row.id)?;
                Ok(Ok(incoming))
            }
            Err(error @ (MaterialiseError::Chunk(_) | MaterialiseError::Mismatch { .. })) => Ok(Err(error)),
            Err(error) => Err(error.into()),
        }
    })
    .await
}

fn add(left: &ReceiveReport, right: ReceiveReport) -> ReceiveReport {
    let mut sum = right;
    sum.wire.pages += left.wire.pages;
    sum.wire.chunks += left.wire.chunks;
    sum.wire.overhead += left.wire.overhead;
    sum.wire.wasted += left.wire.wasted;
    sum.pages += left.pages;
    sum.chunks += left.chunks;
    sum.plain_bytes += left.plain_bytes;
    sum
}

fn staging(error: &crate::storage::staging::StagingError) -> CodedError {
    let code = if error.is_full() { &codes::DISK_FULL } else { &codes::WRITE_FAILED };
    CodedError::new(code, error.to_string())
}
