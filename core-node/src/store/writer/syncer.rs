//! What makes durable what the writer has written: it syncs packs and commits to the catalog, one job at a time.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use headwater_quic::work::{self, Process};
use tokio::sync::mpsc::UnboundedSender;

use super::super::chunk_store::StoreError;
use super::super::pack::PackStore;
use super::Event;
use crate::catalog::{AdoptGroup, Catalog, ChunkMove, PackNumber};

/// What there is to do; each is answered by one [`Event::Settled`].
pub(super) enum Job {
    Sync(PackNumber),
    SyncFolder,
    Commit {
        group: AdoptGroup,
        /// Chunks that gc moved, and where the group's records end.
        moved: Option<(Vec<ChunkMove>, (PackNumber, u64))>,
    },
}

/// Where jobs go.
pub(super) enum Jobs {
    /// To a thread beside the writer's.
    Thread(Sender<Job>),
    /// To tasks of a simulated process.
    Tasks { process: Arc<dyn Process>, syncer: Arc<Syncer>, events: UnboundedSender<Event> },
}

impl Jobs {
    /// Starts the thread; it ends with what is returned beside it.
    pub(super) fn start_thread(syncer: Syncer, events: UnboundedSender<Event>) -> io::Result<(Self, JoinHandle<()>)> {
        let (jobs, queue) = channel();
        let run = move || syncer.run(&queue, &events);
        let thread = std::thread::Builder::new().name("pack-syncer".into()).spawn(run)?;
        Ok((Self::Thread(jobs), thread))
    }

    /// Hands a job over.
    pub(super) fn begin(&self, job: Job) {
        match self {
            Self::Thread(jobs) => {
                // That thread ends after this one, or it has panicked, and that is an event.
                let _ = jobs.send(job);
            }
            Self::Tasks { process, syncer, events } => {
                let (process, syncer, events) = (Arc::clone(process), Arc::clone(syncer), events.clone());
                work::spawn(async move {
                    process.turn().await;
                    let _ = events.send(Event::Settled(syncer.carry_out(job)));
                });
            }
        }
    }
}

pub(super) struct Syncer {
    pub(super) packs: Arc<dyn PackStore>,
    pub(super) catalog: Arc<dyn Catalog>,
}

impl Syncer {
    /// Serves jobs until their sender is gone.
    fn run(self, jobs: &Receiver<Job>, events: &UnboundedSender<Event>) {
        while let Ok(job) = jobs.recv() {
            // The writer must not wait for an answer that never comes.
            let event = match catch_unwind(AssertUnwindSafe(|| self.carry_out(job))) {
                Ok(result) => Event::Settled(result),
                Err(_) => Event::Panicked,
            };
            if events.send(event).is_err() {
                return;
            }
        }
    }

    fn carry_out(&self, job: Job) -> Result<(), StoreError> {
        match job {
            Job::Sync(pack) => self.packs.sync(pack)?,
            Job::SyncFolder => self.packs.sync_folder()?,
            Job::Commit { group, moved } => {
                self.catalog.adopt(&group)?;
                if let Some((moved, pack_end)) = moved {
                    self.catalog.relocate(&moved, pack_end)?;
                }
            }
        }
        Ok(())
    }
}
