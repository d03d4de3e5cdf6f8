//! Everything once: scan all folders, exchange what is new with the core, report.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use headwater_host::control::ReplySender;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::federated::TrainingMessage;
use headwater_protocol::id::VersionId;
use headwater_protocol::name::NamePattern;
use headwater_protocol::trust::is_older_nonce;
use headwater_protocol::wire::PeerStatus;
use headwater_quic::session::SessionHandle;
use headwater_quic::work;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use super::collect::Collector;
use super::dial::Dialled;
use super::link::{Fetches, Link};
use super::publish::{Rounds, publish, serve_fetch};
use super::subscribe::{fetch, wanted};
use super::{Access, Connected};
use crate::agent::{Agent, Folder, Subscription};
use crate::blocking::blocking;
use crate::catalog::Role;
use crate::request::SyncReport;

/// Folders and subscriptions that are worked on at once.
const TASKS_MAX: usize = 4;

/// Does everything once. `access` is the daemon's session; without one this dials for itself.
pub async fn sync(agent: &Arc<Agent>, access: Option<Access>, reply: ReplySender) -> SyncReport {
    let began = Instant::now();
    let _at_work = agent.begin_work();
    let collector = Collector::new(reply);
    let (folders, problems) = agent.folders();
    for (name, error) in &problems {
        collector.problem(name, error);
    }
    let subscriptions = agent.subscriptions();
    let needs_core = !subscriptions.is_empty() || folders.iter().any(|folder| folder.role == Role::Publish);
    let own = access.is_none();
    let access = access
        .filter(|_| needs_core)
        .or_else(|| (own && needs_core && agent.device().is_some()).then(|| dialling(agent, &folders)));
    if needs_core && access.is_none() {
        collector.problem("", &CodedError::new(&codes::NOT_JOINED, "this device has not joined a core"));
    }
    // The daemon has somebody who sees to it that nothing is sent when nothing may be.
    let _keeping = own.then(|| Keeping(work::spawn(crate::link::keep(Arc::clone(agent)))));
    let before = match &access {
        Some(access) if !own => access.connected().await.ok().map(|connected| connected.link.stats()),
        _ => None,
    };
    let mut tasks = JoinSet::new();
    let slots = Arc::new(Semaphore::new(TASKS_MAX));
    for folder in folders {
        let (agent, access, collector, slots) =
            (Arc::clone(agent), access.clone(), collector.clone(), Arc::clone(&slots));
        work::spawn_on(&mut tasks, async move {
            let _slot = slots.acquire().await;
            let name = folder.dataset.as_str().to_owned();
            let access = access.as_ref();
            let rounds = Rounds { settle: true };
            let work = || Box::pin(publish(&agent, &folder, access, rounds, &collector));
            if let Err(error) = agent.healing(work).await {
                agent.note_error(&name, &error);
                collector.problem(&name, &error);
            }
        });
    }
    if let Some(access) = &access
        && !subscriptions.is_empty()
    {
        let (agent, access, collector) = (Arc::clone(agent), access.clone(), collector.clone());
        work::spawn_on(&mut tasks, async move {
            if let Err(error) = subscribe_once(&agent, &subscriptions, &access, &collector).await {
                agent.note_error("", &error);
                collector.problem("", &error);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    finish(agent, access, own, before.map_or(0, |stats| stats.udp_bytes_sent + stats.udp_bytes_received), &collector)
        .await;
    let mut report = collector.report();
    report.duration_ms = began.elapsed().as_millis() as u64;
    report
}

/// Keeps the link's rules until it is dropped.
struct Keeping(JoinHandle<Infallible>);

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Counts the session's bytes, and ends it if it was dialled for this.
async fn finish(agent: &Arc<Agent>, access: Option<Access>, own: bool, udp_before: u64, collector: &Collector) {
    let Some(access) = access else { return };
    let Ok(connected) = access.connected().await else { return };
    let stats = connected.link.stats();
    collector.with(|report| {
        report.wire.udp = (stats.udp_bytes_sent + stats.udp_bytes_received).saturating_sub(udp_before);
    });
    count_wire(agent, collector);
    if own {
        count_session(agent, &connected.link);
        connected.link.close("the work is done");
    }
}

/// Counts what came and was of no use.
pub(crate) fn count_wire(agent: &Agent, collector: &Collector) {
    agent.gate().account().received_in_vain(collector.with(|report| report.wire.wasted));
}

/// Counts what was lost in a session that ends.
pub(crate) fn count_session(agent: &Agent, link: &Link) {
    agent.gate().account().session_ended(link.stats().lost_bytes);
}

/// A session that is being dialled for `folders`.
pub(crate) fn dialling(agent: &Arc<Agent>, folders: &[Folder]) -> Access {
    let agent = Arc::clone(agent);
    let names = own_names(folders);
    Access::new(async move { connect(&agent, &names).await })
}

/// Dials, and asks for the heads of this device's own datasets.
pub(crate) async fn connect(agent: &Arc<Agent>, names: &[String]) -> Result<Arc<Connected>, CodedError> {
    let shown = agent.joined()?.nonce()?;
    connect_with(agent, shown, names).await
}

/// The same, showing the nonce that the device had when this race began: each attempt of it must show the same, or the
/// core takes the one whose hello comes late for a clone. Who gets the session has won; its nonce is kept, no other.
pub(crate) async fn connect_with(
    agent: &Arc<Agent>,
    shown: Vec<u8>,
    names: &[String],
) -> Result<Arc<Connected>, CodedError> {
    let device = agent.joined()?;
    let fetches: Arc<dyn Fetches> = Arc::new(ServeFetches(Arc::clone(agent)));
    let Dialled { link, nonce } = super::dial::dial(agent, shown, peer_status(agent).await, fetches).await?;
    let mut unused = Unused(Some(link.clone()));
    let connected = Connected::new(link, names).await?;
    // Nothing is waited for from here on, so whoever gets this far is the one whose session is taken.
    // Sessions that are begun at once, as by a race and beside it, are welcomed in any order.
    if !is_older_nonce(&nonce, &device.nonce()?) {
        device.save_nonce(&nonce)?;
    }
    unused.0 = None;
    Ok(Arc::new(connected))
}

/// Ends a session that nobody came to use, as where another attempt was faster: it would live on without its handles.
struct Unused(Option<Link>);

impl Drop for Unused {
    fn drop(&mut self) {
        if let Some(link) = self.0.take() {
            link.close("nobody waits for this session any more");
        }
    }
}

/// The names of the datasets that this device publishes.
pub(crate) fn own_names(folders: &[Folder]) -> Vec<String> {
    let published = folders.iter().filter(|folder| folder.role == Role::Publish);
    published.map(|folder| folder.dataset.as_str().to_owned()).collect()
}

/// What this device tells the core of itself.
pub(crate) async fn peer_status(agent: &Arc<Agent>) -> PeerStatus {
    let looked = {
        let agent = Arc::clone(agent);
        blocking(move || Ok((agent.backlog_bytes(), agent.oldest_unsent_s(), agent.disk_free_bytes()))).await
    };
    let (backlog_bytes, oldest_unsent_s, disk_free_bytes) = looked.unwrap_or_default();
    let of_link = agent.link().borrow().problem.clone();
    let problem = of_link.or_else(|| agent.folder_problem(|role| role == Role::Publish));
    PeerStatus {
        release: env!("CARGO_PKG_VERSION").to_owned(),
        backlog_bytes,
        oldest_unsent_s,
        disk_free_bytes,
        last_error: problem.map(|problem| format!("{} {}", problem.code, problem.message)).unwrap_or_default(),
    }
}

async fn subscribe_once(
    agent: &Arc<Agent>,
    subscriptions: &[Subscription],
    access: &Access,
    collector: &Collector,
) -> Result<(), CodedError> {
    let connected = access.connected().await?;
    let names: Vec<String> = subscriptions.iter().map(|subscription| subscription.name.clone()).collect();
    let (following, unmatched) = connected.link.follow(&names).await?;
    for name in unmatched {
        // A pattern may well match nothing yet; a name was meant.
        if NamePattern::new(name.as_str()).is_ok_and(|pattern| !pattern.is_plain()) {
            collector.say(format!("nothing matches the subscription `{name}` yet"));
            continue;
        }
        let error =
            CodedError::new(&codes::NOT_FOUND, format!("the core has nothing for the subscription `{name}` yet"));
        collector.problem(&name, &error);
    }
    let mut tasks = JoinSet::new();
    let slots = Arc::new(Semaphore::new(TASKS_MAX));
    for wanted in wanted(agent, subscriptions, &following) {
        let (agent, connected, collector, slots) =
            (Arc::clone(agent), Arc::clone(&connected), collector.clone(), Arc::clone(&slots));
        work::spawn_on(&mut tasks, async move {
            let _slot = slots.acquire().await;
            let work = || Box::pin(fetch(&agent, &wanted, &connected.link, &collector));
            if let Err(error) = agent.healing(work).await {
                agent.note_error(&wanted.newest.dataset, &error);
                collector.problem(&wanted.newest.dataset, &error);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

struct ServeFetches(Arc<Agent>);

impl Fetches for ServeFetches {
    fn fetch(&self, handle: SessionHandle, transfer: u32, dataset: String, version: VersionId) {
        serve_fetch(&self.0, handle, transfer, dataset, version);
    }

    fn hear(&self, message: TrainingMessage) {
        self.0.training().hear(message);
    }
}
