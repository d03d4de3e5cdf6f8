//! From what a job asks for to tables and stretches of chunks. Pure: leaves, extents and paths come in as arguments.

use std::collections::{BTreeMap, BTreeSet};

use headwater_protocol::delivery::{FileStatus, Plan, PlannedFile, Unit};
use headwater_protocol::id::ChunkId;
use headwater_protocol::record::ChunkRef;

use super::leaf::{FileBody, LaidFile, LaidLeaf};
use crate::cache::Samples;

/// A stretch of a chunk on its way into a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Index of the chunk in [`BatchPlan::chunks`].
    pub(crate) chunk: usize,
    /// First byte in it.
    pub(crate) offset: u32,
    /// Bytes.
    pub(crate) length: u32,
}

/// What is to be done for one request.
#[derive(Debug, Default)]
pub(crate) struct BatchPlan {
    /// What will stand before the payload.
    pub(crate) tables: Plan,
    /// The payload, in order.
    pub(crate) pieces: Vec<Piece>,
    /// The chunks that these are of, each once, and the samples that each is of.
    pub(crate) chunks: Vec<(ChunkId, Samples)>,
    known: BTreeMap<ChunkId, usize>,
}

impl BatchPlan {
    /// Bytes that it needs of a slot.
    pub(crate) fn slot_bytes(&self) -> u64 {
        self.tables.table_bytes() as u64 + self.tables.payload_bytes()
    }

    /// Adds a file of the current sample, which is in a page whose first sample is number `first`. It has its `parts` one after
    /// the other, and `extents` are the chunks of those that are paged, which are of `sample`. Chunks in `lost` can't be had: a
    /// file with one of them is said to be unreadable.
    pub(crate) fn add_file(
        &mut self,
        (leaf, first): (&LaidLeaf, u64),
        parts: &[LaidFile],
        name: &[u8],
        (extents, sample): (&[Vec<ChunkRef>], &Samples),
        lost: &BTreeSet<ChunkId>,
    ) {
        let units_before = self.tables.units.len();
        let size: u64 = parts.iter().map(|part| part.size).sum();
        let paged = |index: usize| extents.get(index).map_or(&[][..], Vec::as_slice);
        let gone = (!lost.is_empty())
            .then(|| parts.iter().enumerate().find_map(|(index, part)| find_lost(leaf, part, paged(index), lost)))
            .flatten();
        if let Some(gone) = gone {
            self.tables.units.push((Unit { id: gone, total: 0, offset: 0, bytes: 0 }, 0));
            return self.end_file(size, name, 0, 0, FileStatus::Unreadable, units_before);
        }
        for (index, part) in parts.iter().enumerate() {
            match part.body {
                FileBody::Empty => {}
                FileBody::Shared { chunk, offset, hash } => {
                    let length = part.size as u32;
                    let unit = Unit { id: hash, total: length, offset: 0, bytes: length };
                    self.add(leaf.chunks[chunk as usize].id, leaf.samples_of(chunk, first), offset, unit, 0);
                }
                FileBody::Whole { first: from, count } => {
                    for &chunk in &leaf.extents[from as usize..(from + count) as usize] {
                        self.add_whole(leaf.chunks[chunk as usize], leaf.samples_of(chunk, first));
                    }
                }
                FileBody::Paged => paged(index).iter().for_each(|chunk| self.add_whole(*chunk, sample.clone())),
            }
        }
        self.end_file(size, name, 0, size as u32, FileStatus::Whole, units_before);
    }

    /// Notes a file whose units were added since there were `units_before`.
    pub(crate) fn end_file(
        &mut self,
        size: u64,
        name: &[u8],
        lead: u32,
        length: u32,
        status: FileStatus,
        units_before: usize,
    ) {
        self.tables.names.extend_from_slice(name);
        self.tables.files.push(PlannedFile {
            size,
            lead,
            length,
            units: (self.tables.units.len() - units_before) as u32,
            name_bytes: name.len() as u32,
            status,
        });
    }

    /// Adds a unit whose bytes are those of `chunk` from `offset` on.
    pub(crate) fn add(&mut self, chunk: ChunkId, samples: Samples, offset: u32, unit: Unit, proof_hashes: u32) {
        let next = self.chunks.len();
        let chunk = *self.known.entry(chunk).or_insert_with(|| {
            self.chunks.push((chunk, samples));
            next
        });
        self.pieces.push(Piece { chunk, offset, length: unit.bytes });
        self.tables.units.push((unit, proof_hashes));
    }

    /// Adds a whole chunk.
    pub(crate) fn add_whole(&mut self, chunk: ChunkRef, samples: Samples) {
        let unit = Unit { id: chunk.id, total: chunk.length, offset: 0, bytes: chunk.length };
        self.add(chunk.id, samples, 0, unit, 0);
    }

    /// The files added since the last call are one sample.
    pub(crate) fn end_sample(&mut self) {
        self.tables.samples.push(self.tables.files.len() as u32);
    }
}

/// The first chunk of a part that can't be had.
fn find_lost(leaf: &LaidLeaf, part: &LaidFile, paged: &[ChunkRef], lost: &BTreeSet<ChunkId>) -> Option<ChunkId> {
    let of_leaf = |index: &u32| leaf.chunks[*index as usize].id;
    let mut all: Box<dyn Iterator<Item = ChunkId> + '_> = match part.body {
        FileBody::Empty => Box::new(std::iter::empty()),
        FileBody::Shared { chunk, .. } => Box::new(std::iter::once(of_leaf(&chunk))),
        FileBody::Whole { first, count } => {
            Box::new(leaf.extents[first as usize..(first + count) as usize].iter().map(of_leaf))
        }
        FileBody::Paged => Box::new(paged.iter().map(|chunk| chunk.id)),
    };
    all.find(|id| lost.contains(id))
}
