//! The agent itself: its data folder, settings, catalog and device, and what commands ask of it.
//!
//! One process holds the data folder's lock and one [`Agent`]. The daemon keeps it for as long as it runs, a command
//! without a daemon for as long as the command takes; both answer requests by the same code.

mod commands;
mod folders;
mod notes;
mod report;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use futures_util::future::BoxFuture;
use headwater_host::control::{ControlHandler, ReplySender};
use headwater_host::error::{CodedError, codes};
use headwater_host::lock::DataFolderLock;
use headwater_quic::transfer::{LOAD_BATCHES_MAX, Loaders};
use serde_json::Value;
use tokio::sync::{Notify, OwnedMutexGuard, Semaphore};
use tokio::time::Instant;

pub use folders::{Folder, Subscription};
use notes::{InForce, Notes};

use crate::catalog::{self, Catalog, CatalogError, Event, EventLevel, Role};
use crate::clock;
use crate::device::Device;
use crate::link::Gate;
use crate::request::{ProblemReport, Request, RoomReport};
use crate::session::Connected;
use crate::settings::Settings;
use crate::storage::{frees, reserve};
use crate::training::Training;
use crate::watched;

/// Folders that are scanned at once: each scan uses several threads already.
const SCANS_MAX: usize = 1;

/// Threads that read what is sent: few, because memory stays with each of them, and one more than a single transfer uses, so
/// that a folder on a disk that hangs stops no other.
const LOAD_THREADS: usize = LOAD_BATCHES_MAX + 1;

/// So many of the newest events are not repeated.
const NEWEST: usize = 8;

/// The agent of one data folder.
pub struct Agent {
    data: PathBuf,
    config: Option<PathBuf>,
    settings: RwLock<Arc<Settings>>,
    device: RwLock<Option<Arc<Device>>>,
    catalog: InForce,
    notes: Notes,
    /// None where threads can't be had: then those that there are read.
    loaders: Option<Loaders>,
    /// What was said last: dataset and text of each event.
    said: Mutex<VecDeque<(String, String)>>,
    /// Since when versions wait for the core, by dataset.
    unsent: Mutex<HashMap<String, Instant>>,
    unsent_changed: Notify,
    /// What went wrong with a folder at its newest scan, by dataset.
    problems: Mutex<BTreeMap<String, ProblemReport>>,
    /// What folders with limits held at the newest look, by dataset.
    rooms: Mutex<BTreeMap<String, RoomReport>>,
    busy: Mutex<HashMap<BusyKey, DatasetLock>>,
    scans: Arc<Semaphore>,
    /// Says that settings or the device changed, so that the daemon looks again.
    changed: watched::Sender<u64>,
    /// The session in force, and how the link is.
    link: watched::Sender<LinkState>,
    /// What goes over the link and what may.
    gate: Gate,
    /// Its part in federated runs.
    training: Training,
    /// What is being done that a session is for.
    at_work: Arc<AtomicUsize>,
    /// Held while the folders that commands added are read, changed and written.
    added: Mutex<()>,
    daemon: std::sync::atomic::AtomicBool,
    _lock: DataFolderLock,
}

/// What a dataset is locked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Busy {
    /// Scanning and sending it.
    Round,
    /// Changing what the catalog says of it.
    Changing,
}

/// What is locked for what: a dataset's name and folder.
type BusyKey = (Busy, String, PathBuf);
type DatasetLock = Arc<tokio::sync::Mutex<()>>;

/// Something is being done that a session is for.
#[derive(Debug)]
pub struct AtWork(Arc<AtomicUsize>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How the link to the core is.
#[derive(Clone, Default)]
pub struct LinkState {
    /// The session, while there is one.
    pub connected: Option<Arc<Connected>>,
    /// What it waits for, or empty.
    pub waiting_for: String,
    /// What went wrong with the link last, until it stands.
    pub problem: Option<ProblemReport>,
    /// The core has said that it will not have this device.
    pub refused: bool,
}

impl Agent {
    /// Opens the data folder for this process alone. A damaged catalog is set aside and begun anew.
    pub fn open(data: &Path, config: Option<&Path>) -> Result<Arc<Self>, CodedError> {
        let lock = DataFolderLock::acquire(data)?;
        let settings = Settings::load(data, config)?;
        let device = Device::load(data)?;
        let (catalog, rebuilt) = open_catalog(data)?;
        noted_all_freed(data, &catalog, device.is_none())?;
        let catalog = Arc::new(RwLock::new(Arc::new(catalog)));
        let notes = Notes::start(Arc::clone(&catalog))
            .map_err(|error| CodedError::io(&codes::INTERNAL, "a thread can't be started", error))?;
        let agent = Arc::new(Self {
            data: data.to_owned(),
            config: config.map(Path::to_owned),
            settings: RwLock::new(Arc::new(settings)),
            device: RwLock::new(device.map(Arc::new)),
            catalog,
            notes,
            loaders: Loaders::start(LOAD_THREADS),
            said: Mutex::default(),
            unsent: Mutex::default(),
            unsent_changed: Notify::new(),
            problems: Mutex::default(),
            rooms: Mutex::default(),
            busy: Mutex::default(),
            scans: Arc::new(Semaphore::new(SCANS_MAX)),
            changed: watched::Sender::new(0),
            link: watched::Sender::new(LinkState::default()),
            gate: Gate::new(),
            training: Training::default(),
            at_work: Arc::default(),
            added: Mutex::default(),
            daemon: false.into(),
            _lock: lock,
        });
        if let Some(reason) = rebuilt {
            agent.note_rebuilt(&reason);
        }
        Ok(agent)
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The threads that read what is sent.
    pub fn loaders(&self) -> Option<Loaders> {
        self.loaders.clone()
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The device, if it has joined.
    pub fn device(&self) -> Option<Arc<Device>> {
        self.device.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The device, or the error that it has not joined.
    pub fn joined(&self) -> Result<Arc<Device>, CodedError> {
        self.device().ok_or_else(|| CodedError::new(&codes::NOT_JOINED, "this device has not joined a core"))
    }

    /// The catalog in force. Who holds it over a rebuild works on the old one and fails; take it anew for each piece of work.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets a damaged catalog aside and begins a new one. Does nothing if that has happened to `damaged` already.
    pub fn rebuild_catalog(&self, damaged: &Arc<Catalog>, reason: &str) -> Result<(), CodedError> {
        let mut current = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&current, damaged) {
            return Ok(());
        }
        // The old file is renamed while its connection is still open; what that one writes goes to the renamed file.
        catalog::set_aside(&self.data, clock::now_s() as u64)?;
        *current = Arc::new(Catalog::open(&self.data)?);
        frees::compare(&self.data, &current, false)?;
        drop(current);
        self.note_rebuilt(reason);
        Ok(())
    }

    /// Runs work that uses the catalog, and once more on a new catalog if it proves damaged.
    pub async fn healing<T, F>(&self, mut work: impl FnMut() -> F) -> Result<T, CodedError>
    where
        F: Future<Output = Result<T, CodedError>>,
    {
        let catalog = self.catalog();
        match work().await {
            Err(error) if error.is(&codes::CATALOG_DAMAGED) || catalog.is_suspect() => {
                self.rebuild_catalog(&catalog, &error.to_string())?;
                work().await
            }
            other => other,
        }
    }

    /// Lets one piece of work at a time change what the catalog says of a dataset in this folder, or read its files under a
    /// version that must not go meanwhile. Held for scans, not while something is sent.
    pub async fn have(&self, dataset: &str, folder: &Path) -> OwnedMutexGuard<()> {
        self.lock_of(Busy::Changing, dataset, folder).lock_owned().await
    }

    /// The same, unless something else has the dataset.
    pub fn try_have(&self, dataset: &str, folder: &Path) -> Option<OwnedMutexGuard<()>> {
        self.lock_of(Busy::Changing, dataset, folder).try_lock_owned().ok()
    }

    /// Lets one round at a time scan and send a dataset. Taken before [`have`](Self::have).
    pub async fn have_round(&self, dataset: &str, folder: &Path) -> OwnedMutexGuard<()> {
        self.lock_of(Busy::Round, dataset, folder).lock_owned().await
    }

    fn lock_of(&self, kind: Busy, dataset: &str, folder: &Path) -> DatasetLock {
        let mut busy = lock(&self.busy);
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(busy.entry((kind, dataset.to_owned(), folder.to_owned())).or_default())
    }

    /// Notes whether a dataset has a version that the core has not acknowledged.
    pub fn set_unsent(&self, dataset: &str, is_unsent: bool) {
        let mut unsent = lock(&self.unsent);
        if is_unsent {
            unsent.entry(dataset.to_owned()).or_insert_with(Instant::now);
            self.unsent_changed.notify_one();
        } else if unsent.remove(dataset).is_some() {
            self.unsent_changed.notify_one();
        }
    }

    /// Whether a version waits to be sent that is a model update, or is to be treated like one.
    pub(crate) fn update_waits(&self) -> bool {
        let names: Vec<_> = lock(&self.unsent).keys().cloned().collect();
        names.iter().any(|name| self.folder(name).is_ok_and(|folder| folder.urgent))
    }

    /// Returns when what is unsent may have changed since the last call. One task may wait for it.
    pub(crate) async fn unsent_changed(&self) {
        self.unsent_changed.notified().await;
    }

    /// Forgets what this process noted of datasets that the settings have no more.
    fn forget_signs_of_removed(&self) {
        let (folders, _) = self.folders();
        let is_there = |name: &String| folders.iter().any(|folder| folder.dataset.as_str() == name);
        lock(&self.unsent).retain(|name, _| is_there(name));
        lock(&self.problems).retain(|name, _| is_there(name));
        lock(&self.rooms).retain(|name, _| is_there(name));
    }

    /// Since when the oldest unacknowledged version waits, as far as this process knows.
    pub fn unsent_since(&self) -> Option<Instant> {
        lock(&self.unsent).values().min().copied()
    }

    /// Notes how the newest look at a folder went.
    pub fn set_folder_problem(&self, dataset: &str, error: Option<&CodedError>) {
        let mut problems = lock(&self.problems);
        match error {
            Some(error) => problems.insert(dataset.to_owned(), problem(dataset, error)),
            None => problems.remove(dataset),
        };
    }

    /// What went wrong at the newest look at a folder of this kind, if anything did. Whoever tells the core must ask for
    /// published folders only: of a local one not even its name leaves the device.
    pub fn folder_problem(&self, is_meant: impl Fn(Role) -> bool) -> Option<ProblemReport> {
        let (folders, _) = self.folders();
        let problems = lock(&self.problems);
        folders
            .iter()
            .filter(|folder| is_meant(folder.role))
            .find_map(|folder| problems.get(folder.dataset.as_str()).cloned())
    }

    /// Notes what a folder with limits holds.
    pub(crate) fn set_room(&self, dataset: &str, room: RoomReport) {
        lock(&self.rooms).insert(dataset.to_owned(), room);
    }

    /// What a folder with limits held at the newest look of this process.
    pub(crate) fn room(&self, dataset: &str) -> Option<RoomReport> {
        lock(&self.rooms).get(dataset).copied()
    }

    /// Lets few scans run at once.
    pub fn scans(&self) -> Arc<Semaphore> {
        Arc::clone(&self.scans)
    }

    /// A number that grows with each change of settings and device.
    pub fn change(&self) -> u64 {
        *self.changed.borrow()
    }

    /// Watches for changes of settings and device.
    pub fn changes(&self) -> watched::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How the link is, to be watched or set.
    pub fn link(&self) -> &watched::Sender<LinkState> {
        &self.link
    }

    /// From now until what this gives is dropped, something is done that a session is for.
    pub fn begin_work(&self) -> AtWork {
        self.at_work.fetch_add(1, Ordering::Relaxed);
        AtWork(Arc::clone(&self.at_work))
    }

    /// Whether something is being done that a session is for.
    pub fn is_at_work(&self) -> bool {
        self.at_work.load(Ordering::Relaxed) > 0
    }

    /// Its part in federated runs.
    pub(crate) fn training(&self) -> &Training {
        &self.training
    }

    /// What goes over the link and what may.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Whether this process is the daemon.
    pub fn is_daemon(&self) -> bool {
        self.daemon.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Says that this process is the daemon.
    pub fn set_daemon(&self) {
        self.daemon.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Takes a device, as after joining or a renewal; none after leaving.
    pub fn set_device(&self, device: Option<Device>) {
        *self.device.write().unwrap_or_else(PoisonError::into_inner) = device.map(Arc::new);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Makes the daemon look again at what it waits for.
    pub fn look_again(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn set_settings(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Keeps an event, and logs it.
    pub fn note(&self, level: EventLevel, code: &str, dataset: &str, text: impl Into<String>) {
        let event = event(level, code, dataset, text.into());
        self.is_news(&event);
        log(&event);
        self.notes.write(move |catalog| keep_event(catalog, &event));
    }

    /// Keeps an error as an event, unless it repeats one of the newest.
    pub fn note_error(&self, dataset: &str, error: &CodedError) {
        self.note_once(EventLevel::Warn, &error.code, dataset, one_line(error));
    }

    /// Keeps an event, unless it repeats one of the newest: what stays as it is need not be said at every scan.
    pub fn note_once(&self, level: EventLevel, code: &str, dataset: &str, text: String) {
        let event = event(level, code, dataset, text);
        if !self.is_news(&event) {
            tracing::debug!(dataset = event.dataset, "{}", event.text);
            return;
        }
        log(&event);
        self.notes.write(move |catalog| {
            // An earlier process may have kept it.
            let newest = catalog.events(u32::try_from(NEWEST).unwrap_or(u32::MAX)).unwrap_or_default();
            if !newest.iter().any(|known| known.dataset == event.dataset && known.text == event.text) {
                keep_event(catalog, &event);
            }
        });
    }

    /// Whether an event is none of the newest that this process has said; it is one of them from now on.
    fn is_news(&self, event: &Event) -> bool {
        let mut said = lock(&self.said);
        if said.iter().any(|(dataset, text)| *dataset == event.dataset && *text == event.text) {
            return false;
        }
        said.push_back((event.dataset.clone(), event.text.clone()));
        if said.len() > NEWEST {
            said.pop_front();
        }
        true
    }

    /// At most `count` of the newest events, oldest first.
    pub fn events(&self, count: u32) -> Result<Vec<Event>, CatalogError> {
        self.notes.settle();
        self.catalog().events(count)
    }

    /// Keeps what went over the link in the catalog, if that is worth a write.
    pub(crate) fn keep_account(&self) {
        let (account, lost_bytes) = (Arc::clone(self.gate.account()), self.lost_bytes());
        self.notes.write(move |catalog| {
            if let Err(error) = account.keep(catalog, lost_bytes, false) {
                tracing::debug!(%error, "bytes could not be counted");
            }
        });
    }

    /// Bytes of packets that got lost in the session in force.
    fn lost_bytes(&self) -> u64 {
        self.link().borrow().connected.as_ref().map_or(0, |connected| connected.link.stats().lost_bytes)
    }

    fn note_rebuilt(&self, reason: &str) {
        let text = format!("the catalog was damaged and is rebuilt from the folders and the core: {reason}");
        self.note(EventLevel::Warn, codes::CATALOG_DAMAGED.code, "", text);
    }

    /// Writes down what waits, and folds the catalog's log away, before the process ends.
    pub fn close(&self) {
        self.notes.settle();
        let catalog = self.catalog();
        let kept =
            self.gate.settle(&catalog).and_then(|()| self.gate.account().keep(&catalog, self.lost_bytes(), true));
        if let Err(error) = kept {
            tracing::debug!(%error, "what went over the link could not be kept");
        }
        if let Err(error) = self.catalog().tidy() {
            tracing::debug!(%error, "the catalog could not be tidied");
        }
    }
}

fn event(level: EventLevel, code: &str, dataset: &str, text: String) -> Event {
    Event { id: 0, at_s: clock::now_s(), level, code: code.to_owned(), dataset: dataset.to_owned(), text }
}

/// Logs an event, before it waits for the catalog: the log has it also where the process is killed or the disk takes nothing.
fn log(event: &Event) {
    let Event { level, code, dataset, text, .. } = event;
    match level {
        EventLevel::Info if dataset.is_empty() => tracing::info!("{text}"),
        EventLevel::Info => tracing::info!(dataset, "{text}"),
        EventLevel::Warn if dataset.is_empty() => tracing::warn!(code, "{text}"),
        EventLevel::Warn => tracing::warn!(dataset, code, "{text}"),
        EventLevel::Error => tracing::error!(code, "{text}"),
    }
}

fn keep_event(catalog: &Catalog, event: &Event) {
    if let Err(error) = catalog.put_event(event) {
        tracing::debug!(%error, "an event could not be kept");
    }
}

/// An agent that answers requests.
pub struct Handler(pub Arc<Agent>);

impl ControlHandler for Handler {
    fn handle(&self, request: Value, reply: ReplySender) -> BoxFuture<'_, Result<Value, CodedError>> {
        Box::pin(async move {
            let request: Request = serde_json::from_value(request).map_err(|error| {
                CodedError::new(&codes::USAGE, "the request can't be understood")
                    .with_hint("command and daemon are of different releases: restart the daemon")
                    .with_source(error)
            })?;
            commands::answer(&self.0, request, reply).await
        })
    }
}

/// An error as one line of an event: the message with its causes, without the hint.
pub fn one_line(error: &CodedError) -> String {
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default();
    text.split_once("]: ").map_or(text, |(_, rest)| rest).to_owned()
}

/// An error as a report's problem.
pub fn problem(dataset: &str, error: &CodedError) -> ProblemReport {
    ProblemReport {
        dataset: dataset.to_owned(),
        code: error.code.clone().into_owned(),
        message: one_line(error),
        hint: error.hint.clone(),
    }
}

fn open_catalog(data: &Path) -> Result<(Catalog, Option<String>), CodedError> {
    match Catalog::open(data) {
        Ok(catalog) => Ok((catalog, None)),
        Err(error) if error.is_damage() => {
            catalog::set_aside(data, clock::now_s() as u64)?;
            Ok((Catalog::open(data)?, Some(error.to_string())))
        }
        Err(CatalogError::Full) if reserve::release(data) => Ok((Catalog::open(data)?, None)),
        Err(error) => Err(error.into()),
    }
}

/// Finds out whether the catalog knows of all that was freed.
fn noted_all_freed(data: &Path, catalog: &Catalog, is_new: bool) -> Result<(), CatalogError> {
    match frees::compare(data, catalog, is_new) {
        Err(CatalogError::Full) if reserve::release(data) => frees::compare(data, catalog, is_new),
        other => other,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<CatalogError> for CodedError {
    fn from(error: CatalogError) -> Self {
        let code = match &error {
            CatalogError::Damaged { .. } => &codes::CATALOG_DAMAGED,
            CatalogError::Newer { .. } => &codes::CATALOG_TOO_NEW,
            CatalogError::Full => &codes::DISK_FULL,
            CatalogError::Sql { .. } => &codes::CATALOG_FAILED,
            CatalogError::Io { action, source } => {
                let message = format!("the catalog could not {action}: {source}");
                return match source.kind() {
                    std::io::ErrorKind::StorageFull => Self::new(&codes::DISK_FULL, message),
                    _ => Self::new(&codes::CATALOG_FAILED, message),
                };
            }
        };
        let message = error.to_string();
        match error {
            CatalogError::Sql { source, .. } => Self::new(code, message).with_source(source),
            _ => Self::new(code, message),
        }
    }
}
