//! Small files that share a chunk: which do is decided from their hashes and sizes alone, so a group whose files are all
//! unchanged is recognised without reading a byte of them.

use bytes::Bytes;

use super::build::{BuildError, Output};
use super::group;
use super::leaf::{PendingRecord, Place};
use crate::chunking::CHUNK_BYTES_MAX;
use crate::id::ChunkId;
use crate::record::ChunkRef;

/// A shared chunk holds at least this part of the average, unless its page ends.
const SHARED_MIN_PART: u32 = 4;

/// A small file on its way into a shared chunk.
pub(super) struct Member {
    /// Its index among the open page's records.
    pub(super) record: usize,
    pub(super) hash: ChunkId,
    pub(super) size: u32,
    pub(super) bytes: Option<Bytes>,
    /// Where the same bytes lie already.
    pub(super) previous: Option<(ChunkRef, u32)>,
    /// Its bytes are not here: it takes part in deciding where groups end, but not in a new chunk.
    pub(super) pinned: bool,
}

/// The group being filled.
pub(super) struct SharedGroup {
    average_bytes: u32,
    members: Vec<Member>,
    bytes: u32,
}

impl SharedGroup {
    pub(super) fn new(average_bytes: u32) -> Self {
        Self { average_bytes, members: Vec::new(), bytes: 0 }
    }

    /// Adds a file, and ends groups where it is time.
    pub(super) fn add(
        &mut self,
        member: Member,
        records: &mut [PendingRecord],
        out: &mut Output<'_>,
    ) -> Result<(), BuildError> {
        if self.bytes + member.size > CHUNK_BYTES_MAX {
            self.end(records, out)?;
        }
        let (draw, size) = (group::draw_id(&member.hash), member.size);
        self.bytes += size;
        self.members.push(member);
        if self.bytes >= self.average_bytes / SHARED_MIN_PART
            && group::ends(draw, u64::from(size), u64::from(self.average_bytes))
        {
            self.end(records, out)?;
        }
        Ok(())
    }

    /// Ends the group: its files learn where they lie, in an old chunk if that holds just them, else in a new one.
    pub(super) fn end(&mut self, records: &mut [PendingRecord], out: &mut Output<'_>) -> Result<(), BuildError> {
        let mut members = std::mem::take(&mut self.members);
        self.bytes = 0;
        if reusable(members.iter()) {
            keep(&members, records);
            return Ok(());
        }
        if !reusable(live(&members)) {
            fetch(&mut members, records, out)?;
        }
        if reusable(live(&members)) {
            keep(&members, records);
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(live(&members).map(|member| member.size as usize).sum());
        for part in live(&members).filter_map(|member| member.bytes.as_ref()) {
            bytes.extend_from_slice(part);
        }
        let chunk = ChunkRef { id: ChunkId::of(&bytes), length: bytes.len() as u32 };
        let mut offset = 0;
        for member in &mut members {
            if !member.pinned {
                member.previous = Some((chunk, offset));
                offset += member.size;
            }
        }
        keep(&members, records);
        out.shared.put_shared(chunk, &bytes).map_err(BuildError::Store)
    }
}

fn live(members: &[Member]) -> impl Iterator<Item = &Member> {
    members.iter().filter(|member| !member.pinned)
}

/// Whether these files, in this order, are just what one old chunk holds; true if there are none.
fn reusable<'m>(members: impl Iterator<Item = &'m Member>) -> bool {
    let mut whole: Option<ChunkRef> = None;
    let mut end = 0;
    for member in members {
        match member.previous {
            Some((chunk, offset)) if offset == end && whole.is_none_or(|whole| whole == chunk) => {
                whole = Some(chunk);
                end += member.size;
            }
            _ => return false,
        }
    }
    whole.is_none_or(|whole| whole.length == end)
}

fn keep(members: &[Member], records: &mut [PendingRecord]) {
    for member in members {
        records[member.record].place = Place::Shared { at: member.previous, length: member.size, hash: member.hash };
    }
}

/// Gets the bytes of all files that are not pinned; one whose bytes have gone from here becomes pinned.
fn fetch(members: &mut [Member], records: &[PendingRecord], out: &mut Output<'_>) -> Result<(), BuildError> {
    for member in members.iter_mut().filter(|member| !member.pinned && member.bytes.is_none()) {
        let path = &records[member.record].path;
        let read = out.shared.read_small(path, &member.hash);
        match read.map_err(|source| BuildError::Read { path: path.clone(), source })? {
            Some(bytes) if bytes.len() == member.size as usize && ChunkId::of(&bytes) == member.hash => {
                member.bytes = Some(bytes);
            }
            Some(_) => return Err(BuildError::Changed(path.clone())),
            None if member.previous.is_some() => member.pinned = true,
            None => return Err(BuildError::Unavailable(path.clone())),
        }
    }
    Ok(())
}
