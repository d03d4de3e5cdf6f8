//! Dialling several times at once: beside a session that is silent, and while a link that was good is gone. When to do what is
//! decided in [`headwater_protocol::sync`]; here it is done.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::sync::{ATTEMPTS_AT_ONCE_MAX, Attempts, Race, RaceStep};
use headwater_protocol::time::Timestamp;
use headwater_quic::work;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::session::Connected;
use crate::session::sync::{connect_with, own_names};

/// Attempts in a row after which it is said that the core can't be reached.
const ATTEMPTS_IN_A_ROW: u32 = 5;

/// Time for the rules, which know no clock.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn now(self) -> Timestamp {
        Timestamp::from_nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// How an attempt ended; none if it was given up for a newer one.
type Outcome = Option<Result<Arc<Connected>, CodedError>>;

/// The nonce that all attempts of one race show: the one that the device had when the first began.
#[derive(Default)]
struct OneNonce(Option<Vec<u8>>);

impl OneNonce {
    fn of(&mut self, read: impl FnOnce() -> Result<Vec<u8>, CodedError>) -> Result<Vec<u8>, CodedError> {
        match &self.0 {
            Some(shown) => Ok(shown.clone()),
            None => Ok(self.0.insert(read()?).clone()),
        }
    }
}

/// Attempts that are under way.
#[derive(Default)]
struct Dialling {
    shown: OneNonce,
    running: FuturesUnordered<BoxFuture<'static, Outcome>>,
    /// What gives each up when dropped; the oldest first.
    kept: Vec<oneshot::Sender<()>>,
}

impl Dialling {
    fn begin(&mut self, agent: &Arc<Agent>) {
        self.kept.retain(|attempt| !attempt.is_closed());
        if self.kept.len() >= ATTEMPTS_AT_ONCE_MAX {
            self.kept.remove(0);
        }
        let (keep, given_up) = oneshot::channel::<()>();
        self.kept.push(keep);
        let shown = self.shown.of(|| agent.joined()?.nonce());
        let agent = Arc::clone(agent);
        self.running.push(Box::pin(async move {
            let shown = match shown {
                Ok(shown) => shown,
                Err(error) => return Some(Err(error)),
            };
            let names = own_names(&agent.folders().0);
            tokio::select! {
                biased;
                outcome = connect_with(&agent, shown, &names) => Some(outcome),
                _ = given_up => None,
            }
        }));
    }

    fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The next attempt that ends by itself; waits for ever while there is none.
    async fn next(&mut self) -> Result<Arc<Connected>, CodedError> {
        loop {
            match self.running.next().await {
                Some(Some(outcome)) => return outcome,
                Some(None) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// Whether an error is about the way to the core: another attempt may well succeed.
pub(super) fn is_of_the_way(error: &CodedError) -> bool {
    error.is(&codes::CORE_UNREACHABLE) || error.is(&codes::SESSION_ENDED)
}

/// Opens a session on a link that was good not long ago: further attempts begin while the ones before still try, because each
/// alone waits twice as long before each further packet.
pub(super) async fn connect_soon(agent: &Arc<Agent>) -> Result<Arc<Connected>, CodedError> {
    let clock = Clock::start();
    let (mut attempts, mut dialling) = (Attempts::new(clock.now()), Dialling::default());
    let mut may_begin = true;
    loop {
        may_begin &= attempts.begun() < ATTEMPTS_IN_A_ROW;
        if may_begin && attempts.poll(clock.now(), work::random_byte()) {
            dialling.begin(agent);
        }
        let wait = attempts.next_at().since(clock.now());
        tokio::select! {
            biased;
            outcome = dialling.next() => match outcome {
                // Others may have been heard already: the core tells a hello that comes late to wait.
                Err(error) if error.is(&codes::TOO_BUSY) && !dialling.is_empty() => may_begin = false,
                Err(error) if is_of_the_way(&error) && (!dialling.is_empty() || may_begin) => {
                    tracing::debug!(%error, "an attempt to reach the core failed, others go on");
                }
                outcome => return outcome,
            },
            () = tokio::time::sleep(wait), if may_begin => {}
        }
    }
}

/// Watches a session, and dials others beside it while it is silent though something is under way. Gives the first that
/// stands.
pub(super) async fn race_when_silent(agent: &Arc<Agent>, connected: &Connected) -> Arc<Connected> {
    let clock = Clock::start();
    let link = &connected.link;
    let mut race = Race::new(clock.now(), link.stats().udp_bytes_received);
    let mut dialling = Dialling::default();
    loop {
        tokio::select! {
            biased;
            outcome = dialling.next() => match outcome {
                Ok(better) => return better,
                Err(error) => tracing::debug!(%error, "the session is silent, and an attempt beside it failed"),
            },
            () = tokio::time::sleep(Race::LOOK_EVERY) => {}
        }
        let stats = link.stats();
        race.handle_look(clock.now(), stats.transfers > 0 || link.is_asking(), stats.udp_bytes_received);
        if !race.is_on() {
            dialling = Dialling::default();
        }
        match race.poll(clock.now(), stats.rtt, work::random_byte()) {
            Some(RaceStep::Ask) => link.ask_for_sign(),
            Some(RaceStep::Dial) => dialling.begin(agent),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_attempts_of_a_race_show_one_nonce() {
        let mut shown = OneNonce::default();
        let failed = shown.of(|| Err(CodedError::new(&codes::READ_FAILED, "the disk failed")));
        assert!(failed.is_err());
        assert_eq!(shown.of(|| Ok(vec![1])).expect("read"), [1]);
        // Meanwhile another session has kept its own.
        assert_eq!(shown.of(|| Ok(vec![2])).expect("read already"), [1]);
    }
}
