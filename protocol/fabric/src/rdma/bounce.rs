//! Registered memory for what does not lie in the cache: tables, and files that are put together. It is used again and again, because
//! registering costs more than copying.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::verbs::{Domain, Piece, Registered};

/// Bytes of a buffer.
const BUFFER_BYTES: usize = 256 * 1024;
/// Buffers that are kept.
const KEPT_MAX: usize = 32;

/// The buffers of one lane.
#[derive(Debug, Default)]
pub(super) struct Bounce(Mutex<Vec<Arc<Registered>>>);

impl Bounce {
    /// A copy of `bytes`, in as many pieces as buffers are needed.
    pub(super) fn copy(&self, domain: &Arc<Domain>, bytes: &[u8]) -> io::Result<Vec<Piece>> {
        bytes
            .chunks(BUFFER_BYTES)
            .map(|part| {
                let mut buffer = match self.take() {
                    Some(buffer) => buffer,
                    None => Arc::new(Registered::for_sending(domain, vec![0; BUFFER_BYTES].into_boxed_slice())?),
                };
                Arc::get_mut(&mut buffer).expect("nobody else has it")[..part.len()].copy_from_slice(part);
                let piece = Piece::new(Arc::clone(&buffer), 0..part.len()).expect("the part lies within");
                let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() < KEPT_MAX {
                    kept.push(buffer);
                }
                Ok(piece)
            })
            .collect()
    }

    /// A buffer that the device has no more use for.
    fn take(&self) -> Option<Arc<Registered>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = kept.iter().position(|buffer| Arc::strong_count(buffer) == 1)?;
        Some(kept.swap_remove(free))
    }
}
