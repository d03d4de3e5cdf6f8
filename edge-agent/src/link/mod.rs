//! The link's rules, carried out: [`policy`] says what may go over the link, this asks it and does what it says.
//!
//! [`keep`] looks again and again for as long as something may change. Sessions end themselves when the link closes, and
//! [`admit`] lets nobody begin one before it opens. What a closed link still lets out is the goodbye.

mod account;
pub mod policy;
mod spending;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headwater_host::error::{CodedError, codes};
use headwater_host::network;
use headwater_quic::{WireMeter, resolve, work};
use tokio::time::Instant;

use self::account::Account;
use self::policy::{Closed, Month, Now, Outlook, Verdict};
use self::spending::Spending;
use crate::agent::Agent;
use crate::blocking::blocking;
use crate::catalog::{Catalog, CatalogError};
use crate::settings::{LinkSettings, Settings};
use crate::{clock, watched};

/// How often the clock is asked: it may have been set.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked what a limited month has left.
const COUNT_EVERY: Duration = Duration::from_millis(100);
/// How long to wait when the catalog can't say what was spent.
const RETRY_EVERY: Duration = Duration::from_secs(10);
/// How long after the link has closed its socket still lets out goodbyes.
const GOODBYE: Duration = Duration::from_millis(500);

/// What goes over the link and what may.
pub(crate) struct Gate {
    meter: Arc<WireMeter>,
    outlook: watched::Sender<Option<Outlook>>,
    closed_since: Mutex<Option<Instant>>,
    spending: Mutex<Spending>,
    account: Arc<Account>,
    aim: Mutex<Aim>,
}

/// Where the core is.
#[derive(Default)]
struct Aim {
    /// Where it was looked for last.
    core: Option<IpAddr>,
    /// When its names were resolved last, for want of that.
    resolved: Option<Instant>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let meter = WireMeter::new();
        Self {
            account: Arc::new(Account::new(Arc::clone(&meter))),
            meter,
            outlook: watched::Sender::new(None),
            closed_since: Mutex::default(),
            spending: Mutex::default(),
            aim: Mutex::default(),
        }
    }

    /// Counts and caps what goes over the sockets to the core.
    pub(crate) fn meter(&self) -> &Arc<WireMeter> {
        &self.meter
    }

    /// What went over the link, by reason.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Why the link was closed when it was last looked.
    pub(crate) fn closed(&self) -> Option<Closed> {
        self.outlook.borrow().and_then(|outlook| closed(&outlook))
    }

    /// What the core may send in a second; none is no cap. A closed link has none: nothing is asked for over it.
    pub(crate) fn down_cap(&self) -> Option<u64> {
        self.outlook.borrow().as_ref().and_then(down_cap)
    }

    /// Resolves when what the core may send in a second is something else than `told`.
    pub(crate) async fn down_cap_other_than(&self, told: Option<u64>) -> Option<u64> {
        let mut outlook = self.outlook.subscribe();
        let is_other =
            |outlook: &Option<Outlook>| outlook.as_ref().is_some_and(|now| is_open(now) && down_cap(now) != told);
        if let Ok(now) = outlook.wait_for(is_other).await {
            return now.as_ref().and_then(down_cap);
        }
        std::future::pending().await
    }

    /// Whether only model updates may go, and until when, in seconds since the Unix epoch.
    pub(crate) fn reserved_until(&self) -> Option<i64> {
        self.outlook.borrow().filter(|outlook| outlook.is_reserve).and_then(|outlook| outlook.until_s)
    }

    /// Resolves when the link is closed, or open for something else than it is now: what is under way may be what it was open for.
    pub(crate) async fn closes(&self) {
        let mut outlook = self.outlook.subscribe();
        let is_reserve = |outlook: &Option<Outlook>| outlook.is_some_and(|outlook| outlook.is_reserve);
        let was_reserve = is_reserve(&self.outlook.borrow());
        let is_over = |now: &Option<Outlook>| now.as_ref().and_then(closed).is_some() || is_reserve(now) != was_reserve;
        if outlook.wait_for(is_over).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when the link is open for more than model updates.
    pub(crate) async fn opens_to_all(&self) {
        let mut outlook = self.outlook.subscribe();
        let is_open = |now: &Option<Outlook>| now.is_none_or(|now| is_open(&now) && !now.is_reserve);
        if outlook.wait_for(is_open).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when the link is open.
    pub(crate) async fn opens(&self) {
        let mut outlook = self.outlook.subscribe();
        if outlook.wait_for(|outlook| outlook.as_ref().and_then(closed).is_none()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The core is about to be looked for at this address: the interface that leads there counts from now on.
    pub(crate) fn aim(&self, core: IpAddr) {
        self.locked_aim().core = Some(core);
    }

    fn locked_aim(&self) -> MutexGuard<'_, Aim> {
        self.aim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was spent in a month, as far as it was counted.
    pub(crate) fn spent_bytes(&self, catalog: &Catalog, month: Month) -> Result<u64, CatalogError> {
        self.spending.lock().unwrap_or_else(PoisonError::into_inner).spent_in(catalog, month)
    }

    /// Keeps what was really spent, as before the process ends.
    pub(crate) fn settle(&self, catalog: &Catalog) -> Result<(), CatalogError> {
        self.spending.lock().unwrap_or_else(PoisonError::into_inner).settle(catalog, self.travelled_bytes())
    }

    /// What went over the sockets, sent and received.
    fn travelled_bytes(&self) -> u64 {
        let counts = self.meter.counts();
        counts.sent_bytes + counts.received_bytes
    }

    /// Takes what holds now.
    fn set(&self, outlook: Outlook) {
        let mut since = self.closed_since.lock().unwrap_or_else(PoisonError::into_inner);
        match outlook.verdict {
            Verdict::Open(caps) => {
                *since = None;
                self.meter.set_cap(caps.up_bytes_per_s);
            }
            Verdict::Closed(_) => {
                let is_first = self.outlook.borrow().is_none();
                if since.get_or_insert_with(Instant::now).elapsed() >= GOODBYE || is_first {
                    self.meter.set_cap(Some(0));
                }
            }
        }
        drop(since);
        self.outlook.send_if_modified(|known| known.replace(outlook) != Some(outlook));
    }
}

fn is_open(outlook: &Outlook) -> bool {
    closed(outlook).is_none()
}

fn down_cap(outlook: &Outlook) -> Option<u64> {
    match outlook.verdict {
        Verdict::Open(caps) => caps.down_bytes_per_s,
        Verdict::Closed(_) => None,
    }
}

fn closed(outlook: &Outlook) -> Option<Closed> {
    match outlook.verdict {
        Verdict::Closed(why) => Some(why),
        Verdict::Open(_) => None,
    }
}

/// Looks what may go over the link now, and sees to it.
pub(crate) async fn look(agent: &Arc<Agent>) -> Result<Outlook, CodedError> {
    let policy = agent.settings().link.policy();
    let now_s = clock::now_s();
    // A simulated world has no interfaces, and what this machine has is nothing to it.
    let is_asked = !policy.interfaces.is_empty() && work::process().is_none();
    let interface = if is_asked { interface_in_use(agent).await? } else { None };
    let interface = interface.as_deref();
    let (spent_bytes, update_waits) = if let Some(budget) = policy.budget {
        let (agent, month, is_metered) = (Arc::clone(agent), policy.month(now_s), policy.is_metered(interface));
        blocking(move || {
            let gate = agent.gate();
            let mut spending = gate.spending.lock().unwrap_or_else(PoisonError::into_inner);
            let travelled_bytes = gate.travelled_bytes();
            if !is_metered {
                spending.pass(travelled_bytes);
            }
            let spent_bytes = spending.count(&agent.catalog(), month, travelled_bytes)?;
            let update_waits = budget.is_spent(spent_bytes, false) && agent.update_waits();
            let left_bytes = is_metered.then(|| budget.left_at_socket(spent_bytes, update_waits));
            gate.meter.set_limit(left_bytes.map(|bytes| travelled_bytes.saturating_add(bytes)));
            Ok((spent_bytes, update_waits))
        })
        .await?
    } else {
        agent.gate().meter.set_limit(None);
        (0, false)
    };
    let outlook = policy.outlook(&Now { now_s, spent_bytes, is_model_update: update_waits, interface });
    agent.gate().set(outlook);
    Ok(outlook)
}

/// Whether the link costs nothing by the byte; none where interfaces matter and the one in use is not known.
pub(crate) async fn is_unmetered(agent: &Arc<Agent>) -> Option<bool> {
    let policy = agent.settings().link.policy();
    if policy.budget.is_none() && policy.interfaces.is_empty() {
        return Some(true);
    }
    let interface = interface_in_use(agent).await.ok().flatten();
    (policy.interfaces.is_empty() || interface.is_some()).then(|| !policy.is_metered(interface.as_deref()))
}

/// The interface that leads to the core, as far as that can be known.
async fn interface_in_use(agent: &Arc<Agent>) -> Result<Option<String>, CodedError> {
    let known = agent.gate().locked_aim().core;
    let core = match known {
        Some(core) => Some(core),
        None => resolved(agent).await,
    };
    match core {
        Some(core) => blocking(move || Ok(network::interface_to(core))).await,
        None => Ok(None),
    }
}

/// Where the core is by its names, if nobody has dialled it yet.
async fn resolved(agent: &Arc<Agent>) -> Option<IpAddr> {
    {
        let mut aim = agent.gate().locked_aim();
        if aim.resolved.is_some_and(|at| at.elapsed() < RETRY_EVERY) {
            return None;
        }
        aim.resolved = Some(Instant::now());
    }
    let device = agent.device()?;
    let settings = agent.settings();
    for address in settings.core.addresses_or(&device.card.addresses) {
        if let Some(candidate) = resolve(address).await.ok().and_then(|found| found.first().copied()) {
            agent.gate().aim(candidate.ip());
            return Some(candidate.ip());
        }
    }
    None
}

/// Looks again whenever something may have changed.
pub(crate) async fn keep(agent: Arc<Agent>) -> Infallible {
    let mut changes = agent.changes();
    loop {
        changes.mark_unchanged();
        let looked = look(&agent).await;
        let policy = agent.settings().link.policy();
        let every = match &looked {
            Err(_) => RETRY_EVERY,
            Ok(_) if policy.budget.is_some() => COUNT_EVERY,
            Ok(_) => LOOK_EVERY,
        };
        if let Err(error) = looked {
            agent.note_error("", &error);
        }
        tokio::select! {
            biased;
            _ = changes.changed() => {}
            () = tokio::time::sleep(every), if !policy.is_constant() => {}
        }
    }
}

/// Lets a connection begin, or says why none may.
pub(crate) async fn admit(agent: &Arc<Agent>) -> Result<(), CodedError> {
    let outlook = look(agent).await?;
    match waiting_for(&outlook, &agent.settings()) {
        None => Ok(()),
        Some(what) => {
            Err(CodedError::new(&codes::LINK_CLOSED, format!("nothing may go over the link now; it waits for {what}")))
        }
    }
}

/// A time as people read it, by their own clock, to the minute.
pub(crate) fn shown_at(at_s: i64, settings: &Settings) -> String {
    let utc_offset = &settings.link.utc_offset;
    let shown = clock::shown(at_s.saturating_add(i64::from(utc_offset.minutes) * 60));
    format!("{} (UTC{utc_offset})", shown.get(..16).unwrap_or(&shown))
}

/// What a closed link waits for, and when that ends.
pub(crate) fn waiting_for(outlook: &Outlook, settings: &Settings) -> Option<String> {
    let LinkSettings { budget, .. } = &settings.link;
    let until = outlook.until_s.map_or_else(String::new, |until_s| format!(" at {}", shown_at(until_s, settings)));
    match closed(outlook)? {
        Closed::Schedule => Some(format!("the schedule, which opens the link{until}")),
        Closed::Interface => Some("another network interface: the one in use has `up = \"0\"`".to_owned()),
        Closed::Budget => {
            let month = budget.as_ref().map_or_else(String::new, |budget| format!(" of {}", budget.month));
            Some(format!("the next month{until}: what may be spent{month} is spent"))
        }
    }
}
