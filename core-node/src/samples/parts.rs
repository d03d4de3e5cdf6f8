//! From the bytes of a record to where they lie: stretches of chunks, each with its hash. Pure.
//!
//! A record lies in one chunk, or ends one, fills some and begins another. A part of a chunk is an entry like a small file in a
//! shared chunk, with the hash of its bytes; whole chunks in a row are an entry like a large file. So a record is one entry or
//! up to three, of which those after the first carry [`CONTINUES`] and stand right behind it.

use headwater_protocol::id::ChunkId;
use headwater_protocol::path::{RelPath, compare};
use headwater_protocol::record::{ChunkRef, FileKind};
use headwater_protocol::samples::RecordSink;
use headwater_protocol::tree::{BuildContent, BuildEntry};

/// Mode of an entry whose bytes continue those of the entry before it.
pub(crate) const CONTINUES: u32 = 0o1;

/// Where a stretch of a file lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub(super) chunk: ChunkRef,
    /// First byte in the chunk.
    pub(super) offset: u32,
    /// First byte in the file.
    pub(super) file_offset: u64,
}

/// A stretch of one chunk.
#[derive(Debug)]
struct Part {
    chunk: ChunkRef,
    offset: u32,
    length: u32,
    hasher: blake3::Hasher,
}

impl Part {
    fn is_whole(&self) -> bool {
        self.offset == 0 && self.length == self.chunk.length
    }
}

/// Takes the records of one file, and gives entries.
#[derive(Debug)]
pub(super) struct Parts {
    file: Vec<u8>,
    at: Option<At>,
    /// Where the bytes before lay: a carriage return may prove to be part of a line only when the next byte is seen.
    before: Option<At>,
    /// The sample that is open: its number, and its records with their paths.
    sample: u64,
    records: Vec<(Vec<u8>, Vec<Part>)>,
    /// Entries of samples that are complete.
    ready: Vec<BuildEntry>,
    failed: Option<String>,
}

impl Parts {
    /// Records of the file at `file`.
    pub(super) fn new(file: &[u8]) -> Self {
        Self {
            file: file.to_vec(),
            at: None,
            before: None,
            sample: 0,
            records: Vec::new(),
            ready: Vec::new(),
            failed: None,
        }
    }

    /// The bytes that come now lie here.
    pub(super) fn lie_at(&mut self, at: At) {
        self.before = self.at.replace(at);
    }

    /// The entries of the samples that are complete, in path order; with `all` also those of the open one. Or what can't be.
    pub(super) fn take(&mut self, all: bool) -> Result<Vec<BuildEntry>, String> {
        if all {
            self.close();
        }
        match self.failed.take() {
            Some(reason) => Err(reason),
            None => Ok(std::mem::take(&mut self.ready)),
        }
    }

    /// The open sample is complete.
    fn close(&mut self) {
        let mut records = std::mem::take(&mut self.records);
        records.sort_by(|(left, _), (right, _)| compare(left, right));
        for (path, parts) in records {
            if let Err(reason) = self.add(&path, parts) {
                self.failed.get_or_insert(reason);
            }
        }
    }

    fn add(&mut self, path: &[u8], parts: Vec<Part>) -> Result<(), String> {
        let mut contents: Vec<BuildContent> = Vec::new();
        for part in parts {
            if !part.is_whole() {
                let hash = ChunkId(*part.hasher.finalize().as_bytes());
                let Part { chunk, offset, length, .. } = part;
                contents.push(BuildContent::Pinned { chunk, offset, length, hash });
            } else if let Some(BuildContent::Large(chunks)) = contents.last_mut() {
                chunks.push(part.chunk);
            } else {
                contents.push(BuildContent::Large(vec![part.chunk]));
            }
        }
        if contents.is_empty() {
            contents.push(BuildContent::Empty);
        }
        for (index, content) in contents.into_iter().enumerate() {
            // Nothing but `/` sorts before the dot, so nothing comes between a record and what continues it.
            let path = if index == 0 { path.to_vec() } else { [path, format!("..{index}").as_bytes()].concat() };
            let path = RelPath::new(path).map_err(|error| error.to_string())?;
            if self.ready.last().is_some_and(|last| last.path >= path) {
                return Err(format!("the name `{path}` can't stand beside another one"));
            }
            let mode = if index == 0 { 0 } else { CONTINUES };
            let link_target = Vec::new();
            self.ready.push(BuildEntry { path, kind: FileKind::File, link_target, mode, mtime_ns: 0, content });
        }
        Ok(())
    }
}

impl RecordSink for Parts {
    fn begin(&mut self, sample: u64, name: &[u8]) {
        if sample != self.sample {
            self.close();
            self.sample = sample;
        }
        self.records.push(([&self.file[..], b"/", name].concat(), Vec::new()));
    }

    fn bytes(&mut self, at: u64, part: &[u8]) {
        let lies = [self.at, self.before].into_iter().flatten().find(|lies| lies.file_offset <= at);
        let (Some(lies), Some((_, parts))) = (lies, self.records.last_mut()) else { return };
        if part.is_empty() {
            return;
        }
        let offset = lies.offset + (at - lies.file_offset) as u32;
        match parts.last_mut() {
            Some(last) if last.chunk == lies.chunk && last.offset + last.length == offset => {
                last.length += part.len() as u32;
                last.hasher.update(part);
            }
            _ => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(part);
                parts.push(Part { chunk: lies.chunk, offset, length: part.len() as u32, hasher });
            }
        }
    }

    fn end(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(number: u8, length: u32) -> ChunkRef {
        ChunkRef { id: ChunkId([number; 32]), length }
    }

    #[test]
    fn a_record_is_a_part_of_a_chunk_or_ends_fills_and_begins_some() {
        let mut parts = Parts::new(b"a.bin");
        let file: Vec<u8> = (0..50).collect();
        let lie = |parts: &mut Parts, number, file_offset| {
            parts.lie_at(At { chunk: chunk(number, 10), offset: 0, file_offset });
        };
        lie(&mut parts, 1, 0);
        parts.begin(0, b"0.bin");
        parts.bytes(0, &file[..3]);
        parts.bytes(3, &file[3..4]);
        parts.end();
        parts.begin(1, b"1.bin");
        parts.bytes(4, &file[4..10]);
        for number in 2..=4 {
            lie(&mut parts, number, u64::from(number - 1) * 10);
            let from = usize::from(number - 1) * 10;
            parts.bytes(from as u64, &file[from..from + if number == 4 { 2 } else { 10 }]);
        }
        parts.end();
        let first = parts.take(false).expect("good");
        assert_eq!(first.len(), 1);
        let hash = |part: &[u8]| ChunkId::of(part);
        let pinned = |number, offset, part: &[u8]| BuildContent::Pinned {
            chunk: chunk(number, 10),
            offset,
            length: part.len() as u32,
            hash: hash(part),
        };
        assert_eq!((first[0].path.as_bytes(), &first[0].content), (&b"a.bin/0.bin"[..], &pinned(1, 0, &file[..4])));
        let rest = parts.take(true).expect("good");
        let shown: Vec<_> = rest.iter().map(|entry| (entry.path.as_bytes(), entry.mode, &entry.content)).collect();
        let (head, tail) = (pinned(1, 4, &file[4..10]), pinned(4, 0, &file[30..32]));
        let middle = BuildContent::Large(vec![chunk(2, 10), chunk(3, 10)]);
        assert_eq!(
            shown,
            [
                (&b"a.bin/1.bin"[..], 0, &head),
                (b"a.bin/1.bin..1", CONTINUES, &middle),
                (b"a.bin/1.bin..2", CONTINUES, &tail)
            ]
        );
    }

    #[test]
    fn a_byte_that_was_held_back_lies_where_it_was() {
        let rule = headwater_protocol::samples::Rule::parse("lines").expect("a rule");
        let mut splitter = rule.splitter(b"a.txt", 6).expect("fine").expect("it holds lines");
        let mut parts = Parts::new(b"a.txt");
        for (number, file_offset, bytes) in [(1, 0, b"ab\r"), (2, 3, b"cd\n")] {
            parts.lie_at(At { chunk: chunk(number, 3), offset: 0, file_offset });
            splitter.push(bytes, &mut parts).expect("lines");
        }
        splitter.finish(&mut parts).expect("lines");
        let entries = parts.take(true).expect("good");
        assert_eq!(entries[0].content, BuildContent::Large(vec![chunk(1, 3)]));
        let tail = BuildContent::Pinned { chunk: chunk(2, 3), offset: 0, length: 2, hash: ChunkId::of(b"cd") };
        assert_eq!((entries.len(), &entries[1].content), (2, &tail));
    }

    #[test]
    fn the_records_of_a_sample_come_in_path_order() {
        let mut parts = Parts::new(b"a.tar");
        parts.lie_at(At { chunk: chunk(1, 10), offset: 0, file_offset: 0 });
        for (at, name) in [(0, &b"0/x.png"[..]), (3, b"0/x"), (6, b"0/x.json")] {
            parts.begin(0, name);
            parts.bytes(at, b"abc");
            parts.end();
        }
        parts.begin(1, b"1/x");
        parts.end();
        let paths =
            |entries: Vec<BuildEntry>| entries.into_iter().map(|entry| entry.path.to_string()).collect::<Vec<_>>();
        assert_eq!(paths(parts.take(false).expect("good")), ["a.tar/0/x", "a.tar/0/x.json", "a.tar/0/x.png"]);
        let empty = parts.take(true).expect("good");
        assert_eq!(empty[0].content, BuildContent::Empty);
    }
}
