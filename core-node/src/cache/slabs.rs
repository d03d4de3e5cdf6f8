//! The memory of the cache: one region, taken once, handed out in blocks.
//!
//! A block is filled by one who has it alone, and then read by many; it is free again when the last of them has let go. So
//! what is on its way to a job can never be overwritten, and nothing has to be asked before it is sent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use headwater_fabric::Region;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 64 * 1024;

/// The region and its free blocks.
pub struct Slabs {
    region: Region,
    blocks: usize,
    free: Mutex<Vec<&'static mut [u8]>>,
}

impl Slabs {
    /// Takes memory for blocks of `bytes` together. It stays until the process ends: a device may know its address.
    pub fn new(bytes: u64) -> Arc<Self> {
        let blocks = usize::try_from(bytes).unwrap_or(usize::MAX) / BLOCK_BYTES;
        let (region, bytes) = Region::take(blocks * BLOCK_BYTES);
        // The ones that come first are given first: what is never used is never touched.
        let free: Vec<_> = bytes.chunks_exact_mut(BLOCK_BYTES).rev().collect();
        Arc::new(Self { region, blocks, free: Mutex::new(free) })
    }

    /// The memory of all blocks.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.blocks
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }

    /// How many are free.
    pub fn free(&self) -> usize {
        self.locked().len()
    }

    /// Copies `bytes` into free blocks; none if there are too few.
    pub fn fill(self: &Arc<Self>, bytes: &[u8]) -> Option<Vec<Bytes>> {
        let count = bytes.len().div_ceil(BLOCK_BYTES);
        let blocks = {
            let mut free = self.locked();
            let from = free.len().checked_sub(count)?;
            free.split_off(from)
        };
        let filled = blocks.into_iter().rev().zip(bytes.chunks(BLOCK_BYTES)).map(|(block, part)| {
            block[..part.len()].copy_from_slice(part);
            Bytes::from_owner(Filled { slabs: self.clone(), block: Some(block), length: part.len() })
        });
        Some(filled.collect())
    }

    fn locked(&self) -> MutexGuard<'_, Vec<&'static mut [u8]>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A block with something in it.
struct Filled {
    slabs: Arc<Slabs>,
    block: Option<&'static mut [u8]>,
    length: usize,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        self.block.as_deref().map_or(&[], |block| &block[..self.length])
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.slabs.locked().push(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_free_when_the_last_reader_lets_go() {
        let slabs = Slabs::new(4 * BLOCK_BYTES as u64 + 5);
        assert_eq!((slabs.len(), slabs.free()), (4, 4));
        let bytes: Vec<u8> = (0..3 * BLOCK_BYTES - 7).map(|at| (at % 251) as u8).collect();
        let filled = slabs.fill(&bytes).expect("room");
        assert_eq!(filled.concat(), bytes);
        assert_eq!(slabs.free(), 1);
        assert!(slabs.fill(&bytes[..=BLOCK_BYTES]).is_none(), "too few are free");
        let sent = filled[1].slice(10..20);
        drop(filled);
        assert_eq!(slabs.free(), 3, "a block of which a part is on its way is not free");
        assert_eq!(&sent[..], &bytes[BLOCK_BYTES + 10..BLOCK_BYTES + 20]);
        drop(sent);
        assert_eq!(slabs.free(), 4);
    }
}
