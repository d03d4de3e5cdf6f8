//! Where the writer runs: on a thread with another beside it, or as tasks of a simulated process.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use headwater_quic::work::{self, Process};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::syncer::{Jobs, Syncer};
use super::{Applied, Event, Writer};

/// Where the writer runs.
pub(in crate::store) enum WriterHome {
    /// On a thread of its own.
    Thread(Option<JoinHandle<()>>),
    /// As a task of a simulated process.
    Task(tokio::task::JoinHandle<()>),
}

impl WriterHome {
    /// Starts the writer. What it is to do comes by `events`, of which `own` is a sender; it ends after [`Event::Close`].
    pub(in crate::store) fn start(
        writer: Writer,
        own: UnboundedSender<Event>,
        events: UnboundedReceiver<Event>,
    ) -> io::Result<Self> {
        let syncer = Syncer { packs: Arc::clone(&writer.packs), catalog: Arc::clone(&writer.catalog) };
        if let Some(process) = work::process() {
            let jobs = Jobs::Tasks { process: Arc::clone(&process), syncer: Arc::new(syncer), events: own };
            return Ok(Self::Task(work::spawn(writer.run_in(process, jobs, events))));
        }
        let (jobs, beside) = Jobs::start_thread(syncer, own)?;
        let thread = std::thread::Builder::new().name("pack-writer".into()).spawn(move || {
            writer.run(&jobs, events);
            drop(jobs);
            // It has nothing to do any more, and lets go of packs and catalog when it ends.
            let _ = beside.join();
        })?;
        Ok(Self::Thread(Some(thread)))
    }

    pub(in crate::store) fn is_alive(&self) -> bool {
        match self {
            Self::Thread(thread) => thread.as_ref().is_some_and(|thread| !thread.is_finished()),
            Self::Task(task) => !task.is_finished(),
        }
    }

    /// Waits until what was handed over is done. A task is on this very thread: it does so by itself.
    pub(in crate::store) fn join(&mut self) {
        if let Self::Thread(thread) = self
            && let Some(thread) = thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Writer {
    /// Serves requests until the store is dropped.
    fn run(mut self, jobs: &Jobs, mut events: UnboundedReceiver<Event>) {
        let mut closed = false;
        while !(closed && self.order.is_idle()) {
            let Some(event) = events.blocking_recv() else { return };
            match self.apply_all(event, &mut events) {
                Applied::More => {}
                Applied::Closed => closed = true,
                Applied::Broken => return,
            }
            while let Some(action) = self.next_front(jobs) {
                self.carry_out(action);
            }
        }
    }

    /// [`Writer::run`] in a simulated process: each action waits for its turn, so that the process can die between any two.
    async fn run_in(mut self, process: Arc<dyn Process>, jobs: Jobs, mut events: UnboundedReceiver<Event>) {
        let mut closed = false;
        while !(closed && self.order.is_idle()) {
            let Some(event) = events.recv().await else { return };
            match self.apply_all(event, &mut events) {
                Applied::More => {}
                Applied::Closed => closed = true,
                Applied::Broken => return,
            }
            while let Some(action) = self.next_front(&jobs) {
                process.turn().await;
                self.carry_out(action);
            }
        }
    }

    /// Applies an event and those that have come meanwhile, so that their requests go with the next group.
    fn apply_all(&mut self, first: Event, events: &mut UnboundedReceiver<Event>) -> Applied {
        let mut applied = self.apply(first);
        while let Ok(event) = events.try_recv() {
            match self.apply(event) {
                Applied::More => {}
                Applied::Closed => applied = Applied::Closed,
                Applied::Broken => return Applied::Broken,
            }
        }
        applied
    }
}
