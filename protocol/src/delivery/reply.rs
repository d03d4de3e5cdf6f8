//! What stands in a receive slot: written by the core from a [`Plan`], read by the job as a [`Reply`].
//!
//! ```text
//! header, 32 bytes  u32 each: magic, samples, files, units, proof hashes, bytes of names, first byte of payload, bytes of payload
//! sample,  4 bytes  u32: files up to the end of this sample
//! file,   32 bytes  u64 bytes of the whole file; u32 each: first byte in the payload, units up to the end of this file, bytes
//!                   to skip, bytes that were asked for, bytes of names up to its end, status
//! unit,   48 bytes  id[32]; u32 each: bytes that the id names, first of them here, bytes here, proof hashes up to its end
//! ```
//! All numbers are little-endian. Nothing is copied out of a slot: a reply is a view of it, checked once as a whole.

use super::proof;
use crate::id::{ChunkId, ID_BYTES};

const MAGIC: u32 = u32::from_le_bytes(*b"HWr1");
const HEADER_BYTES: usize = 32;
const SAMPLE_BYTES: usize = 4;
const FILE_BYTES: usize = 32;
const UNIT_BYTES: usize = 48;
/// The payload begins at a multiple of so many bytes of the slot.
pub const LAYOUT_ALIGN: usize = 64;

/// Whether a file came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileStatus {
    /// It did.
    Whole,
    /// The core can't read the chunk that its one unit names; no byte of the file is here.
    Unreadable,
}

/// A stretch of payload that can be verified by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// BLAKE3 of what these bytes are a part of, or all.
    pub id: ChunkId,
    /// Bytes that the id names.
    pub total: u32,
    /// The first of them that is here.
    pub offset: u32,
    /// Bytes here.
    pub bytes: u32,
}

/// A file on its way into a slot.
#[derive(Clone, Debug)]
pub struct PlannedFile {
    /// Bytes of the whole file.
    pub size: u64,
    /// Bytes of its first unit that come before what was asked for.
    pub lead: u32,
    /// Bytes that were asked for.
    pub length: u32,
    /// How many units it has.
    pub units: u32,
    /// Its name, as a length in the plan's names.
    pub name_bytes: u32,
    /// Whether it comes.
    pub status: FileStatus,
}

/// All that is said of a reply before its payload. A core fills it in order: a file's units and name with the file.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Files up to the end of each sample.
    pub samples: Vec<u32>,
    /// The files.
    pub files: Vec<PlannedFile>,
    /// Their units, with how many proof hashes each has.
    pub units: Vec<(Unit, u32)>,
    /// The hashes beside units that are parts.
    pub proofs: Vec<[u8; ID_BYTES]>,
    /// The names of the files, one after the other.
    pub names: Vec<u8>,
}

impl Plan {
    /// Bytes before the payload, padding included.
    pub fn table_bytes(&self) -> usize {
        let bytes = HEADER_BYTES
            + self.samples.len() * SAMPLE_BYTES
            + self.files.len() * FILE_BYTES
            + self.units.len() * UNIT_BYTES
            + self.proofs.len() * ID_BYTES
            + self.names.len();
        bytes.next_multiple_of(LAYOUT_ALIGN)
    }

    /// Bytes of payload.
    pub fn payload_bytes(&self) -> u64 {
        self.units.iter().map(|(unit, _)| u64::from(unit.bytes)).sum()
    }

    /// Appends all that comes before the payload.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let table_bytes = self.table_bytes();
        out.reserve(table_bytes);
        for number in [
            MAGIC,
            self.samples.len() as u32,
            self.files.len() as u32,
            self.units.len() as u32,
            self.proofs.len() as u32,
            self.names.len() as u32,
            table_bytes as u32,
            self.payload_bytes() as u32,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for end in &self.samples {
            out.extend_from_slice(&end.to_le_bytes());
        }
        let (mut at, mut units, mut names) = (0u32, 0u32, 0u32);
        for file in &self.files {
            let first = units as usize;
            units += file.units;
            names += file.name_bytes;
            out.extend_from_slice(&file.size.to_le_bytes());
            let status = match file.status {
                FileStatus::Whole => 0,
                FileStatus::Unreadable => 1,
            };
            for number in [at, units, file.lead, file.length, names, status] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            at += self.units[first..units as usize].iter().map(|(unit, _)| unit.bytes).sum::<u32>();
        }
        let mut proofs = 0u32;
        for (unit, hashes) in &self.units {
            proofs += hashes;
            out.extend_from_slice(unit.id.as_bytes());
            for number in [unit.total, unit.offset, unit.bytes, proofs] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        for hash in &self.proofs {
            out.extend_from_slice(hash);
        }
        out.extend_from_slice(&self.names);
        out.resize(start + table_bytes, 0);
    }
}

/// Why the bytes in a slot are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what came into a receive slot is no reply: {0}")]
pub struct ReplyError(&'static str);

/// A unit whose bytes are not what its id names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyFailure {
    /// The file that it is of.
    pub file: usize,
    /// What the bytes should have been.
    pub id: ChunkId,
}

/// A reply in a slot: where its tables lie, all of them checked. It is copied beside the slot, and given the bytes again for
/// each look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    samples: usize,
    files: usize,
    units: usize,
    files_at: usize,
    units_at: usize,
    proofs_at: usize,
    names_at: usize,
    payload_at: usize,
    payload_bytes: usize,
}

/// A file in a reply.
#[derive(Clone, Copy, Debug)]
pub struct FileEntry<'a> {
    /// Bytes of the whole file.
    pub size: u64,
    /// Its name: what follows the stem, or its path.
    pub name: &'a [u8],
    /// Whether it came.
    pub status: FileStatus,
    /// The bytes that were asked for.
    pub bytes: &'a [u8],
    /// The chunk that can't be read, where it did not come.
    pub lost: Option<ChunkId>,
}

/// A sample in a reply: its files in path order.
#[derive(Clone, Copy, Debug)]
pub struct SampleView<'a> {
    reply: &'a Reply,
    slot: &'a [u8],
    first: usize,
    end: usize,
}

impl<'a> SampleView<'a> {
    /// How many files it has.
    pub const fn len(&self) -> usize {
        self.end - self.first
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.end == self.first
    }

    /// Its files.
    pub fn files(&self) -> impl Iterator<Item = FileEntry<'a>> + use<'a> {
        let (reply, slot) = (self.reply, self.slot);
        (self.first..self.end).map(move |file| reply.file(slot, file))
    }

    /// The first byte of the slot that its first file has, and the first past its last file.
    pub fn span(&self) -> (usize, usize) {
        if self.is_empty() {
            return (0, 0);
        }
        let (first, last) = (self.reply.raw_file(self.slot, self.first), self.reply.raw_file(self.slot, self.end - 1));
        let start = self.reply.payload_at + first.at + first.lead;
        (start, self.reply.payload_at + last.at + last.lead + last.length)
    }
}

struct RawFile {
    size: u64,
    at: usize,
    units_end: usize,
    lead: usize,
    length: usize,
    names_end: usize,
    status: u32,
}

impl Reply {
    /// Checks what stands in `slot`: every table inside of it, every count going up, every file inside its units.
    pub fn parse(slot: &[u8]) -> Result<Self, ReplyError> {
        if slot.len() < HEADER_BYTES || number(slot, 0) != MAGIC {
            return Err(ReplyError("it does not open with the magic"));
        }
        let field = |index: usize| number(slot, index * 4) as usize;
        let (samples, files, units, proofs, names_bytes) = (field(1), field(2), field(3), field(4), field(5));
        let (payload_at, payload_bytes) = (field(6), field(7));
        let files_at = HEADER_BYTES + samples * SAMPLE_BYTES;
        let units_at = files_at + files * FILE_BYTES;
        let proofs_at = units_at + units * UNIT_BYTES;
        let names_at = proofs_at + proofs * ID_BYTES;
        if names_at + names_bytes > payload_at || payload_at + payload_bytes > slot.len() {
            return Err(ReplyError("its tables or its payload reach beyond the slot"));
        }
        let reply = Self { samples, files, units, files_at, units_at, proofs_at, names_at, payload_at, payload_bytes };
        reply.check(slot, names_bytes, proofs)?;
        Ok(reply)
    }

    fn check(&self, slot: &[u8], names_bytes: usize, proofs: usize) -> Result<(), ReplyError> {
        let mut last = 0;
        for sample in 0..self.samples {
            let end = sample_end(slot, sample);
            if end < last || end > self.files {
                return Err(ReplyError("a sample's files are not among those here"));
            }
            last = end;
        }
        if last != self.files {
            return Err(ReplyError("a file is of no sample"));
        }
        let (mut at, mut unit, mut names, mut hashes) = (0usize, 0usize, 0usize, 0usize);
        for file in 0..self.files {
            let raw = self.raw_file(slot, file);
            if raw.at != at || raw.units_end < unit || raw.units_end > self.units || raw.names_end < names {
                return Err(ReplyError("a file's units are not those that follow"));
            }
            let mut bytes = 0usize;
            while unit < raw.units_end {
                let (found, hashes_end) = self.raw_unit(slot, unit);
                if hashes_end < hashes || u64::from(found.offset) + u64::from(found.bytes) > u64::from(found.total) {
                    return Err(ReplyError("a unit is more than what it is a part of"));
                }
                hashes = hashes_end;
                bytes += found.bytes as usize;
                unit += 1;
            }
            if raw.lead + raw.length > bytes || raw.status > 1 {
                return Err(ReplyError("a file is more than its units"));
            }
            at += bytes;
            names = raw.names_end;
        }
        if unit != self.units || at != self.payload_bytes || names != names_bytes || hashes != proofs {
            return Err(ReplyError("its tables do not add up"));
        }
        Ok(())
    }

    /// How many samples it has.
    pub const fn len(&self) -> usize {
        self.samples
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// How many files it has.
    pub const fn files(&self) -> usize {
        self.files
    }

    /// Bytes of payload.
    pub const fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Sample number `sample` of the reply, which must have so many; `slot` is what was parsed.
    pub fn sample<'a>(&'a self, slot: &'a [u8], sample: usize) -> SampleView<'a> {
        assert!(sample < self.samples, "sample {sample} of a reply of {}", self.samples);
        let first = if sample == 0 { 0 } else { sample_end(slot, sample - 1) };
        SampleView { reply: self, slot, first, end: sample_end(slot, sample) }
    }

    /// File number `file` of the reply, which must have so many; `slot` is what was parsed.
    pub fn file<'a>(&self, slot: &'a [u8], file: usize) -> FileEntry<'a> {
        assert!(file < self.files, "file {file} of a reply of {}", self.files);
        let raw = self.raw_file(slot, file);
        let (names_from, units_from) = if file == 0 {
            (0, 0)
        } else {
            let before = self.raw_file(slot, file - 1);
            (before.names_end, before.units_end)
        };
        let start = self.payload_at + raw.at + raw.lead;
        let status = if raw.status == 0 { FileStatus::Whole } else { FileStatus::Unreadable };
        let lost = (status == FileStatus::Unreadable && units_from < raw.units_end)
            .then(|| self.raw_unit(slot, units_from).0.id);
        FileEntry {
            size: raw.size,
            name: &slot[self.names_at + names_from..self.names_at + raw.names_end],
            status,
            bytes: &slot[start..start + raw.length],
            lost,
        }
    }

    /// Verifies every unit of `slot`, which is what was parsed; gives the first that is not what it should be.
    pub fn verify(&self, slot: &[u8]) -> Result<(), VerifyFailure> {
        let (mut at, mut unit, mut hashes) = (self.payload_at, 0, 0);
        for file in 0..self.files {
            let raw = self.raw_file(slot, file);
            while unit < raw.units_end {
                let (found, hashes_end) = self.raw_unit(slot, unit);
                let bytes = &slot[at..at + found.bytes as usize];
                if raw.status == 0 && !self.verify_unit(slot, &found, bytes, hashes..hashes_end) {
                    return Err(VerifyFailure { file, id: found.id });
                }
                at += bytes.len();
                hashes = hashes_end;
                unit += 1;
            }
        }
        Ok(())
    }

    fn verify_unit(&self, slot: &[u8], unit: &Unit, bytes: &[u8], hashes: std::ops::Range<usize>) -> bool {
        let beside = &slot[self.proofs_at + hashes.start * ID_BYTES..self.proofs_at + hashes.end * ID_BYTES];
        let (beside, _) = beside.as_chunks::<ID_BYTES>();
        proof::verify(&unit.id, unit.total, unit.offset, bytes, beside)
    }

    fn raw_file(&self, slot: &[u8], file: usize) -> RawFile {
        let at = self.files_at + file * FILE_BYTES;
        let field = |index: usize| number(slot, at + 8 + index * 4) as usize;
        RawFile {
            size: u64::from(number(slot, at)) | u64::from(number(slot, at + 4)) << 32,
            at: field(0),
            units_end: field(1),
            lead: field(2),
            length: field(3),
            names_end: field(4),
            status: number(slot, at + 28),
        }
    }

    fn raw_unit(&self, slot: &[u8], unit: usize) -> (Unit, usize) {
        let at = self.units_at + unit * UNIT_BYTES;
        let id = ChunkId::from_slice(&slot[at..at + ID_BYTES]).expect("32 bytes");
        let field = |index: usize| number(slot, at + ID_BYTES + index * 4);
        (Unit { id, total: field(0), offset: field(1), bytes: field(2) }, field(3) as usize)
    }
}

fn sample_end(slot: &[u8], sample: usize) -> usize {
    number(slot, HEADER_BYTES + sample * SAMPLE_BYTES) as usize
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}
