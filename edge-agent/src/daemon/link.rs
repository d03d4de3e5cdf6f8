//! Keeping a session with the core: dialling again after each end, with back-off and jitter.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use headwater_host::error::{CodedError, codes};
use headwater_host::systemd;
use headwater_protocol::sync::{Tries, retry_within};
use headwater_protocol::wire::PeerStatus;
use headwater_quic::work;
use tokio::time::Instant;

use super::backoff::{self, Backoff};
use super::race::{connect_soon, is_of_the_way, race_when_silent};
use crate::agent::{Agent, LinkState, problem};
use crate::blocking::blocking;
use crate::catalog::EventLevel;
use crate::session::Connected;
use crate::session::sync::{connect, own_names, peer_status};
use crate::watched;

/// A session that lasted this long was a good one: when it ends, the link is tried at once and often for a while.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// How often the core is told how this device is, if something changed that nobody announced or something still waits.
const STATUS_EVERY: Duration = Duration::from_mins(1);
/// How often it is looked whether anything is still done in a check-in, and after how many such looks it is over.
const QUIET_LOOK_EVERY: Duration = Duration::from_millis(250);
const QUIET_LOOKS: u32 = 4;
/// How long a goodbye may take.
const GOODBYE_WAIT: Duration = Duration::from_secs(1);
/// A check-in comes later than asked for by up to this part of the time between two.
const CHECK_IN_JITTER: u32 = 16;
/// How long news of what waits to be sent are gathered before the core hears of them.
const STATUS_GATHERED_FOR: Duration = Duration::from_secs(2);

/// Keeps a session for as long as the daemon runs. Where the core says that this device is not welcome any more, it knocks
/// again only when something changes here, as when the device has joined anew: the rest of the daemon goes on, since
/// local datasets need no core.
pub(super) async fn keep(agent: Arc<Agent>) -> Infallible {
    let mut history = History::default();
    let mut changes = agent.changes();
    loop {
        changes.mark_unchanged();
        if agent.device().is_none() {
            set(&agent, LinkState { waiting_for: "this device to join a core".to_owned(), ..LinkState::default() });
            let _ = changes.changed().await;
            continue;
        }
        if link_is_closed(&agent).await {
            tokio::select! {
                biased;
                () = agent.gate().opens() => {}
                _ = changes.changed() => {}
            }
            continue;
        }
        let (began, check_in) = (Instant::now(), agent.settings().link.check_in.map(|every| every.0));
        // Who checks in seldom knocks seldom at a core that is gone, too.
        history.backoff.grow_to(check_in.unwrap_or_default().max(backoff::LONGEST));
        let error = match dial_and_hold(&agent, &mut history, &mut changes, check_in.is_some()).await {
            End::Broke(error) => error,
            End::Over => {
                until_check_in(&agent, &mut changes, began, check_in.unwrap_or_default()).await;
                continue;
            }
        };
        if agent.device().is_none() || agent.gate().closed().is_some() {
            continue;
        }
        if is_final(&error) {
            say_refused(&agent, &error);
            let _ = changes.changed().await;
            continue;
        }
        history.tries = history.tries.after(!is_of_the_way(&error));
        let longest = history.retry_within(&agent).await;
        let wait = history.backoff.next(work::random_byte()).min(longest.unwrap_or(Duration::MAX));
        say_unreachable(&agent, &error, wait);
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => {}
            _ = changes.changed() => {}
        }
    }
}

/// How the sessions went so far: what says how soon the next one is tried.
#[derive(Default)]
struct History {
    backoff: Backoff,
    tries: Tries,
    good_until: Option<Instant>,
}

impl History {
    /// Within what time a new session is wanted, where one is wanted soon.
    async fn retry_within(&self, agent: &Arc<Agent>) -> Option<Duration> {
        retry_within(work_waits(agent).await, self.good_until.map(|until| until.elapsed()), self.tries)
    }
}

/// Whether the policies keep the link closed now; says so where they do.
async fn link_is_closed(agent: &Arc<Agent>) -> bool {
    let settings = agent.settings();
    match crate::link::look(agent).await.map(|outlook| crate::link::waiting_for(&outlook, &settings)) {
        Ok(None) => false,
        Ok(Some(waiting_for)) => {
            agent.note_once(
                EventLevel::Info,
                "",
                "",
                format!("nothing may go over the link: it waits for {waiting_for}"),
            );
            set(agent, LinkState { waiting_for, ..LinkState::default() });
            systemd::status("waiting for the link to open");
            true
        }
        // The spending is unknown now; the gate stays as it was.
        Err(error) => {
            agent.note_error("", &error);
            false
        }
    }
}

/// Dials the core and holds the session until it ends, or, where it is a check-in, is over.
async fn dial_and_hold(
    agent: &Arc<Agent>,
    history: &mut History,
    changes: &mut watched::Receiver<u64>,
    is_check_in: bool,
) -> End {
    let key = || agent.device().map(|device| device.identity.public_key());
    let dialled_as = key();
    let connected = match history.retry_within(agent).await {
        Some(_) => Box::pin(connect_soon(agent)).await,
        None => Box::pin(connect(agent, &own_names(&agent.folders().0))).await,
    };
    let connected = match connected {
        Ok(connected) => connected,
        Err(error) => return End::Broke(error),
    };
    if key() != dialled_as {
        connected.link.close("the device left");
        return End::Broke(CodedError::new(&codes::NOT_JOINED, "this device left its core while it was being dialled"));
    }
    // What the welcome brought is no reason to come again.
    changes.mark_unchanged();
    let began = Instant::now();
    let end = Box::pin(hold(agent, connected, is_check_in)).await;
    let lasted = began.elapsed();
    history.backoff.was_there(lasted);
    if matches!(end, End::Over) || lasted >= GOOD_SESSION {
        *history = History { good_until: Some(Instant::now()), ..History::default() };
    }
    end
}

/// The core will not have this device.
fn say_refused(agent: &Agent, error: &CodedError) {
    agent.note(EventLevel::Error, &error.code, "", crate::agent::one_line(error));
    let waiting_for = "this device to join again: the core will not have it".to_owned();
    let problem = Some(problem("", error));
    set(agent, LinkState { waiting_for, problem, refused: true, ..LinkState::default() });
    systemd::status("refused by the core");
}

/// There is no session now, and the next try is in `wait`.
fn say_unreachable(agent: &Agent, error: &CodedError, wait: Duration) {
    let line = format!("no session with the core: {}", crate::agent::one_line(error));
    agent.note_once(EventLevel::Info, &error.code, "", line);
    let waiting_for = format!("the core; the next try is in {} s", wait.as_secs().max(1));
    set(agent, LinkState { waiting_for, problem: Some(problem("", error)), ..LinkState::default() });
    systemd::status("waiting for the core");
}

/// How a session ended.
enum End {
    /// By itself.
    Broke(CodedError),
    /// This device ended it, because nothing was left to do.
    Over,
}

/// Holds a session until it ends, and says why it did; one that is a check-in, until nothing is left to do. A session that falls
/// silent in the middle of a transfer is replaced as soon as another one stands.
async fn hold(agent: &Arc<Agent>, connected: Arc<Connected>, is_check_in: bool) -> End {
    let only = agent.gate().reserved_until().map(|until_s| {
        let until = crate::link::shown_at(until_s, &agent.settings());
        format!(", for model updates alone until {until}: the rest of the month's bytes is spent")
    });
    agent.note_once(EventLevel::Info, "", "", format!("connected to the core{}", only.unwrap_or_default()));
    systemd::status("connected");
    let mut connected = connected;
    loop {
        set(agent, LinkState { connected: Some(Arc::clone(&connected)), ..LinkState::default() });
        let mut telling = Telling(peer_status(agent).await);
        let outcome = tokio::select! {
            biased;
            ended = connected.link.ended() => Err(End::Broke(ended.to_error())),
            better = Box::pin(race_when_silent(agent, &connected)) => Ok(better),
            () = nothing_is_left(agent, &connected), if is_check_in => Err(End::Over),
            never = telling.keep(agent, &connected) => match never {},
        };
        if let Err(End::Over) = outcome {
            // Whether the core hears of it makes no difference to what is over.
            let _ = telling.tell(agent, &connected).await;
            connected.link.close("all is done until the next check-in");
            let _ = tokio::time::timeout(GOODBYE_WAIT, connected.link.ended()).await;
        }
        crate::session::sync::count_session(agent, &connected.link);
        match outcome {
            Ok(better) => {
                agent.note(EventLevel::Info, "", "", "the session was silent; a new one took its place");
                connected.link.replace();
                connected = better;
            }
            Err(end) => return end,
        }
    }
}

/// Resolves when nobody has done anything over the session for a moment.
async fn nothing_is_left(agent: &Agent, connected: &Connected) {
    let mut quiet = 0;
    while quiet < QUIET_LOOKS {
        tokio::time::sleep(QUIET_LOOK_EVERY).await;
        let is_quiet = !agent.is_at_work() && connected.link.stats().transfers == 0;
        quiet = if is_quiet { quiet + 1 } else { 0 };
    }
}

/// Waits until the next check-in is due, or something here changed. Each comes a little later than it was asked for, so that the
/// devices of a fleet that were started at once don't all come at once for ever.
async fn until_check_in(agent: &Agent, changes: &mut watched::Receiver<u64>, began: Instant, every: Duration) {
    let due = began + every + every / CHECK_IN_JITTER * u32::from(work::random_byte()) / 255;
    let in_s = due.saturating_duration_since(Instant::now()).as_secs();
    let at = crate::link::shown_at(crate::clock::now_s().saturating_add_unsigned(in_s), &agent.settings());
    set(agent, LinkState { waiting_for: format!("the next check-in at {at}"), ..LinkState::default() });
    systemd::status("waiting for the next check-in");
    tokio::select! {
        biased;
        () = tokio::time::sleep_until(due) => {}
        _ = changes.changed() => {}
    }
}

/// Tells the core how this device is, when that changes; what it was told last.
struct Telling(PeerStatus);

impl Telling {
    async fn keep(&mut self, agent: &Arc<Agent>, connected: &Connected) -> Infallible {
        loop {
            tokio::select! {
                biased;
                () = agent.unsent_changed() => tokio::time::sleep(STATUS_GATHERED_FOR).await,
                () = tokio::time::sleep(STATUS_EVERY) => {}
            }
            agent.keep_account();
            if self.tell(agent, connected).await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn tell(&mut self, agent: &Arc<Agent>, connected: &Connected) -> Result<(), CodedError> {
        let status = peer_status(agent).await;
        let Self(said) = self;
        // What waits grows older, and the core knows only what it was told.
        let is_older = status.oldest_unsent_s >= said.oldest_unsent_s + STATUS_EVERY.as_secs();
        if is_older || status.backlog_bytes != said.backlog_bytes || status.last_error != said.last_error {
            connected.link.send_status(status.clone()).await?;
            *said = status;
        }
        Ok(())
    }
}

/// Whether something is to go to the core, or something that it has is missing here.
async fn work_waits(agent: &Arc<Agent>) -> bool {
    let looking = Arc::clone(agent);
    agent.unsent_since().is_some() || blocking(move || looking.misses_something()).await.unwrap_or(false)
}

/// Whether knocking again is of no use: the core has said that it will not have this device.
fn is_final(error: &CodedError) -> bool {
    error.is(&codes::DEVICE_REVOKED) || error.is(&codes::IDENTITY_CLONED) || error.is(&codes::UNKNOWN_DEVICE)
}

fn set(agent: &Agent, state: LinkState) {
    agent.link().send_replace(state);
}
