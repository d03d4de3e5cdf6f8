//! Memory for what is under way, shared by all sessions of a process.

use std::sync::Arc;

use headwater_protocol::wire::PAYLOAD_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory is given out in units of so many bytes.
const UNIT_BYTES: u64 = 1024;
/// The smallest budget: some of the largest items.
const BUDGET_BYTES_MIN: u64 = 8 << 20;
const _: () = assert!(BUDGET_BYTES_MIN >= 4 * PAYLOAD_BYTES_MAX as u64);

/// Memory for payloads between the wire and the disk, shared by all sessions of a process. A grant says what one transfer
/// may have under way; this bounds what all of them really hold. When it is spent, streams are not read until something
/// has become durable; control streams are. Clones share one budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    units: Arc<Semaphore>,
    bytes: u64,
}

/// Memory that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct TakenMemory {
    _permit: OwnedSemaphorePermit,
}

impl MemoryBudget {
    /// A budget of so many bytes, at least 8 MiB.
    pub fn new(bytes: u64) -> Self {
        let bytes = bytes.max(BUDGET_BYTES_MIN);
        let units = usize::try_from(bytes / UNIT_BYTES).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)), bytes }
    }

    /// All bytes of the budget.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that nobody has taken.
    pub fn free_bytes(&self) -> u64 {
        self.units.available_permits() as u64 * UNIT_BYTES
    }

    /// Waits until there is memory for a payload, first come first served.
    pub(crate) async fn take(&self, payload_bytes: u32) -> TakenMemory {
        let units = u64::from(payload_bytes).div_ceil(UNIT_BYTES) as u32;
        let permit = Arc::clone(&self.units).acquire_many_owned(units).await;
        TakenMemory { _permit: permit.expect("the semaphore is never closed") }
    }
}
