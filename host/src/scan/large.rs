//! Large files: cut into chunks as they are read, the longest of them by several threads at once.
//!
//! Where FastCDC cuts depends on where it began, but only for a while: begun anywhere, it soon falls into step with the
//! cuts made from the file's start. So a long file is read in segments; each is begun a little before its first byte, and
//! owns the chunks that begin inside it. Where the next segment's first chunk is not where the last one's ended, the file
//! is cut again from there until the two are in step. The result is always what a single pass would give.
//!
//! A model's file is cut where its large tensors begin and end, too: its sections between these cuts are cut each by itself.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use headwater_protocol::chunking::StreamChunker;
use headwater_protocol::record::ChunkRef;
use headwater_protocol::tensors::Layout;

use super::read::{FileContent, ReadContext, ReadOutcome, ReadRequest, open, unchanged};

/// What the names of models' files end with.
const MODEL_SUFFIX: &[u8] = b".safetensors";
/// Bytes of a segment. Tests have small ones, so that small files have several.
const SEGMENT_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 32 << 20 };
/// A segment is begun this many of the largest chunks before its first byte.
const WARM_UP_CHUNKS: u64 = 2;

/// A large file that is being read.
pub(super) struct LargeFile {
    request: ReadRequest,
    /// The sections of each segment of a file that has any.
    sections: Vec<Vec<Range<u64>>>,
    segments: Vec<Mutex<Option<Segment>>>,
    remaining: AtomicUsize,
    failed: AtomicBool,
}

/// The chunks that begin in one segment.
#[derive(Default)]
struct Segment {
    /// Where the first of them begins in the file.
    first: u64,
    chunks: Vec<ChunkRef>,
    /// Where the last of them ends.
    end: u64,
}

/// A segment of a large file, as a job for one thread.
pub(super) struct SegmentJob {
    file: Arc<LargeFile>,
    index: usize,
}

impl SegmentJob {
    /// The jobs in which `request` is read: one for each segment if several `threads` can share them.
    pub(super) fn all_of(
        context: ReadContext<'_>,
        request: ReadRequest,
        threads: usize,
    ) -> impl Iterator<Item = Self> + use<> {
        let segment_bytes = if threads > 1 { SEGMENT_BYTES } else { u64::MAX };
        let sections = sections(context, &request, segment_bytes);
        let count =
            if sections.is_empty() { (request.stamp.size / segment_bytes).max(1) as usize } else { sections.len() };
        let segments = (0..count).map(|_| Mutex::default()).collect();
        let remaining = AtomicUsize::new(count);
        let file = Arc::new(LargeFile { request, sections, segments, remaining, failed: AtomicBool::new(false) });
        (0..count).map(move |index| Self { file: file.clone(), index })
    }

    /// Reads the segment. The job that ends last, or the first that fails, gives the file's outcome.
    pub(super) fn run(self, context: ReadContext<'_>, chunker: &mut StreamChunker) -> Option<(u64, ReadOutcome)> {
        let ticket = self.file.request.ticket;
        let failed = |outcome| (!self.file.failed.swap(true, Ordering::AcqRel)).then_some((ticket, outcome));
        if !self.file.failed.load(Ordering::Acquire) {
            match self.file.read(context, chunker, self.index) {
                Ok(segment) => {
                    *self.file.segments[self.index].lock().unwrap_or_else(PoisonError::into_inner) = Some(segment);
                }
                Err(outcome) => {
                    chunker.reset();
                    return failed(outcome);
                }
            }
        }
        let is_last = self.file.remaining.fetch_sub(1, Ordering::AcqRel) == 1;
        if !is_last || self.file.failed.load(Ordering::Acquire) {
            return None;
        }
        match self.file.join(context, chunker) {
            Ok(chunks) => Some((ticket, ReadOutcome::Read(FileContent::Large(chunks)))),
            Err(outcome) => {
                chunker.reset();
                failed(outcome)
            }
        }
    }
}

impl LargeFile {
    fn read(
        &self,
        context: ReadContext<'_>,
        chunker: &mut StreamChunker,
        index: usize,
    ) -> Result<Segment, ReadOutcome> {
        if let Some(sections) = self.sections.get(index) {
            return self.read_sections(context, chunker, sections);
        }
        let size = self.request.stamp.size;
        let largest = u64::from(context.chunker.max_bytes);
        let from = index as u64 * SEGMENT_BYTES;
        let end = if index + 1 == self.segments.len() { size } else { from + SEGMENT_BYTES };
        let file = open(context, &self.request)?;
        let start = from.saturating_sub(WARM_UP_CHUNKS * largest);
        // A chunk that begins before the end is cut as in the whole file: all that could be in it is seen.
        let mut reader = Stretch { file: &file, at: start, end: (end + largest).min(size) };
        let mut position = start;
        while position < from {
            match chunker.next_cut(&mut reader).map_err(ReadOutcome::Unreadable)? {
                Some(bytes) => position += bytes.len() as u64,
                None => break,
            }
        }
        let mut segment = Segment { first: position, chunks: Vec::new(), end: position };
        while segment.end < end {
            match next_chunk(context, chunker, &mut reader)? {
                Some(chunk) => {
                    segment.end += u64::from(chunk.length);
                    segment.chunks.push(chunk);
                }
                None => break,
            }
        }
        chunker.reset();
        unchanged(&file, &self.request)?;
        Ok(segment)
    }

    fn read_sections(
        &self,
        context: ReadContext<'_>,
        chunker: &mut StreamChunker,
        sections: &[Range<u64>],
    ) -> Result<Segment, ReadOutcome> {
        let file = open(context, &self.request)?;
        let first = sections.first().map_or(0, |section| section.start);
        let mut segment = Segment { first, chunks: Vec::new(), end: first };
        for section in sections {
            let mut reader = Stretch { file: &file, at: section.start, end: section.end };
            while let Some(chunk) = next_chunk(context, chunker, &mut reader)? {
                segment.end += u64::from(chunk.length);
                segment.chunks.push(chunk);
            }
            if segment.end != section.end {
                return Err(ReadOutcome::Changed);
            }
        }
        unchanged(&file, &self.request)?;
        Ok(segment)
    }

    /// The chunks of the whole file, and the certainty that it was the same all the time.
    fn join(&self, context: ReadContext<'_>, chunker: &mut StreamChunker) -> Result<Vec<ChunkRef>, ReadOutcome> {
        let size = self.request.stamp.size;
        let file = open(context, &self.request)?;
        let mut joined = Vec::new();
        let mut position = 0;
        for segment in &self.segments {
            let taken = segment.lock().unwrap_or_else(PoisonError::into_inner).take();
            let segment = taken.ok_or(ReadOutcome::Changed)?;
            let mut rest = segment.chunks.as_slice();
            let mut rest_begins = segment.first;
            let mut reader = Stretch { file: &file, at: position, end: size };
            while position < segment.end {
                while rest_begins < position
                    && let Some((first, behind)) = rest.split_first()
                {
                    rest_begins += u64::from(first.length);
                    rest = behind;
                }
                if rest_begins == position {
                    joined.extend_from_slice(rest);
                    position = segment.end;
                } else {
                    let Some(chunk) = next_chunk(context, chunker, &mut reader)? else {
                        return Err(ReadOutcome::Changed);
                    };
                    position += u64::from(chunk.length);
                    joined.push(chunk);
                }
            }
            chunker.reset();
        }
        unchanged(&file, &self.request)?;
        if position == size { Ok(joined) } else { Err(ReadOutcome::Changed) }
    }
}

/// The sections of a model's file, in segments of at least `segment_bytes`; none of any other file.
fn sections(context: ReadContext<'_>, request: &ReadRequest, segment_bytes: u64) -> Vec<Vec<Range<u64>>> {
    let size = request.stamp.size;
    if !request.path.as_bytes().ends_with(MODEL_SUFFIX) {
        return Vec::new();
    }
    let Ok(file) = open(context, request) else { return Vec::new() };
    let read = |at, into: &mut [u8]| -> Result<(), Box<dyn Error>> { Ok(file.read_exact_at(into, at)?) };
    // What is no model is cut as anything else is.
    let Ok(layout) = Layout::read(size, read) else { return Vec::new() };
    let mut sections = vec![Vec::new()];
    let mut start = 0;
    let mut in_segment = 0;
    for end in layout.cuts(context.chunker.min_bytes.into()).into_iter().chain([size]) {
        if in_segment >= segment_bytes {
            sections.push(Vec::new());
            in_segment = 0;
        }
        if let Some(segment) = sections.last_mut() {
            segment.push(start..end);
        }
        in_segment += end - start;
        start = end;
    }
    sections
}

fn next_chunk(
    context: ReadContext<'_>,
    chunker: &mut StreamChunker,
    reader: &mut Stretch<'_>,
) -> Result<Option<ChunkRef>, ReadOutcome> {
    if context.cancel.is_cancelled() {
        return Err(ReadOutcome::Cancelled);
    }
    match chunker.next_chunk(reader).map_err(ReadOutcome::Unreadable)? {
        Some((chunk, bytes)) => {
            context.chunks.put_chunk(chunk, bytes).map_err(ReadOutcome::Sink)?;
            Ok(Some(chunk))
        }
        None => Ok(None),
    }
}

/// A stretch of a file.
struct Stretch<'f> {
    file: &'f File,
    at: u64,
    end: u64,
}

impl Read for Stretch<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.at);
        let wanted = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut into[..wanted], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::fd::AsFd;

    use headwater_protocol::chunking::ChunkerParams;
    use headwater_protocol::path::RelPath;
    use headwater_protocol::tensors::{Dtype, Tensor};

    use super::*;
    use crate::beneath;
    use crate::scan::{Cancel, Stamp};
    use crate::version::NoChunks;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn segments_join_to_what_one_pass_gives() {
        let folder = tempfile::tempdir().unwrap();
        let root = beneath::root(folder.path()).unwrap();
        let small = ChunkerParams { min_bytes: 4096, average_bytes: 8192, max_bytes: 16384 };
        let mut headed = vec![1; 5_000_000];
        headed[..1000].copy_from_slice(&noise(1000));
        let mut mixed = noise(6_000_000);
        mixed[1_500_000..3_800_001].fill(0);
        for bytes in [noise(7_654_321), vec![0; 4 << 20], headed, mixed, noise(100_000), noise(2 << 20)] {
            for chunker in [ChunkerParams::default(), small] {
                std::fs::write(folder.path().join("file"), &bytes).unwrap();
                let stat = rustix::fs::stat(folder.path().join("file")).unwrap();
                let path = RelPath::new("file").unwrap();
                let request = ReadRequest { ticket: 1, path, stamp: Stamp::of(&stat) };
                let cancel = Cancel::default();
                let context = ReadContext { root: root.as_fd(), chunker, chunks: &NoChunks, cancel: &cancel };
                let mut cutter = StreamChunker::new(chunker).unwrap();
                let mut read = |threads| {
                    let mut jobs: Vec<_> = SegmentJob::all_of(context, request.clone(), threads).collect();
                    jobs.reverse();
                    let outcomes: Vec<_> = jobs.into_iter().filter_map(|job| job.run(context, &mut cutter)).collect();
                    match outcomes.as_slice() {
                        [(1, ReadOutcome::Read(FileContent::Large(chunks)))] => chunks.clone(),
                        other => panic!("{other:?}"),
                    }
                };
                assert_eq!(read(2), read(1), "{} bytes", bytes.len());
            }
        }
    }

    /// A model's file of layers with so many bytes, each noise of its own but for the one that is `changed`.
    fn model(layers: &[u64], changed: Option<usize>) -> Vec<u8> {
        let tensor = |(index, bytes): (usize, &u64)| Tensor {
            name: format!("layer-{index:02}"),
            dtype: Dtype::U8,
            shape: vec![*bytes],
            range: 0..0,
        };
        let layout = Layout::build(layers.iter().enumerate().map(tensor).collect(), BTreeMap::new()).unwrap();
        let mut bytes = layout.encode_header();
        for (index, length) in layers.iter().enumerate() {
            let mut layer = vec![0; *length as usize];
            let seed = [index as u8, u8::from(changed == Some(index))];
            blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut layer);
            bytes.extend(layer);
        }
        bytes
    }

    #[test]
    fn a_layer_that_changes_leaves_the_chunks_of_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let root = beneath::root(folder.path()).unwrap();
        let layers = [4000, 1_000_000, 10, 700_000, 100, 65_536, 2_500_000, 3000];
        let cancel = Cancel::default();
        let chunker = ChunkerParams::default();
        let context = ReadContext { root: root.as_fd(), chunker, chunks: &NoChunks, cancel: &cancel };
        let mut cutter = StreamChunker::new(chunker).unwrap();
        let mut read = |bytes: &[u8], name: &str, threads| {
            std::fs::write(folder.path().join(name), bytes).unwrap();
            let stat = rustix::fs::stat(folder.path().join(name)).unwrap();
            let request = ReadRequest { ticket: 1, path: RelPath::new(name).unwrap(), stamp: Stamp::of(&stat) };
            let jobs: Vec<_> = SegmentJob::all_of(context, request, threads).collect();
            let outcomes: Vec<_> = jobs.into_iter().rev().filter_map(|job| job.run(context, &mut cutter)).collect();
            match outcomes.as_slice() {
                [(1, ReadOutcome::Read(FileContent::Large(chunks)))] => chunks.clone(),
                other => panic!("{other:?}"),
            }
        };
        let ends = |chunks: &[ChunkRef]| -> Vec<u64> {
            let mut at = 0;
            chunks
                .iter()
                .map(|chunk| {
                    at += u64::from(chunk.length);
                    at
                })
                .collect()
        };
        let before = read(&model(&layers, None), "a.safetensors", 1);
        assert_eq!(read(&model(&layers, None), "a.safetensors", 4), before);
        let cuts = Layout::of(&model(&layers, None)).unwrap().cuts(chunker.min_bytes.into());
        assert_eq!(cuts.len(), 7, "two of each large layer, but one between neighbours");
        assert!(cuts.iter().all(|cut| ends(&before).contains(cut)), "{cuts:?}");
        let after = read(&model(&layers, Some(3)), "a.safetensors", 4);
        let changed: u64 =
            after.iter().filter(|chunk| !before.contains(chunk)).map(|chunk| u64::from(chunk.length)).sum();
        assert_eq!(changed, layers[3], "nothing but the layer");
        // What only bears the name is cut as anything else.
        let other = noise(3_000_000);
        assert_eq!(read(&other, "b.safetensors", 4), read(&other, "b", 4));
    }

    #[test]
    fn a_failure_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = beneath::root(folder.path()).unwrap();
        let chunker = ChunkerParams::default();
        let cancel = Cancel::default();
        let context = ReadContext { root: root.as_fd(), chunker, chunks: &NoChunks, cancel: &cancel };
        let stamp = Stamp { size: 5 << 20, ..Stamp::NONE };
        let request = ReadRequest { ticket: 7, path: RelPath::new("gone").unwrap(), stamp };
        let mut cutter = StreamChunker::new(chunker).unwrap();
        let jobs = SegmentJob::all_of(context, request, 2);
        let outcomes: Vec<_> = jobs.filter_map(|job| job.run(context, &mut cutter)).collect();
        assert!(matches!(outcomes.as_slice(), [(7, ReadOutcome::Changed)]), "{outcomes:?}");
    }
}
