//! Building the next version of a folder into the catalog.
//!
//! What the build compares with is the newest version here, committed or not, so what was hashed once while the link was
//! down is not hashed again. What the new version *follows* is always the newest committed one.

use std::sync::Arc;
use std::time::Duration;

use headwater_host::error::{CodedError, codes};
use headwater_host::scan::{Cancel, ScanOptions, SkipReason, Stamp};
use headwater_host::version::{
    self, BuildContext, BuildOptions, BuildReport, BuiltVersion, Deferred, DeferredReason, Earlier, NoChunks,
    StatCache, StatCacheError,
};
use headwater_protocol::id::ChunkId;
use headwater_protocol::manifest::Manifest;
use headwater_protocol::page::Page;
use headwater_protocol::record::FileKind;
use headwater_protocol::tree::{PageSink, SinkError, Tree};

use super::index::ChunkIndexer;
use super::keep::Keep;
use crate::agent::{Agent, Folder};
use crate::catalog::{
    Catalog, CatalogError, DatasetId, DatasetPages, DatasetRow, EventLevel, Role, VersionRow, VersionState,
    refers_to_pages,
};
use crate::request::SkippedReport;
use crate::settings::Mode;

/// Encoded pages that wait to be written together, in bytes.
const PAGES_BATCH_BYTES: usize = 2 << 20;
/// Encoded stamps that wait to be written together, in bytes.
const STAMPS_BATCH_BYTES: usize = 1 << 20;
/// Threads that read and hash, where the settings name no number.
const THREADS_DEFAULT_MAX: usize = 4;
/// Skipped and waiting files that a report names.
const NOTES_MAX: usize = 100;

/// What building a folder gave.
#[derive(Debug)]
pub struct Built {
    /// The dataset.
    pub row: DatasetRow,
    /// Whether there is a version that was not there before.
    pub is_new: bool,
    /// There is no version yet, because all files wait to settle or can't be read.
    pub waits: bool,
    /// What the scan found.
    pub report: BuildReport,
    /// Files that were left out or wait.
    pub skipped: Vec<SkippedReport>,
}

/// Scans the folder and, if something changed, puts the next version into the catalog. Blocking.
pub fn build(
    agent: &Agent,
    folder: &Folder,
    cancel: &Cancel,
    progress: &mut dyn FnMut(version::Progress),
) -> Result<Built, CodedError> {
    if folder.role == Role::Publish
        && let Some(error) = agent.settings().leak_from(&folder.path)
    {
        return Err(error);
    }
    let catalog = agent.catalog();
    let row = catalog.dataset(folder.dataset.as_str(), folder.role, &folder.path)?;
    let committed = catalog.committed(row.id)?;
    let pending = catalog.pending(row.id)?;
    let base = pending.as_ref().or(committed.as_ref());
    let base_manifest = base.map(VersionRow::decode_manifest).transpose()?;
    let pages = DatasetPages::new(Arc::clone(&catalog), row.id);
    let options = options(agent, folder, cancel);
    let tree = base_manifest.as_ref().map(|manifest| Tree::new(manifest, &pages));
    let suspect = folder.mode == Mode::Mirror && is_suspect(agent, &catalog, row.id, folder, &options.scan, tree)?;
    let keep = Keep::new(&catalog, &row, folder.mode, suspect, committed.as_ref(), base)?;
    let mut stamps = CatalogStamps::new(&catalog, row.id);
    let mut sink = CatalogSink::new(&catalog, row.id, folder.role != Role::Local);
    let earlier = match (&base_manifest, base) {
        (Some(manifest), Some(base)) => Some(Earlier { id: base.version, manifest, pages: &pages }),
        _ => None,
    };
    let context =
        BuildContext { earlier, stamps: &mut stamps, absent: &keep, pages: &mut sink, chunks: &NoChunks, progress };
    let (built, report) = version::build(&folder.path, &options, context).map_err(|error| {
        let error = CodedError::from(error);
        if catalog.is_suspect() { CodedError::new(&codes::CATALOG_DAMAGED, error.message) } else { error }
    })?;
    sink.finish()?;
    stamps.finish()?;
    keep.finish(&report)?;
    let waits = match &built {
        Some(built) if committed.is_none() && report.deferred_count > 0 => is_hollow(&built.manifest, &pages)?,
        _ => false,
    };
    let is_new = match built {
        Some(_) if waits => {
            wait_for_first(agent, &catalog, &row)?;
            false
        }
        Some(built) => record(&catalog, folder, row.id, committed.as_ref(), built)?,
        None => false,
    };
    let skipped = skipped(agent, folder, &report);
    Ok(Built { row, is_new, waits, report, skipped })
}

/// Whether a version has nothing but folders: as the first one of files that wait it would be of use to nobody.
pub(super) fn is_hollow(manifest: &Manifest, pages: &DatasetPages) -> Result<bool, CodedError> {
    for record in Tree::new(manifest, pages).records() {
        let record = record.map_err(|error| CodedError::new(&codes::CATALOG_DAMAGED, error.to_string()))?;
        if record.kind != FileKind::Folder {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Leaves the dataset without a version until there is a file to put into it.
fn wait_for_first(agent: &Agent, catalog: &Catalog, row: &DatasetRow) -> Result<(), CodedError> {
    catalog.supersede(row.id)?;
    catalog.prune_pages(row.id)?;
    let text = "its first version waits: none of its files can be taken yet, because they are still being written or can't be read";
    agent.note_once(EventLevel::Info, "", &row.name, text.to_owned());
    Ok(())
}

/// Whether a mirrored folder looks like the empty place of a disk that is not mounted; that is said once.
fn is_suspect(
    agent: &Agent,
    catalog: &Catalog,
    dataset: DatasetId,
    folder: &Folder,
    scan: &ScanOptions,
    earlier: Option<Tree<'_>>,
) -> Result<bool, CodedError> {
    let key = format!("device.{}", dataset.number());
    let before = catalog.meta(&key)?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    let standing = version::standing(&folder.path, scan, earlier, before)?;
    if let Some(suspicion) = standing.suspicion {
        agent.note_error(folder.dataset.as_str(), &CodedError::from(suspicion));
        return Ok(true);
    }
    if before != Some(standing.device) {
        catalog.put_meta(&key, &standing.device.to_le_bytes())?;
    }
    Ok(false)
}

/// Puts the built version into the catalog, following the newest committed one. It may prove to be that one again.
fn record(
    catalog: &Catalog,
    folder: &Folder,
    dataset: DatasetId,
    committed: Option<&VersionRow>,
    built: BuiltVersion,
) -> Result<bool, CodedError> {
    let mut manifest = built.manifest;
    if let Some(committed) = committed {
        let before = committed.decode_manifest()?;
        if before.root == manifest.root && before.height == manifest.height {
            catalog.supersede(dataset)?;
            catalog.prune_pages(dataset)?;
            return Ok(false);
        }
    }
    manifest.parent = committed.map(|committed| committed.version);
    let body = manifest.encode();
    let last = match committed {
        Some(committed) => committed.number,
        None => catalog.begins_after(dataset)?,
    };
    let (number, id) = (last + 1, Manifest::id_of(&body));
    if folder.role == Role::Local {
        let (state, record, receipt) = (VersionState::Committed, Vec::new(), Vec::new());
        let version = VersionRow { number, version: id, state, manifest: body, record, receipt };
        catalog.commit_version(dataset, &version, 1)?;
    } else {
        catalog.put_built(dataset, number, id, body)?;
    }
    catalog.prune_pages(dataset)?;
    Ok(true)
}

fn options(agent: &Agent, folder: &Folder, cancel: &Cancel) -> BuildOptions {
    let settings = agent.settings();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if settings.scan.threads == 0 { cores.min(THREADS_DEFAULT_MAX) } else { settings.scan.threads };
    let mut exclude = if folder.is_own { Vec::new() } else { vec![agent.data().to_owned()] };
    if folder.role == Role::Publish {
        // The settings say so too; this holds for what they can't see, as the same folder mounted at two places.
        exclude.extend(settings.local.iter().map(|local| local.folder.clone()));
    }
    BuildOptions {
        scan: ScanOptions {
            settle: if folder.is_own { Duration::ZERO } else { settings.scan.settle.0 },
            ignore: if folder.is_own { Vec::new() } else { settings.scan.ignore.clone() },
            gitignore: settings.scan.gitignore,
            exclude,
            threads,
            cancel: cancel.clone(),
        },
        origin: agent.device().map(|device| device.card.name.clone()).unwrap_or_default(),
        read_bytes_max: (folder.role == Role::Publish).then_some(settings.scan.version_bytes.0),
        ..BuildOptions::default()
    }
}

fn skipped(agent: &Agent, folder: &Folder, report: &BuildReport) -> Vec<SkippedReport> {
    let dataset = folder.dataset.as_str();
    let of_skipped = report.skipped.iter().map(|entry| (entry.path.clone(), skip_reason(&entry.reason)));
    let of_deferred = report.deferred.iter().map(|Deferred { path, reason }| {
        let reason = match reason {
            DeferredReason::Settling => "was modified a moment ago and waits until it is left alone".to_owned(),
            DeferredReason::ChangedWhileRead => "changed while it was read and waits for the next scan".to_owned(),
            DeferredReason::Unreadable(reason) => format!("can't be read: {reason}"),
        };
        (path.clone(), reason)
    });
    let unreadable = |entry: &&Deferred| matches!(entry.reason, DeferredReason::Unreadable(_));
    if let Some(first) = report.deferred.iter().find(unreadable) {
        let count = report.deferred.iter().filter(unreadable).count();
        let text =
            format!("{count} files can't be read, `{}` among them; what was published of them stays", first.path);
        agent.note_once(EventLevel::Warn, codes::FOLDER_UNREADABLE.code, dataset, text);
    }
    of_skipped
        .chain(of_deferred)
        .take(NOTES_MAX)
        .map(|(path, reason)| SkippedReport { dataset: dataset.to_owned(), path, reason })
        .collect()
}

fn skip_reason(reason: &SkipReason) -> String {
    match reason {
        SkipReason::Special => "is a pipe, socket or device".to_owned(),
        SkipReason::Unreadable(reason) => format!("can't be read: {reason}"),
        SkipReason::PathUnsuitable(reason) => format!("can't be in a dataset: {reason}"),
        SkipReason::BadRule => "holds a line that is no ignore rule".to_owned(),
        SkipReason::PlaceHeld => {
            "stands where the dataset has a folder with files that are not here any more; `edge-agent delete` takes these out"
                .to_owned()
        }
    }
}

/// The catalog as a stat cache: writes only what differs from what it has, in batches.
struct CatalogStamps<'a> {
    catalog: &'a Catalog,
    dataset: DatasetId,
    last_read: Option<(ChunkId, Vec<u8>)>,
    waiting: Vec<(ChunkId, Vec<u8>)>,
    waiting_bytes: usize,
}

impl<'a> CatalogStamps<'a> {
    fn new(catalog: &'a Catalog, dataset: DatasetId) -> Self {
        Self { catalog, dataset, last_read: None, waiting: Vec::new(), waiting_bytes: 0 }
    }

    fn finish(&mut self) -> Result<(), CatalogError> {
        self.waiting_bytes = 0;
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.catalog.put_stamps(self.dataset, &std::mem::take(&mut self.waiting))
    }

    fn failed(&self, error: CatalogError) -> StatCacheError {
        if error.is_damage() {
            self.catalog.suspect();
        }
        StatCacheError(Box::new(error))
    }
}

impl StatCache for CatalogStamps<'_> {
    fn stamps(&mut self, leaf: &ChunkId) -> Result<Option<Vec<Stamp>>, StatCacheError> {
        let Some(bytes) = self.catalog.stamps(self.dataset, leaf).map_err(|error| self.failed(error))? else {
            return Ok(None);
        };
        let stamps = Stamp::decode_all(&bytes);
        self.last_read = Some((*leaf, bytes));
        Ok(stamps)
    }

    fn put(&mut self, leaf: &ChunkId, stamps: &[Stamp]) -> Result<(), StatCacheError> {
        let bytes = Stamp::encode_all(stamps);
        if self.last_read.as_ref().is_some_and(|(id, known)| id == leaf && *known == bytes) {
            return Ok(());
        }
        self.waiting_bytes += bytes.len();
        self.waiting.push((*leaf, bytes));
        if self.waiting_bytes >= STAMPS_BATCH_BYTES {
            self.finish().map_err(|error| self.failed(error))?;
        }
        Ok(())
    }
}

/// The catalog as the place where new pages go: in batches, and with their chunks in the index.
pub(super) struct CatalogSink<'a> {
    catalog: &'a Arc<Catalog>,
    dataset: DatasetId,
    waiting: Vec<(ChunkId, bool, Vec<u8>)>,
    waiting_bytes: usize,
    indexer: Option<ChunkIndexer>,
}

impl<'a> CatalogSink<'a> {
    pub(super) fn new(catalog: &'a Arc<Catalog>, dataset: DatasetId, indexed: bool) -> Self {
        let indexer = indexed.then(|| ChunkIndexer::new(Arc::clone(catalog), dataset));
        Self { catalog, dataset, waiting: Vec::new(), waiting_bytes: 0, indexer }
    }

    fn flush(&mut self) -> Result<(), CatalogError> {
        self.waiting_bytes = 0;
        if !self.waiting.is_empty() {
            self.catalog.put_pages(self.dataset, &std::mem::take(&mut self.waiting))?;
        }
        self.indexer.as_mut().map_or(Ok(()), ChunkIndexer::write_full)
    }

    pub(super) fn finish(&mut self) -> Result<(), CatalogError> {
        self.flush()?;
        match self.indexer.take() {
            Some(indexer) => indexer.finish(),
            None => Ok(()),
        }
    }

    fn take(&mut self, id: ChunkId, bytes: Vec<u8>, page: &Page) -> Result<(), CatalogError> {
        self.waiting_bytes += bytes.len();
        self.waiting.push((id, refers_to_pages(page), bytes));
        if let Some(indexer) = &mut self.indexer {
            indexer.page(id, page);
        }
        let is_much =
            self.waiting_bytes >= PAGES_BATCH_BYTES || self.indexer.as_ref().is_some_and(ChunkIndexer::is_full);
        if is_much { self.flush() } else { Ok(()) }
    }
}

impl PageSink for CatalogSink<'_> {
    fn put_page(&mut self, id: ChunkId, bytes: Vec<u8>, page: &Page) -> Result<(), SinkError> {
        self.take(id, bytes, page).map_err(|error| {
            if error.is_damage() {
                self.catalog.suspect();
            }
            SinkError::new(error)
        })
    }
}
