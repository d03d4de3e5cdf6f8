//! Which chunk gives way when the cache is full: a pure decision over what came in and who reads it.
//!
//! Training reads every sample once an epoch, in an order that is as good as random. Under that LRU keeps what was read last,
//! which is needed last; keeping any fixed part of the data hits that part in every epoch. So:
//!
//! 1. what nobody reads any more goes first, oldest first;
//! 2. most of the cache is filled once and then stays, for as long as its data is read;
//! 3. the rest passes through: first in, first out, so that neighbours in one chunk are still served by one read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use headwater_protocol::id::ChunkId;

/// The part of the cache through which passes what does not stay: one in so many blocks.
const PASSING_PART: usize = 8;

/// Who reads a chunk: the number of an opened version.
pub type Reader = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Staying,
    Passing,
    Idle,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    blocks: usize,
    reader: Reader,
    place: Place,
    /// As the how-manieth it came in.
    came: u64,
}

/// What is in the cache, and in which order it goes.
#[derive(Debug)]
pub struct Policy {
    staying_blocks_max: usize,
    staying_blocks: usize,
    came: u64,
    entries: BTreeMap<ChunkId, Entry>,
    by_reader: BTreeMap<Reader, BTreeSet<ChunkId>>,
    /// Each may hold chunks that are elsewhere by now; the entry says where.
    passing: VecDeque<ChunkId>,
    idle: VecDeque<ChunkId>,
}

impl Policy {
    /// The policy of a cache of so many blocks.
    pub fn new(blocks: usize) -> Self {
        Self {
            staying_blocks_max: blocks - blocks / PASSING_PART,
            staying_blocks: 0,
            came: 0,
            entries: BTreeMap::new(),
            by_reader: BTreeMap::new(),
            passing: VecDeque::new(),
            idle: VecDeque::new(),
        }
    }

    /// A chunk came in for `reader`.
    pub fn handle_loaded(&mut self, id: ChunkId, blocks: usize, reader: Reader) {
        self.forget(&id);
        let place = if self.staying_blocks + blocks <= self.staying_blocks_max {
            self.staying_blocks += blocks;
            Place::Staying
        } else {
            self.passing.push_back(id);
            Place::Passing
        };
        self.came += 1;
        self.entries.insert(id, Entry { blocks, reader, place, came: self.came });
        self.by_reader.entry(reader).or_default().insert(id);
    }

    /// A chunk that is in was read by `reader`.
    pub fn handle_hit(&mut self, id: &ChunkId, reader: Reader) {
        let Some(entry) = self.entries.get(id) else { return };
        if entry.place == Place::Idle {
            let blocks = entry.blocks;
            self.handle_loaded(*id, blocks, reader);
        }
    }

    /// `reader` reads no more: what only it read is idle.
    pub fn handle_closed(&mut self, reader: Reader) {
        let mut left: Vec<_> = self.by_reader.remove(&reader).unwrap_or_default().into_iter().collect();
        left.sort_by_key(|id| self.entries.get(id).map(|entry| entry.came));
        for id in left {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if entry.place == Place::Staying {
                self.staying_blocks -= entry.blocks;
            }
            entry.place = Place::Idle;
            self.idle.push_back(id);
        }
    }

    /// What goes next; it is forgotten. None if there is nothing.
    pub fn poll_victim(&mut self) -> Option<ChunkId> {
        let from = |queue: &mut VecDeque<ChunkId>, entries: &BTreeMap<ChunkId, Entry>, place| {
            while let Some(id) = queue.pop_front() {
                if entries.get(&id).is_some_and(|entry| entry.place == place) {
                    return Some(id);
                }
            }
            None
        };
        let id = from(&mut self.idle, &self.entries, Place::Idle)
            .or_else(|| from(&mut self.passing, &self.entries, Place::Passing))
            .or_else(|| self.entries.keys().next_back().copied())?;
        self.forget(&id);
        Some(id)
    }

    fn forget(&mut self, id: &ChunkId) {
        let Some(entry) = self.entries.remove(id) else { return };
        if entry.place == Place::Staying {
            self.staying_blocks -= entry.blocks;
        }
        if let Some(chunks) = self.by_reader.get_mut(&entry.reader) {
            chunks.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> ChunkId {
        ChunkId::of(&number.to_le_bytes())
    }

    /// Reads `order` through a cache of `blocks` chunks of one block; gives how many were hits.
    fn hits(
        policy: &mut Policy,
        resident: &mut BTreeSet<ChunkId>,
        blocks: usize,
        order: &[u32],
        reader: Reader,
    ) -> usize {
        let mut hits = 0;
        for &number in order {
            let id = id(number);
            if resident.contains(&id) {
                policy.handle_hit(&id, reader);
                hits += 1;
                continue;
            }
            while resident.len() >= blocks {
                let victim = policy.poll_victim().expect("something is in");
                assert!(resident.remove(&victim), "a victim is in the cache");
            }
            resident.insert(id);
            policy.handle_loaded(id, 1, reader);
        }
        hits
    }

    fn shuffled(length: u32, seed: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..length).collect();
        order.sort_by_key(|number| ChunkId::of(&[&seed.to_le_bytes()[..], &number.to_le_bytes()].concat()));
        order
    }

    #[test]
    fn a_fixed_part_of_shuffled_data_is_hit_in_every_epoch() {
        let (mut policy, mut resident) = (Policy::new(64), BTreeSet::new());
        hits(&mut policy, &mut resident, 64, &shuffled(128, 0), 1);
        for epoch in 1..6 {
            let hits = hits(&mut policy, &mut resident, 64, &shuffled(128, epoch), 1);
            assert!(hits >= 56, "{hits} of 128 in epoch {epoch}, with half of the data in the cache");
        }
    }

    #[test]
    fn what_nobody_reads_goes_first() {
        let (mut policy, mut resident) = (Policy::new(64), BTreeSet::new());
        hits(&mut policy, &mut resident, 64, &(0..64).collect::<Vec<_>>(), 1);
        policy.handle_closed(1);
        let second: Vec<u32> = (100..156).collect();
        hits(&mut policy, &mut resident, 64, &second, 2);
        assert_eq!(hits(&mut policy, &mut resident, 64, &second, 2), 56, "the new job's data stays");
        assert!(resident.contains(&id(63)), "of the old one's the newest is still there");
    }

    #[test]
    fn what_is_read_again_is_idle_no_more() {
        let (mut policy, mut resident) = (Policy::new(8), BTreeSet::new());
        hits(&mut policy, &mut resident, 8, &[0, 1, 2, 3, 4, 5, 6, 7], 1);
        policy.handle_closed(1);
        assert_eq!(hits(&mut policy, &mut resident, 8, &[0], 2), 1);
        hits(&mut policy, &mut resident, 8, &[10, 11, 12], 2);
        assert!(resident.contains(&id(0)));
    }
}
