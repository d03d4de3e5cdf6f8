//! A leaf page made ready for planning: which files make up its samples, and where their bytes are. Pure.
//!
//! A page keeps records for people and for building; a job wants sample after sample, thousands of times a second. So what
//! that needs is laid out once for each page, without paths, and kept.

use headwater_protocol::id::ChunkId;
use headwater_protocol::page::LeafPage;
use headwater_protocol::path;
use headwater_protocol::record::{ChunkRef, Content, FileKind};
use headwater_protocol::tree::stem_groups;

use crate::cache::Samples;
use crate::samples::CONTINUES;

/// What a laid out file, chunk or name takes in memory, at most, in bytes.
const FILE_COST: u64 = 80;
const CHUNK_COST: u64 = 48;

/// Where a file's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileBody {
    /// There are none.
    Empty,
    /// A stretch of one chunk, whose own BLAKE3 is known.
    Shared {
        /// Index of the chunk in the page's table.
        chunk: u32,
        /// First byte in it.
        offset: u32,
        /// BLAKE3 of the stretch.
        hash: ChunkId,
    },
    /// Whole chunks: so many entries of the page's list of extents, from one on.
    Whole {
        /// The first.
        first: u32,
        /// How many.
        count: u32,
    },
    /// In a tree of extent pages of its own.
    Paged,
}

/// A file as a plan needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaidFile {
    /// Bytes.
    pub(crate) size: u64,
    /// Where they are.
    pub(crate) body: FileBody,
    /// Its index in the page.
    pub(crate) record: u32,
    /// Whether its bytes continue those of the file before it.
    pub(crate) continues: bool,
    /// Index of its suffix in the page's suffixes.
    suffix: u32,
}

/// A leaf page made ready.
#[derive(Debug)]
pub(crate) struct LaidLeaf {
    /// The page's chunk table.
    pub(crate) chunks: Vec<ChunkRef>,
    /// Indices of chunks, for files of whole chunks.
    pub(crate) extents: Vec<u32>,
    files: Vec<LaidFile>,
    /// Files up to the end of each sample.
    samples: Vec<u32>,
    /// For each chunk the first sample of the page that it is of, and the one after the last.
    of_chunks: Vec<(u32, u32)>,
    suffixes: Vec<Vec<u8>>,
}

impl LaidLeaf {
    /// Lays out a page: one of a version, or one of an index of records `inside` files.
    pub(crate) fn new(page: &LeafPage, inside: bool) -> Self {
        let mut laid = Self {
            chunks: page.chunks.clone(),
            extents: Vec::new(),
            files: Vec::with_capacity(page.records.len()),
            samples: Vec::new(),
            of_chunks: vec![(u32::MAX, 0); page.chunks.len()],
            suffixes: Vec::new(),
        };
        for group in stem_groups(&page.records) {
            let before = laid.files.len();
            for index in group {
                let record = &page.records[index];
                if record.kind != FileKind::File {
                    continue;
                }
                let body = laid.body(&record.content);
                laid.note_chunks(body);
                let suffix = laid.suffix(&record.path[path::stem(&record.path).len()..]);
                let continues = inside && record.mode == CONTINUES && laid.files.len() > before;
                laid.files.push(LaidFile { size: record.size, body, record: index as u32, continues, suffix });
            }
            if laid.files.len() > before {
                laid.samples.push(laid.files.len() as u32);
            }
        }
        laid
    }

    /// The sample that comes next in the page has a file of `body`.
    fn note_chunks(&mut self, body: FileBody) {
        let sample = self.samples.len() as u32;
        let Self { extents, of_chunks, .. } = self;
        let one;
        let chunks = match body {
            FileBody::Empty | FileBody::Paged => return,
            FileBody::Shared { chunk, .. } => {
                one = [chunk];
                &one[..]
            }
            FileBody::Whole { first, count } => &extents[first as usize..(first + count) as usize],
        };
        for chunk in chunks {
            let (first, end) = &mut of_chunks[*chunk as usize];
            (*first, *end) = ((*first).min(sample), (*end).max(sample + 1));
        }
    }

    fn body(&mut self, content: &Content) -> FileBody {
        match content {
            Content::Empty => FileBody::Empty,
            Content::Shared { extent, hash } => {
                FileBody::Shared { chunk: extent.chunk, offset: extent.offset, hash: *hash }
            }
            Content::Whole(extents) => {
                let first = self.extents.len() as u32;
                self.extents.extend(extents.iter().map(|extent| extent.chunk));
                FileBody::Whole { first, count: extents.len() as u32 }
            }
            Content::Paged { .. } => FileBody::Paged,
        }
    }

    fn suffix(&mut self, suffix: &[u8]) -> u32 {
        let known = self.suffixes.iter().rposition(|known| known == suffix);
        known.unwrap_or_else(|| {
            self.suffixes.push(suffix.to_vec());
            self.suffixes.len() - 1
        }) as u32
    }

    /// The files of sample number `sample` of the page; what continues a file stands behind it.
    pub(crate) fn sample(&self, sample: usize) -> Option<&[LaidFile]> {
        let end = *self.samples.get(sample)? as usize;
        let start = if sample == 0 { 0 } else { self.samples[sample - 1] as usize };
        Some(&self.files[start..end])
    }

    /// The samples that chunk number `chunk` of the page is of, if the page's first sample is number `first` of the source.
    pub(crate) fn samples_of(&self, chunk: u32, first: u64) -> Samples {
        let (from, to) = self.of_chunks[chunk as usize];
        first + u64::from(from.min(to))..first + u64::from(to)
    }

    /// What follows the stem in a file's name.
    pub(crate) fn suffix_of(&self, file: &LaidFile) -> &[u8] {
        &self.suffixes[file.suffix as usize]
    }

    /// What this takes in memory, in bytes.
    pub(crate) fn cost(&self) -> u64 {
        let names: usize = self.suffixes.iter().map(|suffix| suffix.len() + 24).sum();
        self.files.len() as u64 * FILE_COST
            + self.chunks.len() as u64 * CHUNK_COST
            + (self.extents.len() + self.samples.len()) as u64 * 4
            + names as u64
    }
}
