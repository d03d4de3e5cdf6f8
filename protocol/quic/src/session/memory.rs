//! Memory for what is under way, shared by all sessions of a process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headwater_protocol::sync::{ShareId, Shares, WINDOW_BYTES_MIN};
use headwater_protocol::time::Timestamp;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Memory for unpacked items is given out in units of so many bytes.
const UNIT_BYTES: u64 = 1024;
/// The smallest budget.
const BUDGET_BYTES_MIN: u64 = 8 << 20;
/// One part in so many is for what was compressed and is plain now; the rest is for payloads as they travel.
const UNPACKED_PART: u64 = 4;
const _: () = assert!(BUDGET_BYTES_MIN - BUDGET_BYTES_MIN / UNPACKED_PART > 4 * WINDOW_BYTES_MIN);

/// Memory for payloads between the wire and the disk, shared by all sessions of a process: what they hold together never
/// exceeds it. Nothing is granted to a peer that there is no memory for, so what comes in is always read, and control
/// messages always get through. Clones share one budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: u64,
    began: Instant,
    state: Mutex<State>,
    unpacked: Arc<Semaphore>,
    unpacked_units: u32,
}

#[derive(Debug)]
struct State {
    shares: Shares,
    wakers: BTreeMap<ShareId, Arc<Notify>>,
}

/// Memory that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct TakenMemory {
    _permit: OwnedSemaphorePermit,
}

/// A transfer's share of the budget, until this is dropped.
#[derive(Debug)]
pub(crate) struct MemoryShare {
    budget: MemoryBudget,
    id: ShareId,
    changed: Arc<Notify>,
}

impl MemoryBudget {
    /// A budget of so many bytes, at least 8 MiB.
    pub fn new(bytes: u64) -> Self {
        let bytes = bytes.max(BUDGET_BYTES_MIN);
        let unpacked_bytes = bytes / UNPACKED_PART;
        let unpacked_units = u32::try_from(unpacked_bytes / UNIT_BYTES).unwrap_or(u32::MAX);
        Self(Arc::new(Inner {
            bytes,
            began: Instant::now(),
            state: Mutex::new(State { shares: Shares::new(bytes - unpacked_bytes), wakers: BTreeMap::new() }),
            unpacked: Arc::new(Semaphore::new(unpacked_units as usize)),
            unpacked_units,
        }))
    }

    /// All bytes of the budget.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Bytes that may be in use now: payloads that were granted and are not durable, and what was unpacked of them.
    pub fn used_bytes(&self) -> u64 {
        let free_units = self.0.unpacked.available_permits() as u64;
        self.state().shares.reserved_bytes() + (u64::from(self.0.unpacked_units) - free_units) * UNIT_BYTES
    }

    /// Waits until there is memory for so many unpacked bytes, first come first served.
    pub(crate) async fn take_unpacked(&self, bytes: u64) -> TakenMemory {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.0.unpacked_units);
        let permit = Arc::clone(&self.0.unpacked).acquire_many_owned(units).await;
        TakenMemory { _permit: permit.expect("the semaphore is never closed") }
    }

    /// A share for one transfer.
    pub(crate) fn enter(&self) -> MemoryShare {
        let changed = Arc::<Notify>::default();
        let mut state = self.state();
        let id = state.shares.enter(self.now());
        state.wakers.insert(id, Arc::clone(&changed));
        state.wake();
        drop(state);
        MemoryShare { budget: self.clone(), id, changed }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(u64::try_from(self.0.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self) {
        while let Some(id) = self.shares.poll_wake() {
            if let Some(waker) = self.wakers.get(&id) {
                waker.notify_one();
            }
        }
    }
}

impl MemoryShare {
    /// The window of the transfer now, which may hold `exposure_bytes` by what it has granted.
    pub(crate) fn window(&self, exposure_bytes: u64) -> u64 {
        let mut state = self.budget.state();
        let window_bytes = state.shares.window(self.budget.now(), self.id, exposure_bytes);
        state.wake();
        window_bytes
    }

    /// Resolves when [`MemoryShare::window`] may give more. Cancel-safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        let now = self.budget.now();
        let mut state = self.budget.state();
        state.wakers.remove(&self.id);
        state.shares.leave(now, self.id);
        state.wake();
    }
}
