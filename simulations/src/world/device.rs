//! A device: its folders and its agent's data, which outlive the agent's process, and the process.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, UNIX_EPOCH};

use edge_agent::agent::{Agent, Handler};
use edge_agent::catalog::{Event, Role};
use edge_agent::daemon;
use edge_agent::device::{Card, Device};
use edge_agent::link::policy::Month;
use edge_agent::request::Request;
use headwater_host::control::{ControlHandler, ReplySender};
use headwater_host::materialise::CURRENT_LINK;
use headwater_protocol::codec::decode_stored;
use headwater_protocol::commit::{CommitRecord, Receipt};
use headwater_protocol::id::{ChunkId, VersionId};
use headwater_protocol::manifest::Manifest;
use headwater_quic::work;
use tempfile::TempDir;

use super::bugs::Bug;
use super::contents;
use super::history::Fact;
use super::identities::{Identities, device_name, folder};
use super::net::CORE;
use super::process::{Machine, Process, lock};
use super::rules::Rules;
use super::trace::Trace;
use super::users::Folder;
use crate::random::Random;

/// How often somebody tries to join a device.
const JOIN_EVERY: Duration = Duration::from_secs(5);

/// Bytes of a page of SQLite.
const PAGE_BYTES: u64 = 4096;

/// A device.
pub(super) struct DeviceMachine {
    pub(super) index: u8,
    pub(super) machine: Machine,
    root: TempDir,
    pub(super) folders: Vec<Folder>,
    mirrors: Vec<bool>,
    subscription: Option<String>,
    urgent: Option<String>,
    rules: Rules,
    is_budget_lifted: bool,
    /// How many pages its catalog may still grow by.
    room_pages: Option<u32>,
    check_in: Option<Duration>,
    /// With this it joins; none if it has.
    token: Option<String>,
    scan_every: Duration,
    bug: Option<Bug>,
    trace: Arc<Trace>,
    random: Random,
    process: Option<Arc<Process>>,
    running: Arc<Mutex<Running>>,
    /// What commands that are under way are to delete.
    deleted: Arc<Mutex<Vec<(String, String)>>>,
}

#[derive(Default)]
struct Running {
    agent: Weak<Agent>,
    ended: Option<String>,
}

/// What a device is made with.
pub(super) struct DeviceOptions {
    pub(super) scan_every: Duration,
    pub(super) subscription: Option<String>,
    /// What its link may carry.
    pub(super) rules: Rules,
    /// It checks in so often, instead of staying connected.
    pub(super) check_in: Option<Duration>,
    /// With this it has yet to join.
    pub(super) token: Option<String>,
    pub(super) bug: Option<Bug>,
    pub(super) trace: Arc<Trace>,
}

/// Somebody joins a device, and tries again until it works.
async fn join(agent: Arc<Agent>, token: String, name: String) {
    let request = serde_json::to_value(Request::Join { token, core: None, name: Some(name) }).expect("a request");
    let handler = Handler(agent);
    while handler.0.device().is_none() {
        let _ = handler.handle(request.clone(), ReplySender::ignored()).await;
        tokio::time::sleep(JOIN_EVERY).await;
    }
}

/// Lets an agent's catalog grow by so many pages at most.
fn limit(agent: &Agent, pages: Option<u32>) {
    agent.catalog().limit(pages).expect("a setting of SQLite");
}

/// A planted bug: the agent doesn't know any more what the month of its clock has cost.
fn forget_month(agent: &Agent) {
    let now_s = work::wall_clock().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let month = Month::at(i64::try_from(now_s).unwrap_or(i64::MAX));
    agent.catalog().put_meta(&format!("spent/{month}"), &0u64.to_le_bytes()).expect("forgotten");
}

impl DeviceOptions {
    /// A device without anything special.
    pub(super) fn new(trace: Arc<Trace>) -> Self {
        let scan_every = Duration::from_mins(1);
        Self { scan_every, subscription: None, rules: Rules::default(), check_in: None, token: None, bug: None, trace }
    }
}

impl DeviceMachine {
    pub(super) fn new(index: u8, machine: Machine, options: DeviceOptions, random: Random) -> Self {
        let DeviceOptions { scan_every, subscription, rules, check_in, token, bug, trace } = options;
        let root = folder().expect("a folder");
        Self {
            index,
            machine,
            root,
            folders: Vec::new(),
            mirrors: Vec::new(),
            subscription,
            urgent: None,
            rules,
            is_budget_lifted: false,
            room_pages: None,
            check_in,
            token,
            scan_every,
            bug,
            trace,
            random,
            process: None,
            running: Arc::default(),
            deleted: Arc::default(),
        }
    }

    /// What its link may carry, from the begin on.
    pub(super) fn rules(&self) -> Rules {
        self.rules
    }

    /// From its next start on a month may cost what it will; gives the rules that are left.
    pub(super) fn lift_budget(&mut self) -> Rules {
        self.is_budget_lifted = true;
        self.set_up();
        self.rules_now()
    }

    fn rules_now(&self) -> Rules {
        Rules { month_mib: self.rules.month_mib.filter(|_| !self.is_budget_lifted), ..self.rules }
    }

    /// Where its agent writes: its own data, and what it is subscribed to.
    pub(super) fn disk_folders(&self) -> [PathBuf; 2] {
        ["agent", "taken"].map(|name| self.path(name))
    }

    /// Bounds its catalog at so many bytes more than it has, or not, from now on.
    pub(super) fn fill(&mut self, room: Option<u64>) {
        self.room_pages = room.map(|room| u32::try_from(room / PAGE_BYTES).unwrap_or(u32::MAX));
        if let Some(agent) = self.agent() {
            limit(&agent, self.room_pages);
        }
    }

    /// A path on it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Gives it a folder.
    pub(super) fn add_folder(&mut self, folder: Folder, is_mirror: bool) {
        self.folders.push(folder);
        self.mirrors.push(is_mirror);
    }

    /// Makes a dataset one that goes before everything else.
    pub(super) fn set_urgent(&mut self, dataset: &str) {
        self.urgent = Some(dataset.to_owned());
    }

    /// Writes the settings before the first start; the device has joined then, unless it has a token.
    pub(super) fn set_up(&self) {
        let data = self.path("agent");
        std::fs::create_dir_all(data.join("identity")).expect("a folder");
        if self.token.is_none() && !self.is_budget_lifted {
            let card = Card { name: device_name(self.index), labels: Vec::new(), addresses: vec![CORE.to_string()] };
            Device::joined(&data, Identities::get().device(self.index).clone(), card).expect("it joins");
        }
        let every = self.scan_every.as_secs();
        // Writing into a string can't fail.
        let mut text = "[scan]\nthreads = 1\nwatch = false\nsettle = \"0s\"\n[link]\n".to_owned();
        let (keys, tables) = self.rules_now().settings(self.bug);
        text += &keys;
        if let Some(every) = self.check_in {
            let _ = writeln!(text, "check_in = \"{}s\"", every.as_secs());
        }
        text += &tables;
        for (folder, is_mirror) in self.folders.iter().zip(&self.mirrors) {
            let (path, dataset) = (folder.path.display(), &folder.dataset);
            let _ = if folder.is_local {
                write!(text, "[[local]]\nfolder = \"{path}\"\ndataset = \"{dataset}\"\n")
            } else {
                let mode = if *is_mirror { "mirror" } else { "append" };
                let urgent = self.urgent.as_ref() == Some(dataset);
                write!(
                    text,
                    "[[publish]]\nfolder = \"{path}\"\ndataset = \"{dataset}\"\nmode = \"{mode}\"\nevery = \"{every}s\"\n\
                     urgent = {urgent}\n"
                )
            };
        }
        if let Some(subscription) = &self.subscription {
            let to = self.path("taken");
            let _ = write!(text, "[[subscribe]]\ndataset = \"{subscription}\"\nto = \"{}\"\n", to.display());
        }
        std::fs::write(data.join("agent.toml"), text).expect("settings");
    }

    /// Starts the agent.
    pub(super) fn start(&mut self) {
        let forgets = (self.bug == Some(Bug::LosesWakeUps)).then_some(40);
        let name = device_name(self.index);
        let (process, token) =
            (Process::new(name.clone(), self.machine.clone(), self.random.split(), forgets), self.token.clone());
        *lock(&self.running) = Running::default();
        let (running, data) = (Arc::clone(&self.running), self.path("agent"));
        let (bug, room_pages) = (self.bug, self.room_pages);
        process.spawn(async move {
            let agent = match Agent::open(&data, None) {
                Ok(agent) => agent,
                Err(error) => {
                    lock(&running).ended = Some(error.to_string());
                    return;
                }
            };
            if bug == Some(Bug::ForgetsMonth) {
                forget_month(&agent);
            }
            if room_pages.is_some() {
                limit(&agent, room_pages);
            }
            agent.set_daemon();
            lock(&running).agent = Arc::downgrade(&agent);
            if let Some(token) = token {
                work::spawn(join(Arc::clone(&agent), token, name));
            }
            daemon::keep(agent).await;
            lock(&running).ended = Some("it ended by itself".to_owned());
        });
        self.process = Some(process);
    }

    /// Whether it has joined since this was asked last.
    pub(super) fn joined_now(&mut self) -> bool {
        let has_joined = self.token.is_some() && self.agent().is_some_and(|agent| agent.device().is_some());
        if has_joined {
            self.token = None;
        }
        has_joined
    }

    /// Kills the agent. What is committed in its catalog is durable, also when the power goes.
    pub(super) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Whether nothing of a killed process is left.
    pub(super) fn is_gone(&self) -> bool {
        self.process.is_none() && lock(&self.running).agent.strong_count() == 0
    }

    pub(super) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The running agent, if it has come so far.
    pub(super) fn agent(&self) -> Option<Arc<Agent>> {
        lock(&self.running).agent.upgrade()
    }

    /// Why the process ended by itself, if it did.
    pub(super) fn ended(&self) -> Option<String> {
        lock(&self.running).ended.take()
    }

    /// Sets its clock.
    pub(super) fn set_clock(&self, seconds: u64) {
        lock(&self.machine.clock).set(seconds);
    }

    /// What its clock shows.
    pub(super) fn clock(&self) -> Duration {
        lock(&self.machine.clock).now()
    }

    /// Somebody frees files by command.
    pub(super) fn free(&mut self, folder: usize) {
        let folder = &mut self.folders[folder];
        let paths = (0..3).filter_map(|_| folder.any()).collect();
        let request = Request::Free { dataset: folder.dataset.clone(), paths };
        self.command(request, Vec::new());
    }

    /// Somebody deletes a file by command.
    pub(super) fn delete(&mut self, folder: usize) {
        let folder = &mut self.folders[folder];
        if folder.files.len() < 2 {
            return;
        }
        let Some(path) = folder.any() else { return };
        let dataset = folder.dataset.clone();
        let request = Request::Delete { dataset: dataset.clone(), paths: vec![path.clone()] };
        self.command(request, vec![(dataset, path)]);
    }

    fn command(&self, request: Request, deletes: Vec<(String, String)>) {
        let (Some(process), Some(agent)) = (&self.process, self.agent()) else { return };
        let (deleted, trace) = (Arc::clone(&self.deleted), Arc::clone(&self.trace));
        process.spawn(async move {
            let request = serde_json::to_value(request).expect("a request");
            let answer = Handler(agent).handle(request.clone(), ReplySender::ignored()).await;
            trace
                .line(&format!("{request}: {}", answer.as_ref().map_or_else(ToString::to_string, ToString::to_string)));
            if answer.is_ok() {
                lock(&deleted).extend(deletes);
            }
        });
    }

    /// What commands have deleted since the last look. It is asked for before anybody writes: what is written afterwards under a
    /// deleted name is a new file.
    pub(super) fn deletions(&mut self) -> Vec<Fact> {
        let mut facts = Vec::new();
        for (dataset, path) in lock(&self.deleted).drain(..) {
            if let Some(folder) = self.folders.iter_mut().find(|folder| folder.dataset == dataset) {
                folder.files.remove(&path);
            }
            facts.push(Fact::Deleted { dataset, path });
        }
        facts
    }

    /// What became of files that commands took away: those that were to be deleted, and all others were freed.
    pub(super) fn taken_away(&mut self) -> Vec<Fact> {
        let mut facts = self.deletions();
        for folder in &mut self.folders {
            for (path, hash) in folder.gone() {
                folder.files.remove(&path);
                facts.push(Fact::Freed { dataset: folder.dataset.clone(), path, hash });
            }
        }
        facts
    }

    /// The receipts that its catalog has for the newest committed versions, but for those that are `known`.
    pub(super) fn receipts(&self, known: impl Fn(&str, VersionId) -> bool) -> Vec<Fact> {
        let Some(agent) = self.agent() else { return Vec::new() };
        let catalog = agent.catalog();
        let mut facts = Vec::new();
        for row in catalog.datasets().unwrap_or_default().into_iter().filter(|row| row.role == Role::Publish) {
            let Ok(Some(committed)) = catalog.committed(row.id) else { continue };
            if known(&row.name, committed.version) {
                continue;
            }
            let record = decode_stored::<CommitRecord>(&committed.record).ok();
            let Ok(receipt) = decode_stored::<Receipt>(&committed.receipt) else { continue };
            let authority = Identities::get().device(self.index).authority();
            let is_good = record.is_some_and(|record| receipt.verify(&record, authority).is_ok());
            facts.push(Fact::Receipt {
                dataset: row.name,
                number: committed.number,
                version: committed.version,
                is_good,
            });
        }
        facts
    }

    /// What the agent noted last, for the trace.
    pub(super) fn events(&self) -> Vec<String> {
        let Some(agent) = self.agent() else { return Vec::new() };
        let mut events = agent.catalog().events(40).unwrap_or_default();
        events.reverse();
        let root = self.root.path().display().to_string();
        let shown = |event: Event| format!("{} {} {}", event.at_s, event.dataset, event.text.replace(&root, "~"));
        events.into_iter().map(shown).collect()
    }

    /// What only it knows: its local datasets with their newest versions, and hashes of what is in them.
    pub(super) fn secrets(&self) -> (Vec<(String, VersionId)>, Vec<ChunkId>) {
        let (mut versions, mut hashes) = (Vec::new(), Vec::new());
        for folder in self.folders.iter().filter(|folder| folder.is_local) {
            hashes.extend(folder.files.values().copied());
            let Some(agent) = self.agent() else { continue };
            let rows = agent.catalog().datasets().unwrap_or_default();
            for row in rows.into_iter().filter(|row| row.role == Role::Local) {
                if let Ok(Some(version)) = agent.catalog().committed(row.id) {
                    let root = Manifest::decode(&version.manifest).ok().and_then(|manifest| manifest.root);
                    hashes.extend(root.map(|root| root.id));
                    versions.push((row.name, version.version));
                }
            }
        }
        (versions, hashes)
    }

    /// The versions that it holds of what it is subscribed to.
    pub(super) fn held(&self) -> Vec<Fact> {
        let Some(agent) = self.agent() else { return Vec::new() };
        let rows = agent.catalog().datasets().unwrap_or_default();
        let subscribed = rows.into_iter().filter(|row| row.role == Role::Subscribe);
        subscribed
            .filter_map(|row| {
                let files = contents::of_folder(&row.folder.join(CURRENT_LINK)).ok()?;
                Some(Fact::Held { device: self.index, dataset: row.name, files })
            })
            .collect()
    }

    /// A planted bug: the agent forgets that a file was freed.
    pub(super) fn forget_freed(&self, dataset: &str, path: &str) {
        let Some(agent) = self.agent() else { return };
        let catalog = agent.catalog();
        for row in catalog.datasets().unwrap_or_default().into_iter().filter(|row| row.name == dataset) {
            catalog.withdraw_freed(row.id, &[path.as_bytes().to_vec()]).expect("forgotten");
        }
    }
}
