//! A process of the world: the tasks of one program on one machine, which die together.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use headwater_quic::work;
use quinn::AsyncUdpSocket;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::net::Network;
use crate::random::Random;

/// Finished tasks are let go of when there are this many.
const TASKS_TIDY: usize = 256;
/// What every machine says of its disk.
const DISK_FREE_BYTES: u64 = 10 << 30;
/// A year of the world, at its start: 2026-01-01.
const YEAR_STARTS_S: u64 = 1_767_225_600;

/// A machine's wall clock, which may be wrong.
#[derive(Clone, Debug)]
pub(super) struct WallClock {
    set_at: Instant,
    shows: Duration,
    /// How many parts in a million it is too fast.
    drift_ppm: u32,
}

impl WallClock {
    /// A clock that is right now.
    pub(super) fn new(drift_ppm: u32) -> Self {
        Self { set_at: Instant::now(), shows: Duration::from_secs(YEAR_STARTS_S), drift_ppm }
    }

    /// Sets it to so many seconds since the epoch.
    pub(super) fn set(&mut self, seconds: u64) {
        self.set_at = Instant::now();
        self.shows = Duration::from_secs(seconds);
    }

    /// How long ago it was set, or made.
    pub(super) fn set_for(&self) -> Duration {
        self.set_at.elapsed()
    }

    /// What it shows, since the epoch.
    pub(super) fn now(&self) -> Duration {
        let passed = self.set_at.elapsed();
        self.shows + passed + passed * self.drift_ppm / 1_000_000
    }
}

/// How the disk of a machine is.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskSpeed {
    /// How long a piece of work takes at most.
    pub(super) latency: Duration,
    /// A piece of work in so many takes no time at all.
    pub(super) free_one_in: u64,
}

/// What a process is on.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) network: Arc<Network>,
    pub(super) address: IpAddr,
    pub(super) clock: Arc<Mutex<WallClock>>,
    pub(super) disk: DiskSpeed,
}

/// A process.
pub(super) struct Process {
    name: String,
    machine: Machine,
    random: Mutex<Random>,
    dead: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
    /// One piece of blocking work in so many never gets its turn: a lost wake-up.
    pub(super) forgets_one_in: Option<u64>,
}

impl Process {
    /// A process on a machine.
    pub(super) fn new(name: String, machine: Machine, random: Random, forgets_one_in: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            name,
            machine,
            random: Mutex::new(random),
            dead: AtomicBool::new(false),
            tasks: Mutex::default(),
            forgets_one_in,
        })
    }

    /// Runs a future as a part of it.
    pub(super) fn within<F: Future>(self: &Arc<Self>, future: F) -> work::Within<F> {
        work::within(Arc::clone(self) as Arc<dyn work::Process>, future)
    }

    /// Spawns a task of it.
    pub(super) fn spawn(self: &Arc<Self>, future: impl Future<Output = ()> + Send + 'static) {
        let task = tokio::spawn(self.within(future));
        work::Process::spawned(&**self, task.abort_handle());
    }

    /// Kills it, at whatever instruction between two waits it is.
    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        self.machine.network.close(self.machine.address);
    }

    /// A number below `end`, which is above 0.
    pub(super) fn below(&self, end: u64) -> u64 {
        lock(&self.random).below(end)
    }

    /// One time in two.
    pub(super) fn chance(&self) -> bool {
        self.below(2) == 0
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("name", &self.name).finish_non_exhaustive()
    }
}

impl work::Process for Process {
    fn turn(&self) -> BoxFuture<'static, ()> {
        let mut random = lock(&self.random);
        if self.forgets_one_in.is_some_and(|times| random.once_in(times)) {
            return std::future::pending().boxed();
        }
        if random.once_in(self.machine.disk.free_one_in) {
            return tokio::task::yield_now().boxed();
        }
        let most = u64::try_from(self.machine.disk.latency.as_micros()).unwrap_or(u64::MAX);
        tokio::time::sleep(Duration::from_micros(random.below(most + 1))).boxed()
    }

    fn spawned(&self, task: AbortHandle) {
        if self.is_dead() {
            return task.abort();
        }
        let mut tasks = lock(&self.tasks);
        if tasks.len() >= TASKS_TIDY && tasks.len().is_power_of_two() {
            tasks.retain(|task| !task.is_finished());
        }
        tasks.push(task);
    }

    fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.machine.network.bind(self.machine.address, address.port())
    }

    fn random(&self) -> u64 {
        lock(&self.random).next()
    }

    fn disk_free_bytes(&self) -> u64 {
        DISK_FREE_BYTES
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + lock(&self.machine.clock).now()
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
