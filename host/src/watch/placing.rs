//! The thread that puts watches up, and again when a folder is rescanned: what a watch stood on may be gone meanwhile,
//! as with a disk that was unmounted and came back, and nobody else tells.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use notify::{ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::{Events, Raw};
use crate::error::{CodedError, codes};

/// Orders that wait. Those that find no room are given again at the next rescan.
const ORDERS_MAX: usize = 1024;
/// `ENOSPC` and `EMFILE`: how Linux says that there are no more watches, and no more watchers.
const LIMIT_ERRORS: [i32; 2] = [28, 24];

/// Puts watches up again; for those who rescan watched folders. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Again(mpsc::SyncSender<Order>);

/// What the thread is to do.
#[derive(Debug)]
pub(super) enum Order {
    Watch(PathBuf),
    Forget(PathBuf),
}

impl Again {
    /// Starts the thread; it ends when nobody can give orders any more.
    pub(super) fn start(events: &Events) -> Self {
        let (orders, taken) = mpsc::sync_channel(ORDERS_MAX);
        let spawned = std::thread::Builder::new().name("watches".to_owned()).spawn({
            let events = events.clone();
            move || {
                let mut placing = Placing { events, watcher: None, folders: HashMap::new() };
                while let Ok(order) = taken.recv() {
                    match order {
                        Order::Watch(folder) => placing.watch(folder),
                        Order::Forget(folder) => placing.forget(&folder),
                    }
                }
            }
        });
        if let Err(error) = spawned {
            events.send(Raw::Failed(limited("any folder", &notify::Error::io(error))));
        }
        Self(orders)
    }

    /// A watched folder is about to be rescanned, and that not because of a hint: whatever of it is not watched any more is
    /// from soon on.
    pub fn rescanning(&self, folder: &Path) {
        self.order(Order::Watch(folder.to_owned()));
    }

    pub(super) fn order(&self, order: Order) {
        let _ = self.0.try_send(order);
    }
}

struct Placing {
    events: Events,
    watcher: Option<RecommendedWatcher>,
    folders: HashMap<PathBuf, Placed>,
}

/// How it stands with a folder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Placed {
    /// It is watched: the folder of this device and inode.
    On(u64, u64),
    /// It can't be, and that was said.
    Said,
}

impl Placing {
    fn watch(&mut self, folder: PathBuf) {
        let before = self.folders.get(&folder).copied();
        let identity = identity(&folder);
        if let (Some(Placed::On(..)), Some(watcher)) = (before, &mut self.watcher)
            && before != identity
        {
            // Another folder has its place: what happens to the old one is no news of this one.
            let _ = watcher.unwatch(&folder);
        }
        let watched = self.watcher().and_then(|watcher| watcher.watch(&folder, RecursiveMode::Recursive));
        let now = match (&watched, identity) {
            (Ok(()), Some(on)) => on,
            // It went while it was looked at.
            (Ok(()), None) => return,
            (Err(_), _) => Placed::Said,
        };
        if before != Some(now) {
            match watched {
                // Whoever looked before now may have missed something.
                Ok(()) => self.events.send(Raw::Paths(vec![folder.clone()])),
                Err(error) => {
                    self.events.send(Raw::Failed(limited(&format!("`{}`", folder.display()), &error)));
                }
            }
        }
        self.folders.insert(folder, now);
    }

    fn forget(&mut self, folder: &Path) {
        self.folders.remove(folder);
        if let Some(watcher) = &mut self.watcher {
            let _ = watcher.unwatch(folder);
        }
    }

    /// The watcher, made if there is none yet: another program may have given back what it takes.
    fn watcher(&mut self) -> notify::Result<&mut RecommendedWatcher> {
        let watcher = if let Some(watcher) = self.watcher.take() {
            watcher
        } else {
            let events = self.events.clone();
            notify::recommended_watcher(move |event| pass_on(event, &events))?
        };
        Ok(self.watcher.insert(watcher))
    }
}

fn pass_on(event: notify::Result<notify::Event>, events: &Events) {
    events.send(match event {
        Ok(event) if matches!(event.kind, EventKind::Access(_)) => return,
        Ok(event) if event.need_rescan() => Raw::Overflow,
        Ok(event) => Raw::Paths(event.paths),
        Err(error) => Raw::Failed(limited("a folder", &error)),
    });
}

fn identity(folder: &Path) -> Option<Placed> {
    folder.metadata().ok().map(|found| Placed::On(found.dev(), found.ino()))
}

fn limited(what: &str, error: &notify::Error) -> CodedError {
    let is_limit = match &error.kind {
        ErrorKind::MaxFilesWatch => true,
        ErrorKind::Io(error) => error.raw_os_error().is_some_and(|number| LIMIT_ERRORS.contains(&number)),
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
