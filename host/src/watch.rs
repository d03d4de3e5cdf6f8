//! Hints that a folder changed, so that it is rescanned soon. Hints may be lost: regular rescans are what finds every
//! change, and where the system allows no more watches they go on alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::{ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::error::{CodedError, codes};

/// Raw events that wait; when there are more, all folders are taken for changed.
const EVENTS_MAX: usize = 4096;
/// A folder that never rests is rescanned after this long all the same.
const BUSY_MAX: Duration = Duration::from_secs(30);

/// What a watch tells.
#[derive(Debug)]
pub enum Hint {
    /// Something below these watched folders changed; each stands here once.
    Changed(Vec<PathBuf>),
    /// Watching stopped or is incomplete; rescans carry on. Said once for each folder.
    Limited(CodedError),
}

/// Watches folders.
#[derive(Debug)]
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<Raw>,
    /// Events were dropped.
    overflowed: Arc<AtomicBool>,
    folders: Vec<PathBuf>,
    quiet: Duration,
    problems: Vec<CodedError>,
    /// Folders that changed and may not have rested yet.
    changed: Vec<PathBuf>,
    /// When they will have rested, and when they are told of all the same.
    due: Option<(Instant, Instant)>,
}

#[derive(Debug)]
enum Raw {
    Paths(Vec<PathBuf>),
    Overflow,
    Failed(notify::Error),
}

impl Watch {
    /// Watches nothing yet. A hint comes when a folder has rested for `quiet`.
    pub fn new(quiet: Duration) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let overflowed = Arc::new(AtomicBool::new(false));
        let flag = overflowed.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let raw = match event {
                Ok(event) if matches!(event.kind, EventKind::Access(_)) => return,
                Ok(event) if event.need_rescan() => Raw::Overflow,
                Ok(event) => Raw::Paths(event.paths),
                Err(error) => Raw::Failed(error),
            };
            if sender.try_send(raw).is_err() {
                flag.store(true, Ordering::Relaxed);
            }
        });
        let mut watch = Self {
            watcher: None,
            events,
            overflowed,
            folders: Vec::new(),
            quiet,
            problems: Vec::new(),
            changed: Vec::new(),
            due: None,
        };
        match watcher {
            Ok(watcher) => watch.watcher = Some(watcher),
            Err(error) => watch.problems.push(limited("any folder", &error)),
        }
        watch
    }

    /// Watches `folder` and all below it. That this can't be is told by [`next`](Self::next), once.
    pub fn add(&mut self, folder: &Path) {
        if self.folders.iter().any(|known| known == folder) {
            return;
        }
        self.folders.push(folder.to_owned());
        if let Some(watcher) = &mut self.watcher
            && let Err(error) = watcher.watch(folder, RecursiveMode::Recursive)
        {
            self.problems.push(limited(&format!("`{}`", folder.display()), &error));
        }
    }

    /// Stops watching `folder`.
    pub fn remove(&mut self, folder: &Path) {
        self.folders.retain(|known| known != folder);
        if let Some(watcher) = &mut self.watcher {
            let _ = watcher.unwatch(folder);
        }
    }

    /// The next hint; waits until there is one. Safe to drop and call again.
    pub async fn next(&mut self) -> Hint {
        if let Some(problem) = self.problems.pop() {
            return Hint::Limited(problem);
        }
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
                Some(Raw::Failed(error)) => return Hint::Limited(limited("a folder", &error)),
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

fn limited(what: &str, error: &notify::Error) -> CodedError {
    let is_limit = match &error.kind {
        ErrorKind::MaxFilesWatch => true,
        ErrorKind::Io(error) => matches!(error.raw_os_error(), Some(28 | 24)),
        _ => false,
    };
    if is_limit {
        CodedError::new(
            &codes::WATCH_LIMIT,
            format!("{what} can't be watched: the system's limit is reached; rescans carry on"),
        )
    } else {
        CodedError::new(&codes::WATCH_LIMIT, format!("{what} can't be watched: {error}; rescans carry on"))
            .with_hint("changes are found by rescans; check the folder's rights and its file system")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tells_which_folder_changed_once_it_rests() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(one.path().join("deep")).unwrap();
        let mut watch = Watch::new(Duration::from_millis(50));
        watch.add(one.path());
        watch.add(two.path());
        for index in 0..50 {
            std::fs::write(one.path().join("deep").join(index.to_string()), "x").unwrap();
        }
        match watch.next().await {
            Hint::Changed(folders) => assert_eq!(folders, [one.path()]),
            Hint::Limited(error) => assert!(error.is(&codes::WATCH_LIMIT)),
        }
    }

    #[tokio::test]
    async fn a_hint_outlives_a_call_that_was_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(Duration::from_millis(300));
        watch.add(folder.path());
        std::fs::write(folder.path().join("file"), "x").unwrap();
        let early = tokio::time::timeout(Duration::from_millis(100), watch.next()).await;
        assert!(!matches!(early, Ok(Hint::Changed(_))), "the folder has not rested yet");
        let late = tokio::time::timeout(Duration::from_secs(5), watch.next()).await;
        assert!(late.is_ok(), "the change is forgotten");
    }

    #[tokio::test]
    async fn a_folder_that_can_not_be_watched_is_said_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(Duration::from_millis(20));
        watch.add(&folder.path().join("none"));
        watch.add(&folder.path().join("none"));
        assert!(matches!(watch.next().await, Hint::Limited(error) if error.is(&codes::WATCH_LIMIT)));
        let silent = tokio::time::timeout(Duration::from_millis(100), watch.next()).await;
        assert!(silent.is_err());
    }
}
