//! Buffers for what is put together before it is sent: tables, and files too small to be sent from where they lie.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Buffers that are kept for the next time.
const KEPT_MAX: usize = 64;
/// A buffer that grew beyond this is not kept.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// The buffers that are free.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Staging {
    /// An empty buffer.
    pub(crate) fn take(self: &Arc<Self>) -> Vec<u8> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// A filled buffer, which comes back when the last of its bytes has gone out.
    pub(crate) fn lend(self: &Arc<Self>, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { staging: self.clone(), buffer })
    }
}

struct Lent {
    staging: Arc<Staging>,
    buffer: Vec<u8>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut free = self.staging.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT_MAX && buffer.capacity() <= KEPT_BYTES_MAX {
            buffer.clear();
            free.push(buffer);
        }
    }
}
