//! Which chunk gives way of those whose readers did not say what they will read.
//!
//! Training reads every sample once an epoch, in an order that is as good as random. Under that LRU keeps what was read last,
//! which is needed last; keeping any fixed part of the data hits that part in every epoch. So:
//!
//! 1. what nobody reads any more goes first, oldest first;
//! 2. most of the cache is filled once and then stays, for as long as its data is read;
//! 3. the rest passes through: first in, first out, so that neighbours in one chunk are still served by one read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use headwater_protocol::id::ChunkId;

use super::Reader;

/// The part of the cache through which passes what does not stay: one in so many blocks.
const PASSING_PART: usize = 8;

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
pub(super) struct Standing {
    staying_blocks_max: usize,
    staying_blocks: usize,
    blocks: usize,
    came: u64,
    entries: BTreeMap<ChunkId, Entry>,
    by_reader: BTreeMap<Reader, BTreeSet<ChunkId>>,
    /// Each may hold chunks that are elsewhere by now; the entry says where.
    passing: VecDeque<ChunkId>,
    idle: VecDeque<ChunkId>,
}

impl Standing {
    /// The policy of a cache of so many blocks.
    pub(super) fn new(blocks: usize) -> Self {
        Self {
            staying_blocks_max: staying_part(blocks),
            staying_blocks: 0,
            blocks: 0,
            came: 0,
            entries: BTreeMap::new(),
            by_reader: BTreeMap::new(),
            passing: VecDeque::new(),
            idle: VecDeque::new(),
        }
    }

    /// From now on it has so many blocks.
    pub(super) fn handle_resized(&mut self, blocks: usize) {
        self.staying_blocks_max = staying_part(blocks);
    }

    /// Blocks of all its chunks.
    pub(super) const fn blocks(&self) -> usize {
        self.blocks
    }

    /// How many readers have chunks here.
    pub(super) fn readers(&self) -> usize {
        self.by_reader.len()
    }

    /// Blocks of a chunk that is here.
    pub(super) fn blocks_of(&self, id: &ChunkId) -> Option<usize> {
        self.entries.get(id).map(|entry| entry.blocks)
    }

    /// A chunk that nobody reads any more is here now.
    pub(super) fn handle_idle(&mut self, id: ChunkId, blocks: usize) {
        self.forget(&id);
        self.came += 1;
        self.blocks += blocks;
        self.entries.insert(id, Entry { blocks, reader: Reader::MAX, place: Place::Idle, came: self.came });
        self.idle.push_back(id);
    }

    /// A chunk came in for `reader`.
    pub(super) fn handle_loaded(&mut self, id: ChunkId, blocks: usize, reader: Reader) {
        self.forget(&id);
        let place = if self.staying_blocks + blocks <= self.staying_blocks_max {
            self.staying_blocks += blocks;
            Place::Staying
        } else {
            self.passing.push_back(id);
            Place::Passing
        };
        self.came += 1;
        self.blocks += blocks;
        self.entries.insert(id, Entry { blocks, reader, place, came: self.came });
        self.by_reader.entry(reader).or_default().insert(id);
    }

    /// A chunk that is in was read by `reader`.
    pub(super) fn handle_hit(&mut self, id: &ChunkId, reader: Reader) {
        let Some(entry) = self.entries.get(id) else { return };
        if entry.place == Place::Idle {
            let blocks = entry.blocks;
            self.handle_loaded(*id, blocks, reader);
        }
    }

    /// `reader` reads no more: what only it read is idle.
    pub(super) fn handle_closed(&mut self, reader: Reader) {
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

    /// The oldest of what nobody reads; it is forgotten.
    pub(super) fn poll_idle(&mut self) -> Option<ChunkId> {
        while let Some(id) = self.idle.pop_front() {
            if self.entries.get(&id).is_some_and(|entry| entry.place == Place::Idle) {
                self.forget(&id);
                return Some(id);
            }
        }
        None
    }

    /// What goes next of what is read; it is forgotten.
    pub(super) fn poll_read(&mut self) -> Option<ChunkId> {
        while let Some(id) = self.passing.pop_front() {
            if self.entries.get(&id).is_some_and(|entry| entry.place == Place::Passing) {
                self.forget(&id);
                return Some(id);
            }
        }
        let id = self.entries.keys().next_back().copied()?;
        self.forget(&id);
        Some(id)
    }

    pub(super) fn forget(&mut self, id: &ChunkId) {
        let Some(entry) = self.entries.remove(id) else { return };
        self.blocks -= entry.blocks;
        if entry.place == Place::Staying {
            self.staying_blocks -= entry.blocks;
        }
        if let Some(chunks) = self.by_reader.get_mut(&entry.reader) {
            chunks.remove(id);
            if chunks.is_empty() {
                self.by_reader.remove(&entry.reader);
            }
        }
    }
}

const fn staying_part(blocks: usize) -> usize {
    blocks - blocks / PASSING_PART
}
