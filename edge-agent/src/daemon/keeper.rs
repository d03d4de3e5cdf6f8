//! Keeping one folder's dataset up to date: at the start, when the folder changes, when the core is back, and every so
//! often.

use std::sync::Arc;
use std::time::Duration;

use headwater_host::control::ReplySender;
use headwater_host::watch::Again;
use headwater_quic::work;
use tokio::sync::Notify;

use super::backoff::Backoff;
use crate::agent::{Agent, Folder, LinkState};
use crate::session::Connected;
use crate::session::collect::Collector;
use crate::session::publish::{Rounds, publish};
use crate::watched;

/// The longest wait after something went wrong with a folder.
const RETRY_LONGEST: Duration = Duration::from_mins(2);
/// Added to the time in which files will have settled, so that the scan then finds them so.
const SETTLE_MARGIN: Duration = Duration::from_millis(50);

/// Keeps one folder until dropped. `changed` is notified when something in it changed, as far as it is watched.
pub(super) async fn keep(agent: Arc<Agent>, folder: Folder, changed: Arc<Notify>, watches: Option<Again>) {
    let name = folder.dataset.as_str().to_owned();
    let mut backoff = Backoff::up_to(RETRY_LONGEST);
    let mut link = agent.link().subscribe();
    loop {
        let used = link.borrow_and_update().connected.clone();
        let access = agent.current_access();
        let collector = Collector::new(ReplySender::ignored());
        let rounds = Rounds { settle: false };
        let work = || Box::pin(publish(&agent, &folder, access.as_ref(), rounds, &collector));
        let at_work = agent.begin_work();
        let outcome = agent.healing(work).await;
        drop(at_work);
        let (wait, is_settling) = match outcome {
            Ok(settled_in) => {
                backoff.reset();
                agent.set_folder_problem(&name, None);
                (settled_in.map_or(folder.every, |wait| wait + SETTLE_MARGIN), settled_in.is_some())
            }
            Err(error) => {
                agent.note_error(&name, &error);
                agent.set_folder_problem(&name, Some(&error));
                (backoff.next(work::random_byte()), false)
            }
        };
        crate::session::sync::count_wire(&agent, &collector);
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait.min(folder.every)) => {
                // Not each time that files settle: that comes of a hint, so the watch stands, and to look it over costs a walk.
                if let Some(watches) = watches.as_ref().filter(|_| !is_settling) {
                    watches.rescanning(&folder.path);
                }
            }
            () = changed.notified() => {}
            () = session_begins(&mut link, used.as_ref()) => {}
        }
    }
}

/// Resolves when there is another session than the one that was used.
async fn session_begins(link: &mut watched::Receiver<LinkState>, used: Option<&Arc<Connected>>) {
    let is_new = |state: &LinkState| {
        state.connected.as_ref().is_some_and(|now| !used.is_some_and(|used| Arc::ptr_eq(used, now)))
    };
    if link.wait_for(is_new).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::sync::peer_status;

    /// The problem that a kept folder which isn't there leaves behind: for the device's own status, and for the core.
    async fn problems_of_a_missing_folder(kind: &str) -> (String, String) {
        let data = tempfile::tempdir().expect("a folder");
        let missing = data.path().join("diary-of-a-spy");
        let settings = format!("[[{kind}]]\nfolder = \"{}\"\ndataset = \"data\"\n", missing.display());
        std::fs::write(data.path().join("agent.toml"), settings).expect("written");
        let agent = Agent::open(data.path(), None).expect("opened");
        let folder = agent.folder("data").expect("configured");
        let task = tokio::spawn(keep(Arc::clone(&agent), folder, Arc::default(), None));
        let status = loop {
            if let Some(problem) = agent.status().expect("a status").last_error {
                break problem.message;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        task.abort();
        (status, peer_status(&agent).await.last_error)
    }

    #[tokio::test]
    async fn what_goes_wrong_with_a_local_folder_is_not_told_to_the_core() {
        let (here, told) = problems_of_a_missing_folder("local").await;
        assert!(here.contains("diary-of-a-spy"), "{here}");
        assert_eq!(told, "");
        let (here, told) = problems_of_a_missing_folder("publish").await;
        assert!(told.contains(&here), "{told}");
    }
}
