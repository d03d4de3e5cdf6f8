//! Keeping the subscriptions up to date: following them in each session, and fetching what the core has news of.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use headwater_host::control::ReplySender;
use headwater_host::error::{CodedError, codes};
use headwater_protocol::wire::News;
use headwater_quic::work;

use super::backoff::Backoff;
use crate::agent::{Agent, Subscription, problem};
use crate::catalog::EventLevel;
use crate::session::Connected;
use crate::session::collect::Collector;
use crate::session::subscribe::{fetch, wanted};
use crate::session::sync::count_wire;

/// The longest wait after something went wrong.
const RETRY_LONGEST: Duration = Duration::from_mins(2);

/// Keeps the subscriptions until dropped.
pub(super) async fn keep(agent: Arc<Agent>, subscriptions: Vec<Subscription>) {
    let mut link = agent.link().subscribe();
    let mut backoff = Backoff::up_to(RETRY_LONGEST);
    loop {
        let connected = match link.wait_for(|state| state.connected.is_some()).await {
            Ok(state) => state.connected.clone(),
            Err(_) => return,
        };
        let Some(connected) = connected else { continue };
        while !connected.link.has_ended() {
            let Err(error) = Box::pin(follow(&agent, &subscriptions, &connected, &mut backoff)).await;
            if connected.link.has_ended() {
                break;
            }
            // The session lives on, so the next try is in it.
            agent.note_error("", &error);
            tokio::select! {
                biased;
                () = tokio::time::sleep(backoff.next(work::random_byte())) => {}
                _ = connected.link.ended() => {}
            }
        }
        // The link's own task notices the end too; until it has, there is nothing to do here.
        let _ = link.wait_for(|state| !state.connected.as_ref().is_some_and(|now| Arc::ptr_eq(now, &connected))).await;
    }
}

/// Follows for as long as the session lasts.
async fn follow(
    agent: &Arc<Agent>,
    subscriptions: &[Subscription],
    connected: &Arc<Connected>,
    backoff: &mut Backoff,
) -> Result<Infallible, CodedError> {
    if agent.gate().reserved_until().is_some() {
        return Err(connected.link.ended().await.to_error());
    }
    let names: Vec<String> = subscriptions.iter().map(|subscription| subscription.name.clone()).collect();
    let mut at_work = Some(agent.begin_work());
    let (mut seen, unmatched) = connected.link.follow(&names).await?;
    for name in unmatched {
        let text = format!("the core has nothing for the subscription `{name}` yet");
        agent.note_once(EventLevel::Info, codes::NOT_FOUND.code, &name, text);
    }
    let mut changes = agent.changes();
    loop {
        changes.mark_unchanged();
        let at_work = at_work.take().unwrap_or_else(|| agent.begin_work());
        let all_well = take(agent, subscriptions, &seen, connected).await;
        drop(at_work);
        if all_well {
            backoff.reset();
            tokio::select! {
                biased;
                news = connected.link.news_after(&seen) => seen = news?,
                // Something here changed, as after damage was found.
                _ = changes.changed() => {}
            }
        } else {
            tokio::select! {
                biased;
                () = tokio::time::sleep(backoff.next(work::random_byte())) => {}
                ended = connected.link.ended() => return Err(ended.to_error()),
            }
            seen = connected.link.following();
        }
    }
}

/// Fetches what is newer than what is here, one dataset after the other. False if something went wrong.
async fn take(
    agent: &Arc<Agent>,
    subscriptions: &[Subscription],
    following: &[News],
    connected: &Arc<Connected>,
) -> bool {
    let mut all_well = true;
    for wanted in wanted(agent, subscriptions, following) {
        let dataset = &wanted.newest.dataset;
        let collector = Collector::new(ReplySender::ignored());
        let work = || Box::pin(fetch(agent, &wanted, &connected.link, &collector));
        if let Err(error) = agent.healing(work).await {
            all_well = false;
            agent.note_error(dataset, &error);
            agent.link().send_if_modified(|state| {
                state.problem = Some(problem(dataset, &error));
                false
            });
        }
        count_wire(agent, &collector);
    }
    all_well
}
