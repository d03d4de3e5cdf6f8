//! Hints that a folder changed, so that it is rescanned soon. Hints may be lost: regular rescans are what finds every
//! change, and where the system allows no more watches they go on alone.
//!
//! Putting watches up walks through a folder, which may take long, so a thread of its own does it.

mod placing;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::error::CodedError;
pub use placing::Again;
use placing::Order;

/// Raw events that wait; when there are more, all folders are taken for changed.
const EVENTS_MAX: usize = 4096;
/// A folder that never rests is rescanned after this long all the same.
const BUSY_MAX: Duration = Duration::from_secs(30);

/// What a watch tells.
#[derive(Debug)]
pub enum Hint {
    /// Something below these watched folders changed, or is watched only from now on; each stands here once.
    Changed(Vec<PathBuf>),
    /// Watching stopped or is incomplete; rescans carry on. Said once for each folder, until it can be watched again.
    Limited(CodedError),
}

/// Watches folders.
#[derive(Debug)]
pub struct Watch {
    placing: Again,
    events: mpsc::Receiver<Raw>,
    /// Events were dropped.
    overflowed: Arc<AtomicBool>,
    folders: Vec<PathBuf>,
    quiet: Duration,
    /// Folders that changed and may not have rested yet.
    changed: Vec<PathBuf>,
    /// When they will have rested, and when they are told of all the same.
    due: Option<(Instant, Instant)>,
}

#[derive(Debug)]
enum Raw {
    Paths(Vec<PathBuf>),
    Overflow,
    Failed(CodedError),
}

/// Where raw events go.
#[derive(Clone, Debug)]
struct Events {
    sender: mpsc::Sender<Raw>,
    overflowed: Arc<AtomicBool>,
}

impl Events {
    fn send(&self, raw: Raw) {
        if self.sender.try_send(raw).is_err() {
            self.overflowed.store(true, Ordering::Relaxed);
        }
    }
}

impl Watch {
    /// Watches nothing yet. A hint comes when a folder has rested for `quiet`.
    pub fn new(quiet: Duration) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let overflowed = Arc::new(AtomicBool::new(false));
        let placing = Again::start(&Events { sender, overflowed: Arc::clone(&overflowed) });
        Self { placing, events, overflowed, folders: Vec::new(), quiet, changed: Vec::new(), due: None }
    }

    /// Watches `folder` and all below it from soon on, and then hints that it is to be looked at. That it can't be watched is
    /// told by [`next`](Self::next), once.
    pub fn add(&mut self, folder: &Path) {
        if !self.folders.iter().any(|known| known == folder) {
            self.folders.push(folder.to_owned());
            self.placing.order(Order::Watch(folder.to_owned()));
        }
    }

    /// Stops watching `folder`.
    pub fn remove(&mut self, folder: &Path) {
        self.folders.retain(|known| known != folder);
        self.placing.order(Order::Forget(folder.to_owned()));
    }

    /// For those who rescan watched folders.
    pub fn again(&self) -> Again {
        self.placing.clone()
    }

    /// The next hint; waits until there is one. Safe to drop and call again.
    pub async fn next(&mut self) -> Hint {
        loop {
            let raw = match self.due {
                None => self.events.recv().await,
                Some((quiet, latest)) => {
                    let Ok(raw) = timeout_at(quiet.min(latest), self.events.recv()).await else {
                        self.due = None;
                        return Hint::Changed(std::mem::take(&mut self.changed));
                    };
                    raw
                }
            };
            match raw {
                Some(Raw::Paths(paths)) => paths.iter().for_each(|path| self.note(path)),
                Some(Raw::Overflow) => self.changed.clone_from(&self.folders),
                Some(Raw::Failed(error)) => return Hint::Limited(error),
                None => return std::future::pending().await,
            }
            if self.overflowed.swap(false, Ordering::Relaxed) {
                self.changed.clone_from(&self.folders);
            }
            if !self.changed.is_empty() {
                let now = Instant::now();
                let latest = self.due.map_or(now + BUSY_MAX, |(_, latest)| latest);
                self.due = Some((now + self.quiet, latest));
            }
        }
    }

    fn note(&mut self, path: &Path) {
        for folder in self.folders.iter().filter(|folder| path.starts_with(folder)) {
            if !self.changed.contains(folder) {
                self.changed.push(folder.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::codes;

    /// How long what must come may take on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(30);

    async fn next(watch: &mut Watch) -> Hint {
        tokio::time::timeout(PATIENCE, watch.next()).await.expect("a hint in time")
    }

    /// Waits for the hint that everything so far is watched.
    async fn watched(watch: &mut Watch, folders: &[&Path]) {
        let mut missing = folders.to_vec();
        while !missing.is_empty() {
            match next(watch).await {
                Hint::Changed(now) => missing.retain(|folder| !now.iter().any(|changed| changed == folder)),
                Hint::Limited(error) => panic!("{error}"),
            }
        }
    }

    #[tokio::test]
    async fn tells_which_folder_changed_once_it_rests() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(one.path().join("deep")).unwrap();
        let mut watch = Watch::new(Duration::from_millis(50));
        watch.add(one.path());
        watch.add(two.path());
        watched(&mut watch, &[one.path(), two.path()]).await;
        for index in 0..50 {
            std::fs::write(one.path().join("deep").join(index.to_string()), "x").unwrap();
        }
        assert!(matches!(next(&mut watch).await, Hint::Changed(folders) if folders == [one.path()]));
    }

    #[tokio::test]
    async fn a_hint_outlives_a_call_that_was_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(Duration::from_millis(300));
        watch.add(folder.path());
        watched(&mut watch, &[folder.path()]).await;
        std::fs::write(folder.path().join("file"), "x").unwrap();
        let early = tokio::time::timeout(Duration::from_millis(100), watch.next()).await;
        assert!(early.is_err(), "the folder has not rested yet");
        assert!(matches!(next(&mut watch).await, Hint::Changed(_)), "the change is forgotten");
    }

    #[tokio::test]
    async fn a_folder_that_can_not_be_watched_is_said_once_until_it_can() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("later");
        let mut watch = Watch::new(Duration::from_millis(20));
        watch.add(&folder);
        watch.add(&folder);
        watch.again().rescanning(&folder);
        assert!(matches!(next(&mut watch).await, Hint::Limited(error) if error.is(&codes::WATCH_LIMIT)));
        let silent = tokio::time::timeout(Duration::from_millis(100), watch.next()).await;
        assert!(silent.is_err());
        std::fs::create_dir(&folder).unwrap();
        watch.again().rescanning(&folder);
        watched(&mut watch, &[&folder]).await;
    }

    #[tokio::test]
    async fn a_folder_that_comes_back_is_watched_again_at_its_next_rescan() {
        let root = tempfile::tempdir().unwrap();
        let (folder, elsewhere) = (root.path().join("mount"), root.path().join("elsewhere"));
        std::fs::create_dir(&folder).unwrap();
        let mut watch = Watch::new(Duration::from_millis(20));
        watch.add(&folder);
        watched(&mut watch, &[&folder]).await;
        // Another folder in its place, which nobody watches: as when a disk is mounted.
        std::fs::rename(&folder, &elsewhere).unwrap();
        watched(&mut watch, &[&folder]).await;
        std::fs::create_dir_all(folder.join("deep")).unwrap();
        watch.again().rescanning(&folder);
        watched(&mut watch, &[&folder]).await;
        std::fs::write(folder.join("deep/file"), "x").unwrap();
        watched(&mut watch, &[&folder]).await;
        // What was in that place before is of no interest any more.
        std::fs::write(elsewhere.join("file"), "x").unwrap();
        let silent = tokio::time::timeout(Duration::from_millis(200), watch.next()).await;
        assert!(silent.is_err());
    }
}
