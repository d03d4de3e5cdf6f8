//! Receive buffers, used again and again: the first touch of memory costs more than the bytes that arrive in it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headwater_fabric::{JobLane, Slot};

/// Buffers that are kept for the next time.
const KEPT_MAX: usize = 64;

/// The buffers that are free, and how large they are to be.
#[derive(Debug)]
pub(crate) struct Buffers {
    free: Mutex<Vec<Slot>>,
    bytes: AtomicUsize,
}

impl Buffers {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::default(), bytes: AtomicUsize::new(bytes) })
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of the present size, made for `lane` if none is left over.
    pub(crate) fn take(&self, lane: &dyn JobLane) -> Slot {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let kept = self.locked().pop().filter(|buffer| buffer.len() >= bytes);
        kept.unwrap_or_else(|| lane.slot(bytes))
    }

    /// Buffers have so many bytes at least from now on.
    pub(crate) fn grow(&self, bytes: usize) {
        self.bytes.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Takes a buffer back.
    pub(crate) fn give(&self, buffer: Slot) {
        let fits = buffer.len() >= self.bytes.load(Ordering::Relaxed);
        let mut free = self.locked();
        if fits && free.len() < KEPT_MAX {
            free.push(buffer);
        }
    }
}

/// A buffer that goes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    buffers: Arc<Buffers>,
    slot: Option<Slot>,
}

impl Buffer {
    pub(crate) fn new(buffers: &Arc<Buffers>, slot: Slot) -> Self {
        Self { buffers: buffers.clone(), slot: Some(slot) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.slot.as_deref().unwrap_or_default()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.slot.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.buffers.give(slot);
        }
    }
}
