//! The order in which a training job reads samples: a pure function of what it declares.
//!
//! ```text
//!   position in the epoch          --- Order ----->  index in the selection  --- Selection --->  number of the sample
//!   0 .. len, one for all ranks       (seed, epoch)    0 .. len                (filter, fraction)   as the version counts
//!        ^
//!        |  Share: rank r of w has the positions start + r, start + r + w, start + r + 2 w, ...
//! ```
//!
//! There is one global order per epoch. Ranks only divide its positions, so what they read together is the same at any world
//! size, and a job resumes at any position with any other world size. No step costs time or memory in the number of samples.

mod course;
mod permutation;
mod reading;
mod selection;
mod share;
mod shuffle;

#[cfg(test)]
mod tests;

pub use course::{Course, ReadingError};
pub use reading::{READING_RUNS_MAX, READING_WORKERS_MAX, Reading};
pub use selection::{Fraction, Selection, SelectionError};
pub use share::{Positions, Remainder, Share, ShareError};
pub use shuffle::Shuffle;

use std::num::NonZeroU64;

use permutation::{KEY_BYTES, Key, Permutation};

use crate::id::ID_BYTES;

/// Separates the keys of orders from every other use of BLAKE3.
const CONTEXT: &str = "headwater 2026 order of samples";

/// The order of one epoch: which sample is read at which position.
///
/// It stays the same for ever for the same arguments: a job that is resumed a year later reads on where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    len: u64,
    mixing: Mixing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mixing {
    None,
    Full(Permutation),
    Blocks(Blocks),
}

impl Order {
    /// The order of `len` samples of `source` (the id of a version or collection) in epoch `epoch` of a job with seed `seed`.
    pub fn new(source: &[u8; ID_BYTES], len: u64, seed: u64, epoch: u64, shuffle: Shuffle) -> Self {
        let mixing = match shuffle {
            Shuffle::None => Mixing::None,
            Shuffle::Full => Mixing::Full(Permutation::new(len, key(source, seed, "epoch", epoch))),
            Shuffle::Blocks(size) => Mixing::Blocks(Blocks::new(len, size, key(source, seed, "epoch", epoch))),
        };
        Self { len, mixing }
    }

    /// Number of positions.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing to read.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Which sample is read at `position`, or nothing past the end.
    pub fn sample(&self, position: u64) -> Option<u64> {
        (position < self.len).then(|| match &self.mixing {
            Mixing::None => position,
            Mixing::Full(all) => all.apply(position),
            Mixing::Blocks(blocks) => blocks.apply(position),
        })
    }

    /// At which position `sample` is read, or nothing if there is no such sample: what a cache has to know to keep what is needed
    /// soonest.
    pub fn position(&self, sample: u64) -> Option<u64> {
        (sample < self.len).then(|| match &self.mixing {
            Mixing::None => sample,
            Mixing::Full(all) => all.invert(sample),
            Mixing::Blocks(blocks) => blocks.invert(sample),
        })
    }
}

/// The key for one purpose and number of it.
fn key(source: &[u8; ID_BYTES], seed: u64, purpose: &str, number: u64) -> Key {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(source).update(&seed.to_le_bytes()).update(&number.to_le_bytes()).update(purpose.as_bytes());
    let mut bytes = [0; KEY_BYTES];
    hasher.finalize_xof().fill(&mut bytes);
    Key::from_bytes(&bytes)
}

/// Blocks in a random order, each mixed within. Only the last block of the version may be shorter; it comes anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blocks {
    len: u64,
    size: u64,
    order: Permutation,
    key: Key,
    /// Where the shorter block comes, and what it lacks; none is short where all are whole.
    short: Option<Short>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Short {
    slot: u64,
    lacks: u64,
}

impl Blocks {
    fn new(len: u64, size: NonZeroU64, key: Key) -> Self {
        let size = size.get();
        let count = len.div_ceil(size);
        // The blocks' own keys are of the numbers from 0 on, so this one is of none of them.
        let order = Permutation::new(count, key.part(u64::MAX));
        let short =
            (!len.is_multiple_of(size)).then(|| Short { slot: order.invert(count - 1), lacks: size - len % size });
        Self { len, size, order, key, short }
    }

    fn apply(&self, position: u64) -> u64 {
        let slot = self.slot(position);
        let block = self.order.apply(slot);
        block * self.size + self.within(block).apply(position - self.start(slot))
    }

    fn invert(&self, sample: u64) -> u64 {
        let block = sample / self.size;
        self.start(self.order.invert(block)) + self.within(block).invert(sample % self.size)
    }

    /// The order within a block.
    fn within(&self, block: u64) -> Permutation {
        Permutation::new(self.size.min(self.len - block * self.size), self.key.part(block))
    }

    /// At which position the block that comes `slot` blocks after the first begins.
    fn start(&self, slot: u64) -> u64 {
        let lacks = self.short.filter(|short| slot > short.slot).map_or(0, |short| short.lacks);
        slot * self.size - lacks
    }

    /// As the how-manieth the block of this position comes.
    fn slot(&self, position: u64) -> u64 {
        match self.short {
            // Past the end of the short block all begin earlier by what it lacks.
            Some(short) if position / self.size >= short.slot => {
                let short_end = (short.slot + 1) * self.size - short.lacks;
                if position < short_end { short.slot } else { short.slot + 1 + (position - short_end) / self.size }
            }
            _ => position / self.size,
        }
    }
}
