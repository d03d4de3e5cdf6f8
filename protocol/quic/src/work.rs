//! Where the daemons' work runs: tasks, blocking work, sockets, randomness and the wall clock. In a program these are the
//! machine's; in a simulation each [`Process`] stands for one process on one machine of its world.
//!
//! What belongs to a process is decided by who polls: a task that is spawned here belongs to the process of the task that
//! spawns it. In a process nothing runs on another thread and nothing asks the machine for time or chance, so that a world on
//! one thread with virtual time (tokio's paused clock) always does the same; and when the process dies, its tasks die with
//! it. Without a process each function is the plain one of tokio or of the system.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use quinn::{AsyncUdpSocket, EndpointConfig, Runtime, TokioRuntime};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

/// A process in a simulated world.
pub trait Process: fmt::Debug + Send + Sync + 'static {
    /// Resolves when a piece of blocking work has had its turn on a thread and on the disk: then it is done at once.
    fn turn(&self) -> BoxFuture<'static, ()>;

    /// A task of this process was spawned: it is to be aborted when the process dies, or at once if it is dead.
    fn spawned(&self, task: AbortHandle);

    /// A UDP socket of its machine.
    fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;

    /// The next random number of this process.
    fn random(&self) -> u64;

    /// What its machine believes the time to be.
    fn wall_clock(&self) -> SystemTime;

    /// Free bytes on its machine's disk.
    fn disk_free_bytes(&self) -> u64;
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Process>>> = const { RefCell::new(None) };
    static WORLD_ONLY: Cell<bool> = const { Cell::new(false) };
}

/// From now on this thread is a world's: work outside of any process panics there, instead of escaping from the world.
pub fn make_world_of_thread() {
    WORLD_ONLY.set(true);
}

/// Runs `future` as a part of `process`.
pub fn within<F: Future>(process: Arc<dyn Process>, future: F) -> Within<F> {
    Within { process, future: Some(Box::pin(future)) }
}

/// See [`within`].
pub struct Within<F> {
    process: Arc<dyn Process>,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _entered = Entered::new(&self.process);
        match &mut self.future {
            Some(future) => future.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for Within<F> {
    /// What ends with the future ends in its process too.
    fn drop(&mut self) {
        let _entered = Entered::new(&self.process);
        self.future = None;
    }
}

/// The process is the current one until this is dropped.
struct Entered(Option<Arc<dyn Process>>);

impl Entered {
    fn new(process: &Arc<dyn Process>) -> Self {
        Self(CURRENT.replace(Some(Arc::clone(process))))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

fn current() -> Option<Arc<dyn Process>> {
    let process = CURRENT.with_borrow(Clone::clone);
    assert!(process.is_some() || !WORLD_ONLY.get(), "work of a simulated world is in none of its processes");
    process
}

/// [`tokio::spawn`].
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    match current() {
        None => tokio::spawn(future),
        Some(process) => {
            let task = tokio::spawn(within(Arc::clone(&process), future));
            process.spawned(task.abort_handle());
            task
        }
    }
}

/// [`JoinSet::spawn`].
pub fn spawn_on<F>(tasks: &mut JoinSet<F::Output>, future: F)
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    match current() {
        None => tasks.spawn(future),
        Some(process) => tasks.spawn(within(process, future)),
    };
}

/// [`tokio::task::spawn_blocking`].
pub fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match current() {
        None => tokio::task::spawn_blocking(work),
        Some(process) => spawn(in_turn(process, work)),
    }
}

/// [`JoinSet::spawn_blocking`].
pub fn spawn_blocking_on<T: Send + 'static>(tasks: &mut JoinSet<T>, work: impl FnOnce() -> T + Send + 'static) {
    match current() {
        None => tasks.spawn_blocking(work),
        Some(process) => tasks.spawn(within(Arc::clone(&process), in_turn(process, work))),
    };
}

async fn in_turn<T>(process: Arc<dyn Process>, work: impl FnOnce() -> T) -> T {
    process.turn().await;
    work()
}

/// In a simulated world, the process that this belongs to: for work that has a thread of its own in a program.
pub fn process() -> Option<Arc<dyn Process>> {
    current()
}

/// Where something was made, for what ends with work of its own and may be dropped outside of every process, as with a channel.
#[derive(Clone, Debug)]
pub struct Home(Option<Arc<dyn Process>>);

impl Home {
    /// The current process, or none in a program.
    pub fn here() -> Self {
        Self(current())
    }

    /// [`spawn_blocking`] in that process.
    pub fn spawn_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let _entered = self.0.as_ref().map(Entered::new);
        spawn_blocking(work)
    }
}

/// What the machine believes the time to be.
pub fn wall_clock() -> SystemTime {
    current().map_or_else(SystemTime::now, |process| process.wall_clock())
}

/// Fills `bytes` with random ones.
pub fn fill_random(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    let Some(process) = current() else { return getrandom::fill(bytes) };
    for part in bytes.chunks_mut(size_of::<u64>()) {
        part.copy_from_slice(&process.random().to_le_bytes()[..part.len()]);
    }
    Ok(())
}

/// A random byte; a fixed one where the system has none.
pub fn random_byte() -> u8 {
    let mut byte = [128];
    let _ = fill_random(&mut byte);
    byte[0]
}

/// The socket that the current process is given instead of one of the system's.
pub(crate) fn bind(address: SocketAddr) -> Option<io::Result<Arc<dyn AsyncUdpSocket>>> {
    current().map(|process| process.bind(address))
}

/// quinn's configuration of an endpoint.
pub(crate) fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    let mut seed = [0; 32];
    // Otherwise quinn seeds itself.
    if current().is_some() && fill_random(&mut seed).is_ok() {
        config.rng_seed(Some(seed));
    }
    config
}

/// What quinn's tasks and timers run on.
pub(crate) fn runtime() -> Arc<dyn Runtime> {
    match current() {
        None => Arc::new(TokioRuntime),
        Some(process) => Arc::new(InProcess(process)),
    }
}

#[derive(Debug)]
struct InProcess(Arc<dyn Process>);

impl Runtime for InProcess {
    fn new_timer(&self, at: std::time::Instant) -> Pin<Box<dyn quinn::AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: BoxFuture<'static, ()>) {
        let task = tokio::spawn(within(Arc::clone(&self.0), future));
        self.0.spawned(task.abort_handle());
    }

    fn wrap_udp_socket(&self, _socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn now(&self) -> std::time::Instant {
        TokioRuntime.now()
    }
}
