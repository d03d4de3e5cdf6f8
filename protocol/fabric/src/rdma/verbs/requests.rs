//! What is posted to a send queue, cut so that it fits the device.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::device::Domain;
use super::memory::{Registered, RegisteredRegion, RemoteMemory};

/// What one piece can be at most: verbs count in 32 bits.
pub const PIECE_BYTES_MAX: usize = 1 << 30;

/// A stretch of registered memory that is sent. It stays as it is until the device has read it.
#[derive(Clone, Debug)]
pub struct Piece {
    gather: Gather,
    kept: Kept,
}

/// What keeps the bytes of a piece, and their registration: nobody reads it, it is only there.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    Memory(Arc<Registered>),
    Region { _bytes: Bytes, region: Arc<RegisteredRegion> },
}

impl Piece {
    /// The bytes `range` of `memory`; none if they don't lie within, or are more than [`PIECE_BYTES_MAX`].
    pub fn new(memory: Arc<Registered>, range: Range<usize>) -> Option<Self> {
        let bytes = memory.get(range)?;
        let gather = Gather::new(bytes, memory.local_key())?;
        Some(Self { gather, kept: Kept::Memory(memory) })
    }

    /// Bytes that lie in a region; none if they lie elsewhere, or are more than [`PIECE_BYTES_MAX`].
    pub fn in_region(bytes: Bytes, region: &Arc<RegisteredRegion>) -> Option<Self> {
        if !region.contains(&bytes) {
            return None;
        }
        let gather = Gather::new(&bytes, region.local_key())?;
        Some(Self { gather, kept: Kept::Region { _bytes: bytes, region: Arc::clone(region) } })
    }

    /// Number of bytes.
    pub const fn len(&self) -> usize {
        self.gather.len as usize
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.gather.len == 0
    }

    pub(super) const fn gather(&self) -> Gather {
        self.gather
    }

    pub(super) fn into_kept(self) -> Kept {
        self.kept
    }

    pub(super) fn is_of(&self, domain: &Arc<Domain>) -> bool {
        match &self.kept {
            Kept::Memory(memory) => memory.is_of(domain),
            Kept::Region { region, .. } => region.is_of(domain),
        }
    }
}

/// Something for the device to do.
#[derive(Debug)]
pub enum Request {
    /// A message to the peer, of at most [`super::Depths::message_bytes`].
    Send(Vec<u8>),
    /// Bytes into the peer's memory, one piece after the other; then the peer may be told.
    Write {
        /// Where the first piece goes.
        to: RemoteMemory,
        /// What is written.
        pieces: Vec<Piece>,
        /// What the peer is told once all of it, and of all writes before, is there.
        immediate: Option<u32>,
    },
}

/// One stretch of memory in a work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gather {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) key: u32,
}

impl Gather {
    fn new(bytes: &[u8], key: u32) -> Option<Self> {
        let len = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= PIECE_BYTES_MAX)?;
        Some(Self { address: bytes.as_ptr().addr() as u64, len, key })
    }
}

/// One work request of a write: pieces that go to one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// From where on in the peer's memory, counted from the request's beginning.
    pub(super) offset: u64,
    pub(super) gather: Vec<Gather>,
}

/// Cuts pieces into work requests of at most `message_bytes` bytes and `pieces_max` pieces each. There is always one, so that
/// an empty write tells the peer as well.
pub(super) fn parts(pieces: impl IntoIterator<Item = Gather>, message_bytes: u64, pieces_max: usize) -> Vec<Part> {
    let mut parts = vec![Part::default()];
    let (mut offset, mut filled) = (0, 0);
    for piece in pieces {
        let mut done = 0;
        while done < u64::from(piece.len) {
            let last = parts.last_mut().expect("there is one from the start");
            if filled == message_bytes || last.gather.len() == pieces_max {
                parts.push(Part { offset, gather: Vec::with_capacity(pieces_max) });
                filled = 0;
                continue;
            }
            let len = (u64::from(piece.len) - done).min(message_bytes - filled);
            let len_u32 = u32::try_from(len).expect("at most the piece");
            last.gather.push(Gather { address: piece.address + done, len: len_u32, key: piece.key });
            done += len;
            filled += len;
            offset += len;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(address: u64, len: u32) -> Gather {
        Gather { address, len, key: 1 }
    }

    #[test]
    fn writes_are_cut_where_the_device_ends() {
        let cut = parts([piece(1_000, 10), piece(2_000, 25), piece(3_000, 0), piece(4_000, 5)], 16, 2);
        let expected = [
            Part { offset: 0, gather: vec![piece(1_000, 10), piece(2_000, 6)] },
            Part { offset: 16, gather: vec![piece(2_006, 16)] },
            Part { offset: 32, gather: vec![piece(2_022, 3), piece(4_000, 5)] },
        ];
        assert_eq!(cut, expected);
        assert_eq!(parts([], 16, 2), [Part::default()]);
    }

    #[test]
    fn many_small_pieces_share_a_request() {
        let cut = parts((0..256).map(|sample| piece(sample * 784, 784)), 1 << 23, 30);
        assert_eq!(cut.len(), 9);
        assert_eq!(cut[8].offset, 240 * 784);
    }
}
