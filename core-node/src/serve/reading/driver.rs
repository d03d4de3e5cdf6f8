//! The thread that talks to the RDMA device, for all lanes of a core.
//!
//! What gives work to a device and takes what it has done must not wait behind what else the core does; and on a device in
//! software, which does its work within the call that asks for it, nothing else should wait behind that.

use std::io;
use std::thread::JoinHandle;

use futures_util::future::BoxFuture;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// A thread with a reactor of its own. It ends with this value.
#[derive(Debug)]
pub(super) struct Driver {
    handle: Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Ends a task with its owner.
struct EndsWith(AbortHandle);

impl Drop for EndsWith {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Driver {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("rdma".to_owned()).spawn(move || {
            // That it is dropped is its end too.
            let _ = runtime.block_on(ended);
        })?;
        Ok(Self { handle, end: Some(end), thread: Some(thread) })
    }

    /// Makes something whose events come on the thread.
    pub(super) fn make<T>(&self, make: impl FnOnce() -> T) -> T {
        let _here = self.handle.enter();
        make()
    }

    /// Runs `work` on the thread; it ends with the future that is given, which has its result.
    pub(super) fn run(&self, work: impl Future<Output = String> + Send + 'static) -> BoxFuture<'static, String> {
        let task = self.handle.spawn(work);
        let ends = EndsWith(task.abort_handle());
        Box::pin(async move {
            let _ends = ends;
            task.await.unwrap_or_else(|error| format!("the thread of the RDMA device has ended: {error}"))
        })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.end.take());
        // Who is dropped on the thread itself can't wait for it.
        let is_elsewhere = |thread: &JoinHandle<()>| thread.thread().id() != std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(is_elsewhere) {
            // A thread that panicked has ended too.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_runs_on_the_thread_and_ends_with_whoever_waits() {
        let driver = Driver::start().expect("a thread");
        let name = || std::thread::current().name().unwrap_or_default().to_owned();
        assert_eq!(driver.run(async move { name() }).await, "rdma");
        let (held, gone) = oneshot::channel::<()>();
        let forever = driver.run(async move {
            let _held = held;
            std::future::pending::<String>().await
        });
        drop(forever);
        let ended = tokio::time::timeout(Duration::from_mins(1), gone).await.expect("the task is ended");
        assert!(ended.is_err(), "nothing was said before");
    }

    #[tokio::test]
    async fn a_task_that_outlives_the_thread_is_told() {
        let driver = Driver::start().expect("a thread");
        let waits = driver.run(std::future::pending());
        drop(driver);
        assert!(waits.await.contains("has ended"));
    }
}
