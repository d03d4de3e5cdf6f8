//! Threads of their own for reading what is sent.
//!
//! The threads on which tokio runs blocking work take turns, however few jobs run at once, and the memory that each of them has
//! allocated from stays with it: chunks that pass through all of them cost a multiple of what is held at any time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::work;

type Job = Box<dyn FnOnce() + Send>;

/// A few threads that all transfers of a process share. They end with the last clone.
#[derive(Clone, Debug)]
pub struct Loaders {
    jobs: Sender<Job>,
}

impl Loaders {
    /// Starts so many threads, at least one; none where no thread can be had, and in a simulated world.
    pub fn start(threads: usize) -> Option<Self> {
        if work::process().is_some() {
            return None;
        }
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name(format!("load-{number}")).spawn(move || serve(&queue)).ok()?;
        }
        Some(Self { jobs })
    }

    /// Runs a job on one of the threads; the receiver gives an error if it panicked.
    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (reply, result) = oneshot::channel();
        let job = Box::new(move || {
            // Whoever asked may have gone.
            let _ = reply.send(job());
        });
        // The threads outlive this sender; if they could not, the reply is dropped, and that is an error to the caller.
        let _ = self.jobs.send(job);
        result
    }
}

fn serve(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // The hook has told of a panic; the asker learns of it by the reply that never comes.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_jobs_run_on_the_few_threads_also_after_a_panic() {
        let loaders = Loaders::start(2).expect("threads");
        assert!(loaders.run(|| panic!("a job that panics, as this test wants")).await.is_err());
        let asked: Vec<_> = (0..64).map(|n| loaders.run(move || (n, std::thread::current().id()))).collect();
        let mut threads = std::collections::HashSet::new();
        for (n, reply) in asked.into_iter().enumerate() {
            let (number, thread) = reply.await.expect("it did not panic");
            assert_eq!(number, n);
            threads.insert(thread);
        }
        assert!(threads.len() <= 2, "{} threads", threads.len());
    }
}
