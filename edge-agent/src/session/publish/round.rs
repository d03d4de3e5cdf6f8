//! One round for one folder: scan, build, compare with the core, send; again where files changed meanwhile or more is
//! left of a large first scan.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_host::error::{CodedError, ErrorCode, codes};
use headwater_host::scan::Cancel;
use headwater_quic::transfer::UnavailableChunk;

use super::build::{Built, build};
use super::freed;
use super::revert::{TakenBack, revert};
use super::send::{Sent, ask_receipt, note_without_receipt, send};
use super::standing::{Standing, adopt, standing};
use crate::agent::{Agent, Folder};
use crate::blocking::blocking;
use crate::catalog::{Catalog, DatasetRow, EventLevel, Role, VersionRow, VersionState};
use crate::request::SkippedReport;
use crate::session::collect::Collector;
use crate::session::{Access, Connected, CoreHead};
use crate::storage::room;

/// Times that files may be taken back out of one version before the folder is left alone until the next scan.
const REVERTS_MAX: u32 = 16;
/// Further scans in one round, for what changed while a version was sent.
const RESCANS_MAX: u32 = 2;
/// Times that the core's newest version is asked for again in one round.
const CONFLICTS_MAX: u32 = 3;
/// Scans of one round that find more to read but nothing to send.
const IDLE_MAX: u32 = 20;
/// The wait before each of them is followed by another.
const IDLE_WAIT: Duration = Duration::from_millis(100);
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
    let _round = agent.have_round(folder.dataset.as_str(), &folder.path).await;
    let done = bring_up_to_date(agent, folder, access, rounds, collector).await;
    if let Err(error) = room::make(agent, folder).await {
        agent.note_error(folder.dataset.as_str(), &error);
    }
    done
}

async fn bring_up_to_date(
    agent: &Arc<Agent>,
    folder: &Folder,
    access: Option<&Access>,
    rounds: Rounds,
    collector: &Collector,
) -> Result<Option<Duration>, CodedError> {
    let mut round = Round { agent, folder, collector, settle_waits: if rounds.settle { SETTLE_WAITS } else { 0 } };
    // What the month has left may be for model updates alone.
    let may_send = folder.urgent || agent.gate().reserved_until().is_none();
    let access = access.filter(|_| folder.role == Role::Publish && may_send);
    if let Some(access) = access {
        round.ask_first(access).await?;
    }
    let mut rescans = 0;
    let mut idle = 0;
    let mut has_sent = false;
    loop {
        let built = match round.build().await {
            Ok(built) => built,
            Err(error) => {
                if let Some(access) = access.filter(|_| error.is(&codes::DISK_FULL)) {
                    round.send_what_is_there(access).await;
                }
                return Err(error);
            }
        };
        let again = built.report.settled_in;
        let Some(access) = access else {
            round.finish_here(&built).await?;
            return Ok(again);
        };
        if folder.urgent {
            // The link may open for this alone.
            round.note_unsent(&built.row).await?;
        }
        let connected = access.connected().await?;
        let done = round.deliver(&connected, &built.row).await?;
        let more = built.report.postponed > 0;
        match done {
            Delivered::LookAgain => continue,
            Delivered::Without(files) if rescans < RESCANS_MAX => {
                tracing::debug!(files, "files changed while a version was sent; the folder is scanned again");
                rescans += 1;
                has_sent = true;
                continue;
            }
            Delivered::All if more => {
                has_sent = true;
                continue;
            }
            // All that this scan could read was what is too fresh for its stamp to be trusted: soon it won't be.
            Delivered::Nothing if more && idle < IDLE_MAX => {
                idle += 1;
                tokio::time::sleep(IDLE_WAIT).await;
                continue;
            }
            Delivered::Nothing if !has_sent => round.finish_unchanged(&built),
            _ => {}
        }
        return Ok(if more { Some(again.unwrap_or(IDLE_WAIT)) } else { again });
    }
}

/// What became of the version that a scan built.
enum Delivered {
    /// There was nothing to send.
    Nothing,
    /// It is committed.
    All,
    /// It is committed without so many files, which changed or vanished meanwhile.
    Without(usize),
    /// The catalog changed by what the core said: the folder must be compared with that.
    LookAgain,
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
        let folder = self.folder.clone();
        let look = move |catalog: &Arc<Catalog>| {
            let row = catalog.dataset(folder.dataset.as_str(), folder.role, &folder.path)?;
            Ok((catalog.committed(row.id)?.is_some(), row))
        };
        let (is_known, row) = self.look(look).await?;
        if is_known {
            return Ok(());
        }
        // Without the core the build goes on: it is compared when there is one.
        if let Ok(connected) = access.connected().await {
            self.level(&connected, &row).await?;
        }
        Ok(())
    }

    async fn note_unsent(&self, row: &DatasetRow) -> Result<(), CodedError> {
        let id = row.id;
        let is_unsent = self.look(move |catalog| Ok(catalog.pending(id)?.is_some())).await?;
        self.agent.set_unsent(&row.name, is_unsent);
        Ok(())
    }

    /// Sends what the catalog has ready, without the files that prove unavailable.
    async fn deliver(&self, connected: &Connected, row: &DatasetRow) -> Result<Delivered, CodedError> {
        let (agent, dataset) = (self.agent, self.folder.dataset.as_str());
        let (mut conflicts, mut reverts, mut without) = (0, 0, 0);
        loop {
            if !self.level(connected, row).await? {
                return Ok(Delivered::LookAgain);
            }
            let id = row.id;
            let pending = self.look(move |catalog| Ok(catalog.pending(id)?)).await?;
            agent.set_unsent(dataset, pending.is_some());
            let Some(pending) = pending else {
                return Ok(if without > 0 { Delivered::Without(without) } else { Delivered::Nothing });
            };
            let progress = self.collector.transfer_progress(dataset, true);
            match Box::pin(send(agent, &connected.link, row, pending.clone(), progress)).await? {
                Sent::Committed(report) => {
                    self.collector.sent(dataset, &pending, &report);
                    agent.set_unsent(dataset, false);
                    connected.set_head(dataset, pending.number, pending.version);
                    if let Err(error) = freed::tell(agent, connected, row).await {
                        tracing::debug!(%error, dataset, "the core hears of freed files at the next session");
                    }
                    return Ok(if without > 0 { Delivered::Without(without) } else { Delivered::All });
                }
                Sent::Unavailable(chunks) => {
                    reverts += 1;
                    if reverts > REVERTS_MAX {
                        let message = "its files keep changing while they are sent; the next scan tries again";
                        return Err(CodedError::new(&codes::FILE_CHANGED, message));
                    }
                    without += self.take_back(row, pending, chunks).await?;
                }
                Sent::Conflict => {
                    conflicts += 1;
                    if conflicts > CONFLICTS_MAX {
                        let message = "the core has another newest version each time that it is asked";
                        return Err(CodedError::new(&codes::VERSION_CONFLICT, message));
                    }
                    connected.ask_head(dataset).await?;
                }
            }
        }
    }

    /// Takes files that changed or vanished back out of a version.
    async fn take_back(
        &self,
        row: &DatasetRow,
        version: VersionRow,
        chunks: Vec<UnavailableChunk>,
    ) -> Result<usize, CodedError> {
        let mine = self.agent.have(&row.name, &row.folder).await;
        let (catalog, row_here, number) = (self.agent.catalog(), row.clone(), version.number);
        let work = move || {
            let _mine = mine;
            revert(&catalog, &row_here, &version, &chunks)
        };
        let files = blocking(work).await?;
        self.collector.left_out(files.iter().map(|file| left_out(&row.name, file)).collect());
        for (code, happened) in [(&codes::FILE_CHANGED, "changed"), (&codes::FILE_VANISHED, "vanished")] {
            let mut such = files.iter().filter(|file| reason_of(file).code == code.code).peekable();
            let Some(first) = such.peek().map(|file| file.path.to_string()) else { continue };
            let (count, hint) = (such.count(), code.hint);
            let text = format!(
                "version {number} goes on without {count} files that {happened} before they were sent, as `{first}`; {hint}"
            );
            self.agent.note(EventLevel::Warn, code.code, &row.name, text);
        }
        Ok(files.len())
    }

    /// Sends what an earlier scan has put into the catalog, where there is no room for another one.
    async fn send_what_is_there(&self, access: &Access) {
        let folder = self.folder.clone();
        let row = self.look(move |catalog| Ok(catalog.dataset(folder.dataset.as_str(), folder.role, &folder.path)?));
        let sent = async {
            let (connected, row) = (access.connected().await?, row.await?);
            self.deliver(&connected, &row).await
        };
        if let Err(error) = sent.await {
            self.agent.note_error(self.folder.dataset.as_str(), &error);
        }
    }

    async fn build(&mut self) -> Result<Built, CodedError> {
        loop {
            let built = self.build_once().await?;
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

    async fn build_once(&self) -> Result<Built, CodedError> {
        let mine = self.agent.have(self.folder.dataset.as_str(), &self.folder.path).await;
        let _slot = self.agent.scans().acquire_owned().await;
        let cancel = Cancel::default();
        // Dropped with this future: a scan that nobody waits for any more stops.
        let stop = CancelOnDrop(cancel.clone());
        let (agent, folder, collector) = (Arc::clone(self.agent), self.folder.clone(), self.collector.clone());
        let built = blocking(move || {
            // Held until the scan has really ended, be it that nobody waits for it any more.
            let _mine = mine;
            let dataset = folder.dataset.as_str().to_owned();
            let mut progress = |progress: headwater_host::version::Progress| {
                collector.scan_progress(&dataset, progress.paths, progress.bytes_read);
            };
            let began = Instant::now();
            let built = build(&agent, &folder, &cancel, &mut progress);
            collector.scan_took(began.elapsed());
            built
        })
        .await;
        drop(stop);
        built
    }

    /// Reports a scan that nothing is sent after.
    async fn finish_here(&self, built: &Built) -> Result<(), CodedError> {
        let id = built.row.id;
        let (committed, pending) = self.look(move |catalog| Ok((catalog.committed(id)?, catalog.pending(id)?))).await?;
        self.agent.set_unsent(&built.row.name, self.folder.role == Role::Publish && pending.is_some());
        match (self.folder.role, built.is_new) {
            (Role::Local, true) => {
                if let Some(version) = committed {
                    self.collector.local(self.folder.dataset.as_str(), &version);
                }
            }
            (_, false) => self.finish_unchanged(built),
            _ => {}
        }
        Ok(())
    }

    /// Asks or changes the catalog.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Arc<Catalog>) -> Result<T, CodedError> + Send + 'static,
    ) -> Result<T, CodedError> {
        let catalog = self.agent.catalog();
        blocking(move || look(&catalog)).await
    }

    fn finish_unchanged(&self, built: &Built) {
        if built.waits {
            self.collector.say(format!("`{}` has no version yet: all its files wait", built.row.name));
        } else {
            self.collector.unchanged();
        }
    }

    /// Compares with the core. False if the catalog changed so that the folder must be looked at again.
    async fn level(&self, connected: &Connected, row: &DatasetRow) -> Result<bool, CodedError> {
        // Before any newer version: what was freed and deleted since the last session is in this one only.
        freed::tell(self.agent, connected, row).await?;
        let head = connected.head(&row.name).await?;
        let row_here = row.clone();
        let look = move |catalog: &Arc<Catalog>| {
            if let CoreHead::None { last_number } = head {
                catalog.begin_after(row_here.id, last_number)?;
            }
            let standing = standing(catalog, &row_here, &head)?;
            Ok((standing, catalog.committed(row_here.id)?))
        };
        let (standing, committed) = self.look(look).await?;
        match standing {
            Standing::Level => {
                if let Some(committed) = committed
                    && committed.receipt.is_empty()
                    && let Err(error) = ask_receipt(self.agent, &connected.link, row, committed).await
                {
                    tracing::debug!(%error, "the receipt of a version that was taken over did not come");
                }
                Ok(true)
            }
            Standing::AnswerLost(version) => {
                let number = version.number;
                let offered = VersionRow { state: VersionState::Offered, ..*version };
                if offered.record.is_empty() {
                    return self.take_over(connected, row).await;
                }
                if !ask_receipt(self.agent, &connected.link, row, offered.clone()).await? {
                    note_without_receipt(self.agent, row, offered).await?;
                    return Ok(false);
                }
                let text = format!("version {number} had been committed; the answer was lost");
                self.agent.note(EventLevel::Info, "", &row.name, text);
                Ok(false)
            }
            Standing::Behind => self.take_over(connected, row).await,
            Standing::Ahead { next } => {
                let text =
                    format!("the core has no version of this dataset: it is published anew, from version {next}");
                // An update is not kept for long.
                let level = if self.folder.urgent { EventLevel::Info } else { EventLevel::Warn };
                self.agent.note(level, "", &row.name, text);
                let id = row.id;
                self.look(move |catalog| Ok(catalog.forget_versions(id)?)).await?;
                Ok(false)
            }
        }
    }

    async fn take_over(&self, connected: &Connected, row: &DatasetRow) -> Result<bool, CodedError> {
        let CoreHead::Is(head) = connected.head(&row.name).await? else {
            return Err(CodedError::new(&codes::NOT_FOUND, "the dataset is gone"));
        };
        adopt(self.agent, &connected.link, row, &head).await?;
        Ok(false)
    }
}

const fn reason_of(file: &TakenBack) -> &'static ErrorCode {
    if file.has_vanished { &codes::FILE_VANISHED } else { &codes::FILE_CHANGED }
}

fn left_out(dataset: &str, file: &TakenBack) -> SkippedReport {
    let code = reason_of(file);
    let happened = if file.has_vanished { "it vanished before it was sent" } else { "it changed while it was sent" };
    SkippedReport {
        dataset: dataset.to_owned(),
        path: file.path.to_string(),
        reason: format!("{happened} ({}): {}", code.code, code.hint),
    }
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
