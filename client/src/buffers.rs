//! Receive buffers, used again and again: the first touch of memory costs more than the bytes that arrive in it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Buffers that are kept for the next time.
const KEPT_MAX: usize = 64;

/// The buffers that are free, and how large they are to be.
#[derive(Debug)]
pub(crate) struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
    bytes: AtomicUsize,
}

impl Buffers {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::default(), bytes: AtomicUsize::new(bytes) })
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of the present size.
    pub(crate) fn take(&self) -> Vec<u8> {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let kept = self.locked().pop().filter(|buffer| buffer.len() >= bytes);
        kept.unwrap_or_else(|| vec![0; bytes])
    }

    /// Buffers have so many bytes at least from now on.
    pub(crate) fn grow(&self, bytes: usize) {
        self.bytes.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Takes a buffer back.
    pub(crate) fn give(&self, buffer: Vec<u8>) {
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
    bytes: Vec<u8>,
}

impl Buffer {
    pub(crate) fn new(buffers: &Arc<Buffers>, bytes: Vec<u8>) -> Self {
        Self { buffers: buffers.clone(), bytes }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.bytes));
    }
}
