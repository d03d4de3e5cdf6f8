//! The one queue of a node: through here goes every byte that leaves a core for training jobs. Whoever wants to send asks for a turn first.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use headwater_fabric::{Gate, Turn};
use tokio::sync::Semaphore;

/// Who sends: a job's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// The one queue of a node.
pub trait Outgoing: Send + Sync {
    /// Resolves when `job` may hand its next `bytes` to the network. The turn is held only while that is done.
    fn turn(&self, job: JobId, bytes: u64) -> BoxFuture<'_, Turn>;
}

/// A job's way into the queue.
pub struct JobGate {
    queue: Arc<dyn Outgoing>,
    job: JobId,
}

impl JobGate {
    /// The way of `job` into `queue`.
    pub fn new(queue: Arc<dyn Outgoing>, job: JobId) -> Self {
        Self { queue, job }
    }
}

impl Gate for JobGate {
    fn turn(&self, bytes: u64) -> BoxFuture<'_, Turn> {
        self.queue.turn(self.job, bytes)
    }
}
/// First come, first served: each waits behind those who came before. As each session asks for one turn at a time, one that wants much
/// gets no more turns than others.
pub struct Fifo {
    turns: Arc<Semaphore>,
}

impl Fifo {
    /// A queue that lets so many hand over bytes at the same time: more than there are processors help nobody.
    pub fn new(at_once: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(at_once.max(1))) }
    }
}

impl Outgoing for Fifo {
    fn turn(&self, _job: JobId, _bytes: u64) -> BoxFuture<'_, Turn> {
        async {
            // The semaphore is never closed.
            let turn: Turn = Box::new(self.turns.clone().acquire_owned().await.ok());
            turn
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_came_first_has_the_first_turn() {
        let queue = Fifo::new(1);
        let held = queue.turn(JobId(1), 1).await;
        let (mut second, mut third) = (queue.turn(JobId(2), 1), queue.turn(JobId(3), 1));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        drop(held);
        assert!((&mut third).now_or_never().is_none(), "it came last");
        let turn = second.now_or_never().expect("its turn");
        drop(turn);
        assert!(third.now_or_never().is_some());
    }
}
