//! Keeping one folder's dataset up to date: at the start, when the folder changes, when the core is back, and every so
//! often.

use std::sync::Arc;
use std::time::Duration;

use headwater_host::control::ReplySender;
use tokio::sync::{Notify, watch};

use super::backoff::{Backoff, random};
use crate::agent::{Agent, Folder, LinkState, problem};
use crate::session::Connected;
use crate::session::collect::Collector;
use crate::session::publish::{Rounds, publish};

/// The longest wait after something went wrong with a folder.
const RETRY_LONGEST: Duration = Duration::from_mins(2);
/// Added to the time in which files will have settled, so that the scan then finds them so.
const SETTLE_MARGIN: Duration = Duration::from_millis(50);

/// Keeps one folder until dropped. `changed` is notified when something in it changed.
pub(super) async fn keep(agent: Arc<Agent>, folder: Folder, changed: Arc<Notify>) {
    let name = folder.dataset.as_str().to_owned();
    let mut backoff = Backoff::up_to(RETRY_LONGEST);
    let mut link = agent.link().subscribe();
    loop {
        let used = link.borrow_and_update().connected.clone();
        let access = agent.current_access();
        let collector = Collector::new(ReplySender::ignored());
        let rounds = Rounds { settle: false };
        let work = || Box::pin(publish(&agent, &folder, access.as_ref(), rounds, &collector));
        let wait = match agent.healing(work).await {
            Ok(settled_in) => {
                backoff.reset();
                settled_in.map_or(folder.every, |wait| (wait + SETTLE_MARGIN).min(folder.every))
            }
            Err(error) => {
                agent.note_error(&name, &error);
                agent.link().send_if_modified(|state| {
                    state.problem = Some(problem(&name, &error));
                    false
                });
                backoff.next(random()).min(folder.every)
            }
        };
        crate::session::sync::count_wire(&agent, &collector);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = changed.notified() => {}
            () = session_begins(&mut link, used.as_ref()) => {}
        }
    }
}

/// Resolves when there is another session than the one that was used.
async fn session_begins(link: &mut watch::Receiver<LinkState>, used: Option<&Arc<Connected>>) {
    let is_new = |state: &LinkState| {
        state.connected.as_ref().is_some_and(|now| !used.is_some_and(|used| Arc::ptr_eq(used, now)))
    };
    if link.wait_for(is_new).await.is_err() {
        std::future::pending::<()>().await;
    }
}
