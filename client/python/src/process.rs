//! What belongs to one process: the runtime, and waiting in it.

use std::ffi::OsString;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headwater_client::{Client, Options};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};

use crate::errors::raised;

/// How long a wait goes on before it looks for signals.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);
/// Threads that check what arrives, where the machine has so many processors.
const THREADS_MAX: usize = 4;
/// How long the core is given to hear that a session ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// A connected client, and the runtime that it lives in, in the process that made them.
pub(crate) struct Connected {
    process: u32,
    runtime: Option<Runtime>,
    client: Option<Client>,
    waited_ns: AtomicU64,
}

impl Connected {
    /// Connects.
    pub(crate) fn new(py: Python<'_>, options: Options) -> PyResult<Arc<Self>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("headwater")
            .enable_all()
            .build()
            .map_err(|error| PyOSError::new_err(format!("the threads of headwater can't be started: {error}")))?;
        let mut made = Self { process: std::process::id(), runtime: Some(runtime), client: None, waited_ns: 0.into() };
        let client = made.wait(py, Client::connect(options))?.map_err(|error| raised(py, &error))?;
        made.client = Some(client);
        Ok(Arc::new(made))
    }

    /// The client.
    pub(crate) fn client(&self) -> Client {
        self.client.clone().expect("it is there from when it connected until it is dropped")
    }

    /// Whether this is the process that it was made in: no thread of it runs in a child.
    pub(crate) fn is_here(&self) -> bool {
        self.process == std::process::id()
    }

    /// Waits without the interpreter's lock; a signal whose handler raises ends the wait, and what was under way.
    ///
    /// The work is done on a thread of this runtime. The calling thread may be the one that a fork left, with a copy of its random
    /// numbers in each child: two connections with the same random numbers are one to the core.
    pub(crate) fn wait<F>(&self, py: Python<'_>, future: F) -> PyResult<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let Some(runtime) = &self.runtime else { return Err(PyValueError::new_err("the connection is closed")) };
        let mut task = runtime.spawn(future);
        match self.watch(py, &mut task) {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(broken)) => Err(PyRuntimeError::new_err(format!("reading broke off: {broken}"))),
            Err(raised) => {
                task.abort();
                Err(raised)
            }
        }
    }

    /// As [`Connected::wait`], for what only waits for work that is done elsewhere, and may be waited for again.
    pub(crate) fn watch<F>(&self, py: Python<'_>, mut future: F) -> PyResult<F::Output>
    where
        F: Future + Send + Unpin,
        F::Output: Send,
    {
        let Some(runtime) = &self.runtime else { return Err(PyValueError::new_err("the connection is closed")) };
        let began = Instant::now();
        let ended = loop {
            let turn = py.detach(|| runtime.block_on(async { tokio::time::timeout(SIGNALS_EVERY, &mut future).await }));
            match turn {
                Ok(output) => break Ok(output),
                Err(_) => {
                    if let Err(raised) = py.check_signals() {
                        break Err(raised);
                    }
                }
            }
        };
        self.waited_ns.fetch_add(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        ended
    }

    /// How long this process has stood still for the core.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited_ns.load(Ordering::Relaxed))
    }

    /// Drops `value`, whose destructor may want the runtime; in a child it is left as it is, since a thread that is not there may
    /// hold a lock of it.
    pub(crate) fn drop_here<T>(&self, value: T) {
        match &self.runtime {
            Some(runtime) if self.is_here() => {
                let _inside = runtime.enter();
                drop(value);
            }
            _ => std::mem::forget(value),
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let (runtime, client) = (self.runtime.take(), self.client.take());
        if !self.is_here() {
            std::mem::forget((runtime, client));
            return;
        }
        if let Some(runtime) = runtime {
            if let Some(client) = client {
                // Whoever is waiting for the core to answer must not hold up the end of the interpreter.
                let _ = runtime.block_on(async { tokio::time::timeout(GOODBYE, client.close()).await });
                let _inside = runtime.enter();
                drop(client);
            }
            runtime.shutdown_background();
        }
    }
}

/// Writes the log of this process to standard error: `filter` as of `RUST_LOG`, as `info` or `headwater_client=debug`.
#[pyfunction]
pub(crate) fn log(filter: &str) -> PyResult<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|error| PyValueError::new_err(format!("`{filter}` is no filter of a log: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init()
        .map_err(|_| PyValueError::new_err("the log is written already"))
}

/// Runs the command `headwater` with these arguments, of which the first is its name; what the process should end with. It looks for no
/// signals: whoever calls it leaves them to the system.
#[pyfunction]
pub(crate) fn command(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| headwater_client::cli::run(arguments))
}
