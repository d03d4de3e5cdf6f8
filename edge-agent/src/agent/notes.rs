//! Notes for the catalog that nobody waits for, as events and counted bytes: a thread writes them one after the other, so
//! that whoever has one to make never waits for the disk.

use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;

use headwater_quic::work;

use crate::catalog::Catalog;

/// Notes that wait. More are lost, which is said: the disk takes nothing then, or hardly anything.
const WAITING_MAX: usize = 1024;

/// The catalog in force: another one after a rebuild.
pub(super) type InForce = Arc<RwLock<Arc<Catalog>>>;

type Note = Box<dyn FnOnce(&Catalog) + Send>;

/// Writes notes down; what waits when it is dropped is written first.
pub(super) struct Notes {
    catalog: InForce,
    /// None in a simulated world, which has one thread: there a note is written when it is made.
    queue: Option<mpsc::SyncSender<Note>>,
    thread: Option<JoinHandle<()>>,
}

impl Notes {
    pub(super) fn start(catalog: InForce) -> std::io::Result<Self> {
        if work::process().is_some() {
            return Ok(Self { catalog, queue: None, thread: None });
        }
        let (queue, notes) = mpsc::sync_channel::<Note>(WAITING_MAX);
        let thread = std::thread::Builder::new().name("notes".to_owned()).spawn({
            let catalog = Arc::clone(&catalog);
            move || {
                while let Ok(note) = notes.recv() {
                    note(&in_force(&catalog));
                }
            }
        })?;
        Ok(Self { catalog, queue: Some(queue), thread: Some(thread) })
    }

    /// Has a note written soon, after all earlier ones.
    pub(super) fn write(&self, note: impl FnOnce(&Catalog) + Send + 'static) {
        let Some(queue) = &self.queue else { return note(&in_force(&self.catalog)) };
        if queue.try_send(Box::new(note)).is_err() {
            tracing::warn!("the catalog takes no more notes; one is lost");
        }
    }

    /// Waits until all earlier notes are written. Blocks.
    pub(super) fn settle(&self) {
        let (written, is_written) = mpsc::channel();
        let Some(queue) = &self.queue else { return };
        let last: Note = Box::new(move |_| {
            let _ = written.send(());
        });
        if queue.send(last).is_ok() {
            let _ = is_written.recv();
        }
    }
}

fn in_force(catalog: &InForce) -> Arc<Catalog> {
    Arc::clone(&catalog.read().unwrap_or_else(PoisonError::into_inner))
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
