//! A leaf page in the making: records whose chunks are known by id, before they get their indices in the page's table.

use std::collections::BTreeMap;
use std::ops::Range;

use super::build::BuildError;
use super::group::stem_groups;
use crate::id::ChunkId;
use crate::manifest::Totals;
use crate::page::LeafPage;
use crate::path::RelPath;
use crate::record::{ChunkRef, Content, Extent, FileKind, FileRecord};

/// Most bytes that a record takes in an encoded page besides its path, its target and its extents.
pub(super) const RECORD_BYTES_FIXED: usize = 128;
/// Most bytes that an extent takes, its entry in the chunk table included.
pub(super) const EXTENT_BYTES: usize = 48;
const PADDING_BYTES: usize = 16;

const _: () = {
    let chunk = size_of::<rkyv::Archived<ChunkRef>>();
    assert!(size_of::<rkyv::Archived<FileRecord>>() + chunk + PADDING_BYTES <= RECORD_BYTES_FIXED + EXTENT_BYTES);
    assert!(size_of::<rkyv::Archived<Extent>>() + chunk <= EXTENT_BYTES);
};

/// A record that waits for its page to be complete.
pub(super) struct PendingRecord {
    pub(super) path: RelPath,
    pub(super) kind: FileKind,
    pub(super) link_target: Vec<u8>,
    pub(super) mode: u32,
    pub(super) mtime_ns: i64,
    pub(super) size: u64,
    pub(super) place: Place,
}

/// Where a pending record's bytes are.
pub(super) enum Place {
    Empty,
    /// `at` is known once the shared chunk is complete.
    Shared {
        at: Option<(ChunkRef, u32)>,
        length: u32,
        hash: ChunkId,
    },
    Whole(Vec<ChunkRef>),
    Paged {
        root: ChunkId,
        chunks: u64,
        height: u8,
    },
}

impl PendingRecord {
    /// Most bytes that the record adds to its encoded page. It depends on the record alone.
    pub(super) fn bytes_max(&self) -> usize {
        let extents = match &self.place {
            Place::Whole(chunks) => chunks.len(),
            Place::Shared { .. } => 1,
            Place::Empty | Place::Paged { .. } => 0,
        };
        RECORD_BYTES_FIXED + self.path.as_bytes().len() + self.link_target.len() + extents * EXTENT_BYTES
    }
}

/// The page of `records`, all of which know their chunks. Chunks stand in the table in the order in which records first
/// name them.
pub(super) fn assemble(records: Vec<PendingRecord>) -> Result<LeafPage, BuildError> {
    let mut table = Table::default();
    let mut page = LeafPage { chunks: Vec::new(), records: Vec::with_capacity(records.len()) };
    for record in records {
        let PendingRecord { path, kind, link_target, mode, mtime_ns, size, place } = record;
        let content = match table.content(place) {
            Ok(content) => content,
            Err(reason) => return Err(BuildError::Entry { path, reason }),
        };
        let path = path.as_bytes().to_vec();
        page.records.push(FileRecord { path, kind, link_target, mode, mtime_ns, size, content });
    }
    page.chunks = table.chunks;
    Ok(page)
}

#[derive(Default)]
struct Table {
    chunks: Vec<ChunkRef>,
    index: BTreeMap<ChunkId, u32>,
}

impl Table {
    fn content(&mut self, place: Place) -> Result<Content, String> {
        Ok(match place {
            Place::Empty => Content::Empty,
            Place::Shared { at, length, hash } => {
                let (chunk, offset) = at.expect("shared groups end before their page does");
                Content::Shared { extent: Extent { chunk: self.index_of(chunk)?, offset, length }, hash }
            }
            Place::Whole(chunks) => Content::Whole(
                chunks
                    .into_iter()
                    .map(|chunk| Ok(Extent { chunk: self.index_of(chunk)?, offset: 0, length: chunk.length }))
                    .collect::<Result<_, String>>()?,
            ),
            Place::Paged { root, chunks, height } => Content::Paged { root, chunks, height },
        })
    }

    fn index_of(&mut self, chunk: ChunkRef) -> Result<u32, String> {
        let next = self.chunks.len() as u32;
        let index = *self.index.entry(chunk.id).or_insert(next);
        if index == next {
            self.chunks.push(chunk);
        }
        if self.chunks[index as usize].length == chunk.length {
            Ok(index)
        } else {
            Err(format!("chunk {} is given two lengths", chunk.id.short()))
        }
    }
}

/// What a leaf page amounts to. Sums that overflow, which only a hostile page has, stop at the largest number.
pub(super) fn sums(page: &LeafPage) -> Totals {
    let samples = samples(&page.records).count();
    let paged = page.records.iter().map(paged_chunks).fold(0, u64::saturating_add);
    Totals {
        files: page.records.len() as u64,
        samples: samples as u64,
        bytes: page.records.iter().map(|record| record.size).fold(0, u64::saturating_add),
        chunks: paged.saturating_add(page.chunks.len() as u64),
    }
}

/// Chunks that a record's extent pages list.
pub(super) fn paged_chunks(record: &FileRecord) -> u64 {
    match record.content {
        Content::Paged { chunks, .. } => chunks,
        _ => 0,
    }
}

/// The stem groups of a leaf's records that have a regular file.
pub(super) fn samples(records: &[FileRecord]) -> impl Iterator<Item = Range<usize>> + '_ {
    stem_groups(records).filter(|group| records[group.clone()].iter().any(|record| record.kind == FileKind::File))
}
