//! Keeps a task for each folder and one for the subscriptions, in line with the settings, and passes on what the file
//! system says of changes.

use std::path::PathBuf;
use std::sync::Arc;

use headwater_host::watch::{Again, Hint, Watch};
use headwater_quic::work;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{keeper, subscriptions};
use crate::agent::{Agent, Folder, Subscription};

struct Kept {
    folder: Folder,
    changed: Arc<Notify>,
    task: JoinHandle<()>,
}

struct Subscribed {
    subscriptions: Vec<Subscription>,
    task: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Supervises until dropped.
pub(super) async fn supervise(agent: Arc<Agent>) {
    let mut changes = agent.changes();
    let settings = agent.settings();
    let mut watch = settings.scan.watch.then(|| Watch::new(settings.scan.settle.0));
    drop(settings);
    let mut kept: Vec<Kept> = Vec::new();
    let mut subscribed: Option<Subscribed> = None;
    loop {
        changes.mark_unchanged();
        let (folders, problems) = agent.folders();
        for (name, error) in problems {
            agent.note_error(&name, &error);
        }
        let gone: Vec<PathBuf> =
            kept.iter().filter(|kept| !folders.contains(&kept.folder)).map(|kept| kept.folder.path.clone()).collect();
        kept.retain(|kept| folders.contains(&kept.folder));
        for folder in folders {
            if !kept.iter().any(|kept| kept.folder == folder) {
                kept.push(keep(&agent, folder, watch.as_ref().map(Watch::again)));
            }
        }
        if let Some(watch) = &mut watch {
            for path in &gone {
                watch.remove(path);
            }
            for kept in &kept {
                watch.add(&kept.folder.path);
            }
        }
        let wanted = agent.subscriptions();
        if subscribed.as_ref().map_or(&[][..], |now| &now.subscriptions) != wanted.as_slice() {
            subscribed = (!wanted.is_empty()).then(|| subscribe(&agent, wanted));
        }
        loop {
            tokio::select! {
                biased;
                _ = changes.changed() => break,
                hint = next_hint(watch.as_mut()) => match hint {
                    Hint::Changed(paths) => {
                        for kept in kept.iter().filter(|kept| paths.contains(&kept.folder.path)) {
                            kept.changed.notify_one();
                        }
                    }
                    Hint::Limited(error) => agent.note_error("", &error),
                },
            }
        }
    }
}

async fn next_hint(watch: Option<&mut Watch>) -> Hint {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

fn keep(agent: &Arc<Agent>, folder: Folder, watches: Option<Again>) -> Kept {
    let changed = Arc::new(Notify::new());
    let task = work::spawn(keeper::keep(Arc::clone(agent), folder.clone(), Arc::clone(&changed), watches));
    Kept { folder, changed, task }
}

fn subscribe(agent: &Arc<Agent>, wanted: Vec<Subscription>) -> Subscribed {
    let task = work::spawn(subscriptions::keep(Arc::clone(agent), wanted.clone()));
    Subscribed { subscriptions: wanted, task }
}
