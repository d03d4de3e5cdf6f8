//! Which chunk gives way when the cache is full: a pure decision over what came in, who reads it, and what they said they will read.
//!
//! 1. What nobody reads any more goes first, oldest first.
//! 2. Jobs that declared their order ([`foreseen`]) lose what they need furthest in the future.
//! 3. Of what others read, most stays and the rest passes through ([`standing`]).
//!
//! Where there are both kinds, those that declared nothing share as many blocks as their number says, and are the first to
//! give way when they have more.

mod foreseen;
mod standing;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use headwater_protocol::id::ChunkId;

use foreseen::Foreseen;
use standing::Standing;

pub use foreseen::{Foresight, Track};

/// Who reads a chunk: the number of an opened source.
pub type Reader = u64;

/// Samples of a source that a chunk holds bytes of.
pub type Samples = Range<u64>;

/// What is in the cache, and in which order it goes.
#[derive(Debug)]
pub struct Policy {
    blocks: usize,
    standing: Standing,
    foreseen: Foreseen,
}

impl Policy {
    /// The policy of a cache of so many blocks.
    pub fn new(blocks: usize) -> Self {
        Self { blocks, standing: Standing::new(blocks), foreseen: Foreseen::default() }
    }

    /// From now on `reader` reads as `foresight` says, along with all others of `track`.
    pub fn handle_declared(&mut self, reader: Reader, track: Track, foresight: Arc<dyn Foresight>) {
        self.foreseen.handle_declared(reader, track, foresight);
        self.divide();
    }

    /// A chunk came in for `reader`; it is of these samples.
    pub fn handle_loaded(&mut self, id: ChunkId, blocks: usize, reader: Reader, samples: &Samples) {
        if self.foreseen.handle_loaded(id, blocks, reader, samples) {
            self.standing.forget(&id);
        } else {
            self.standing.handle_loaded(id, blocks, reader);
        }
        self.divide();
    }

    /// A chunk that is in was read by `reader`; it is of these samples.
    pub fn handle_hit(&mut self, id: &ChunkId, reader: Reader, samples: &Samples) {
        if let Some(blocks) = self.standing.blocks_of(id) {
            if self.foreseen.handle_loaded(*id, blocks, reader, samples) {
                self.standing.forget(id);
            } else {
                self.standing.handle_hit(id, reader);
            }
        } else {
            self.foreseen.handle_hit(id, reader, samples);
        }
    }

    /// `reader` reads no more: what only it read is idle.
    pub fn handle_closed(&mut self, reader: Reader) {
        self.standing.handle_closed(reader);
        for (id, blocks) in self.foreseen.handle_closed(reader) {
            self.standing.handle_idle(id, blocks);
        }
        self.divide();
    }

    /// What goes next; it is forgotten. None if there is nothing.
    pub fn poll_victim(&mut self) -> Option<ChunkId> {
        if let Some(id) = self.standing.poll_idle() {
            return Some(id);
        }
        if self.standing.blocks() > self.standing_blocks_max()
            && let Some(id) = self.standing.poll_read()
        {
            return Some(id);
        }
        self.foreseen.poll_victim().or_else(|| self.standing.poll_read())
    }

    /// What would give way to a chunk that `reader` needs for these samples at some time: only what is needed later than
    /// that. It is forgotten. None if nothing is, and then the chunk is not to be read yet.
    pub fn poll_victim_for(&mut self, reader: Reader, samples: &Samples) -> Option<ChunkId> {
        if let Some(id) = self.standing.poll_idle() {
            return Some(id);
        }
        if self.standing.blocks() > self.standing_blocks_max() {
            return self.standing.poll_read();
        }
        self.foreseen.poll_later_than(reader, samples)
    }

    /// The part of the cache for what was not declared.
    fn standing_blocks_max(&self) -> usize {
        let (standing, tracks) = (self.standing.readers(), self.foreseen.tracks());
        if tracks == 0 { self.blocks } else { self.blocks * standing / (standing + tracks) }
    }

    fn divide(&mut self) {
        self.standing.handle_resized(self.standing_blocks_max());
    }
}
