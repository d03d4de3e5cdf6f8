//! One round for one folder: scan, build, compare with the core, send; again where files changed meanwhile or more is
//! left of a large first scan.

use std::sync::Arc;
use std::time::Duration;

use headwater_host::error::{CodedError, codes};
use headwater_host::scan::Cancel;

use super::build::{Built, build};
use super::send::{Sent, ask_receipt, send};
use super::standing::{Standing, adopt, standing};
use crate::agent::{Agent, Folder};
use crate::catalog::{DatasetRow, EventLevel, Role, VersionState};
use crate::session::collect::Collector;
use crate::session::{Access, Connected};

/// Rounds in which files may change underneath before the folder is left alone until the next scan.
const UNAVAILABLE_MAX: u32 = 4;
/// Times that the core's newest version is asked for again in one round.
const CONFLICTS_MAX: u32 = 3;
/// Longest wait for files that were modified a moment ago.
const SETTLE_WAIT_MAX: Duration = Duration::from_secs(30);
/// Waits for files to settle in one round.
const SETTLE_WAITS: u32 = 2;

/// How much one round may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounds {
    /// Whether to wait for files that were modified a moment ago: a person asked and wants everything to go.
    pub settle: bool,
}

/// Brings one folder and its dataset up to date. Without access to the core, only the catalog. Returns when the folder
/// should be looked at again because files wait to settle.
pub async fn publish(
    agent: &Arc<Agent>,
    folder: &Folder,
    access: Option<&Access>,
    rounds: Rounds,
    collector: &Collector,
) -> Result<Option<Duration>, CodedError> {
    let _mine = agent.have(folder.dataset.as_str()).await;
    let mut round = Round { agent, folder, collector, settle_waits: if rounds.settle { SETTLE_WAITS } else { 0 } };
    let access = access.filter(|_| folder.role == Role::Publish);
    let mut conflicts = 0;
    let mut unavailable = 0;
    let mut news = false;
    if let Some(access) = access {
        round.ask_first(access).await?;
    }
    loop {
        let built = round.build(unavailable > 0).await?;
        let again = built.report.settled_in;
        let Some(access) = access else {
            let waits = folder.role == Role::Publish && agent.catalog().pending(built.row.id)?.is_some();
            agent.set_unsent(&built.row.name, waits);
            round.finish_local(&built)?;
            return Ok(again);
        };
        let connected = access.connected().await?;
        if !round.level(&connected, &built.row).await? {
            continue;
        }
        let catalog = agent.catalog();
        let pending = catalog.pending(built.row.id)?;
        agent.set_unsent(&built.row.name, pending.is_some());
        let Some(pending) = pending else {
            if !news {
                collector.unchanged();
            }
            return Ok(again);
        };
        let progress = collector.transfer_progress(folder.dataset.as_str(), true);
        match send(agent, &connected.link, &built.row, pending.clone(), progress).await? {
            Sent::Committed(report) => {
                collector.sent(folder.dataset.as_str(), &pending, &report);
                agent.set_unsent(&built.row.name, false);
                connected.set_head(&built.row.name, pending.number, pending.version);
                news = true;
                unavailable = 0;
                if built.report.postponed == 0 {
                    return Ok(again);
                }
            }
            Sent::Unavailable => {
                unavailable += 1;
                if unavailable > UNAVAILABLE_MAX {
                    return Err(CodedError::new(
                        &codes::FILE_CHANGED,
                        "its files keep changing while they are sent; the next scan tries again",
                    ));
                }
            }
            Sent::Conflict => {
                conflicts += 1;
                if conflicts > CONFLICTS_MAX {
                    return Err(CodedError::new(
                        &codes::VERSION_CONFLICT,
                        "the core has another newest version each time",
                    ));
                }
                connected.ask_head(&built.row.name).await?;
            }
        }
    }
}

struct Round<'a> {
    agent: &'a Arc<Agent>,
    folder: &'a Folder,
    collector: &'a Collector,
    settle_waits: u32,
}

impl Round<'_> {
    /// Where the catalog knows no committed version, the core is asked before files are judged: if it knows one, missing
    /// files are in it.
    async fn ask_first(&self, access: &Access) -> Result<(), CodedError> {
        let catalog = self.agent.catalog();
        let row = catalog.dataset(self.folder.dataset.as_str(), self.folder.role, &self.folder.path)?;
        if catalog.committed(row.id)?.is_some() {
            return Ok(());
        }
        // Without the core the build goes on: it is compared when there is one.
        if let Ok(connected) = access.connected().await {
            self.level(&connected, &row).await?;
        }
        Ok(())
    }

    async fn build(&mut self, afresh: bool) -> Result<Built, CodedError> {
        loop {
            let built = self.build_once(afresh).await?;
            match built.report.settled_in {
                Some(wait) if self.settle_waits > 0 && wait <= SETTLE_WAIT_MAX => {
                    self.settle_waits -= 1;
                    tokio::time::sleep(wait).await;
                }
                _ => {
                    self.collector.scanned(&built.report, built.skipped.clone());
                    return Ok(built);
                }
            }
        }
    }

    async fn build_once(&self, afresh: bool) -> Result<Built, CodedError> {
        let _slot = self.agent.scans().acquire_owned().await;
        let cancel = Cancel::default();
        // Dropped with this future: a scan that nobody waits for any more stops.
        let stop = CancelOnDrop(cancel.clone());
        let (agent, folder, collector) = (Arc::clone(self.agent), self.folder.clone(), self.collector.clone());
        let built = tokio::task::spawn_blocking(move || {
            let dataset = folder.dataset.as_str().to_owned();
            let mut progress = |progress: headwater_host::version::Progress| {
                collector.scan_progress(&dataset, progress.paths, progress.bytes_read);
            };
            build(&agent, &folder, afresh, &cancel, &mut progress)
        })
        .await
        .map_err(|error| CodedError::new(&codes::INTERNAL, "a scan failed").with_source(error))?;
        drop(stop);
        built
    }

    fn finish_local(&self, built: &Built) -> Result<(), CodedError> {
        let catalog = self.agent.catalog();
        match (self.folder.role, built.is_new) {
            (Role::Local, true) => {
                if let Some(version) = catalog.committed(built.row.id)? {
                    self.collector.local(self.folder.dataset.as_str(), &version);
                }
            }
            (_, false) => self.collector.unchanged(),
            _ => {}
        }
        Ok(())
    }

    /// Compares with the core. False if the catalog changed so that the folder must be looked at again.
    async fn level(&self, connected: &Connected, row: &DatasetRow) -> Result<bool, CodedError> {
        let catalog = self.agent.catalog();
        let head = connected.head(&row.name);
        match standing(&catalog, row, head.as_ref())? {
            Standing::Level => {
                if let Some(committed) = catalog.committed(row.id)?
                    && committed.receipt.is_empty()
                    && let Err(error) = ask_receipt(self.agent, &connected.link, row, committed).await
                {
                    tracing::debug!(%error, "the receipt of a version that was taken over did not come");
                }
                Ok(true)
            }
            Standing::AnswerLost(version) => {
                let number = version.number;
                let offered = crate::catalog::VersionRow { state: VersionState::Offered, ..*version };
                if offered.record.is_empty() {
                    return self.take_over(connected, row).await;
                }
                ask_receipt(self.agent, &connected.link, row, offered).await?;
                let text = format!("version {number} had been committed; the answer was lost");
                self.agent.note(EventLevel::Info, "", &row.name, text);
                Ok(false)
            }
            Standing::Behind => self.take_over(connected, row).await,
            Standing::Ahead => {
                let text = "the core does not know this dataset: it is published anew, from version 1";
                self.agent.note(EventLevel::Warn, "", &row.name, text);
                catalog.forget_versions(row.id)?;
                Ok(false)
            }
        }
    }

    async fn take_over(&self, connected: &Connected, row: &DatasetRow) -> Result<bool, CodedError> {
        let head =
            connected.head(&row.name).ok_or_else(|| CodedError::new(&codes::NOT_FOUND, "the dataset is gone"))?;
        adopt(self.agent, &connected.link, row, &head).await?;
        Ok(false)
    }
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
