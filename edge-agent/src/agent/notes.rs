//! Notes for the catalog that nobody waits for, as events and counted bytes: a thread writes them one after the other, so
//! that whoever has one to make never waits for the disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
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
                    let catalog = in_force(&catalog);
                    if catch_unwind(AssertUnwindSafe(|| note(&catalog))).is_err() {
                        tracing::error!("a note for the catalog broke off; it is lost");
                    }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;
    use crate::agent::Agent;
    use crate::catalog::EventLevel;

    /// Counts what one thread logs.
    struct Counter(Arc<AtomicUsize>);

    impl Subscriber for Counter {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() <= tracing::Level::INFO
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn what_happened_is_logged_before_the_catalog_has_it() {
        let data = tempfile::tempdir().expect("a folder");
        let agent = Agent::open(data.path(), None).expect("opened");
        let (go_on, is_to_go_on) = mpsc::channel::<()>();
        agent.notes.write(move |_| is_to_go_on.recv().unwrap_or_default());
        let logged = Arc::<AtomicUsize>::default();
        tracing::subscriber::with_default(Counter(Arc::clone(&logged)), || {
            agent.note(EventLevel::Error, "HW-0000", "", "it broke");
            agent.note_once(EventLevel::Warn, "HW-0000", "data", "it is odd".to_owned());
            agent.note_once(EventLevel::Warn, "HW-0000", "data", "it is odd".to_owned());
        });
        assert_eq!(logged.load(Ordering::Relaxed), 2, "and what repeats is said once");
        drop(go_on);
        assert_eq!(agent.events(9).expect("read").len(), 2);
    }

    #[test]
    fn a_note_that_breaks_off_takes_no_other_with_it() {
        let data = tempfile::tempdir().expect("a folder");
        let catalog = Arc::new(RwLock::new(Arc::new(Catalog::open(data.path()).expect("opened"))));
        let notes = Notes::start(catalog).expect("started");
        notes.write(|_| panic!("on purpose"));
        let (written, is_written) = mpsc::channel();
        notes.write(move |_| written.send(()).expect("awaited"));
        notes.settle();
        is_written.try_recv().expect("the next note was written");
    }
}
