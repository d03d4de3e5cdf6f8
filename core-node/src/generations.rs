//! A bounded cache in two generations: what is used moves to the young one, and when that is half the budget, the old one goes.

use std::collections::HashMap;

use headwater_protocol::id::ChunkId;

/// Values by page, each with what it takes of the budget.
pub struct Generations<T> {
    bytes_max: u64,
    young: HashMap<ChunkId, (T, u64)>,
    young_bytes: u64,
    old: HashMap<ChunkId, (T, u64)>,
}

impl<T: Clone> Generations<T> {
    /// A cache of values that take up to `bytes_max` together.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max: bytes_max / 2, young: HashMap::new(), young_bytes: 0, old: HashMap::new() }
    }

    /// The value of `id`.
    pub fn get(&mut self, id: &ChunkId) -> Option<T> {
        if let Some((value, _)) = self.young.get(id) {
            return Some(value.clone());
        }
        let (value, bytes) = self.old.remove(id)?;
        self.keep(*id, value.clone(), bytes);
        Some(value)
    }

    /// Keeps a value that takes so many bytes.
    pub fn keep(&mut self, id: ChunkId, value: T, bytes: u64) {
        if self.young_bytes + bytes > self.bytes_max {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(id, (value, bytes)).is_none() {
            self.young_bytes += bytes;
        }
    }
}
