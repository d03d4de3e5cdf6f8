//! From what a job asks for to tables and stretches of chunks. Pure: leaves, extents and paths come in as arguments.

use std::collections::{BTreeMap, BTreeSet};

use headwater_protocol::delivery::{FileStatus, Plan, PlannedFile, Unit};
use headwater_protocol::id::ChunkId;
use headwater_protocol::record::ChunkRef;

use super::leaf::{FileBody, LaidFile, LaidLeaf};

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
    /// The chunks that these are of, each once.
    pub(crate) chunks: Vec<ChunkId>,
    known: BTreeMap<ChunkId, usize>,
}

impl BatchPlan {
    /// Bytes that it needs of a slot.
    pub(crate) fn slot_bytes(&self) -> u64 {
        self.tables.table_bytes() as u64 + self.tables.payload_bytes()
    }

    /// Adds a file of the current sample; `extents` are the chunks of one that is paged. Chunks in `lost` can't be had: a file
    /// with one of them is said to be unreadable.
    pub(crate) fn add_file(
        &mut self,
        leaf: &LaidLeaf,
        file: &LaidFile,
        name: &[u8],
        extents: &[ChunkRef],
        lost: &BTreeSet<ChunkId>,
    ) {
        let (pieces_before, units_before) = (self.pieces.len(), self.tables.units.len());
        let mut gone = None;
        match file.body {
            FileBody::Empty => {}
            FileBody::Shared { chunk, offset, hash } => {
                let chunk = leaf.chunks[chunk as usize];
                gone = lost.get(&chunk.id).copied();
                let length = file.size as u32;
                self.add(chunk.id, offset, Unit { id: hash, total: length, offset: 0, bytes: length }, 0);
            }
            FileBody::Whole { first, count } => {
                let chunks = &leaf.extents[first as usize..(first + count) as usize];
                for chunk in chunks.iter().map(|index| leaf.chunks[*index as usize]) {
                    gone = gone.or_else(|| lost.get(&chunk.id).copied());
                    self.add_whole(chunk);
                }
            }
            FileBody::Paged => {
                for &chunk in extents {
                    gone = gone.or_else(|| lost.get(&chunk.id).copied());
                    self.add_whole(chunk);
                }
            }
        }
        let mut status = FileStatus::Whole;
        if let Some(id) = gone {
            self.pieces.truncate(pieces_before);
            self.tables.units.truncate(units_before);
            self.tables.units.push((Unit { id, total: 0, offset: 0, bytes: 0 }, 0));
            status = FileStatus::Unreadable;
        }
        self.end_file(file.size, name, 0, if gone.is_some() { 0 } else { file.size as u32 }, status, units_before);
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
    pub(crate) fn add(&mut self, chunk: ChunkId, offset: u32, unit: Unit, proof_hashes: u32) {
        let next = self.chunks.len();
        let chunk = *self.known.entry(chunk).or_insert_with(|| {
            self.chunks.push(chunk);
            next
        });
        self.pieces.push(Piece { chunk, offset, length: unit.bytes });
        self.tables.units.push((unit, proof_hashes));
    }

    /// Adds a whole chunk.
    pub(crate) fn add_whole(&mut self, chunk: ChunkRef) {
        let unit = Unit { id: chunk.id, total: chunk.length, offset: 0, bytes: chunk.length };
        self.add(chunk.id, 0, unit, 0);
    }

    /// The files added since the last call are one sample.
    pub(crate) fn end_sample(&mut self) {
        self.tables.samples.push(self.tables.files.len() as u32);
    }
}
