//! Proving a part of a chunk: whole groups of 16 KiB travel with the hashes of the subtrees beside them, and together they
//! give the chunk's id.
//!
//! BLAKE3 is a binary tree over 1 KiB leaves (section 2.1 of its specification); a group of 16 is a subtree of it. The hashes
//! stand in the order in which a walk of the tree from the left meets the subtrees that are not sent.

use std::ops::Range;

use blake3::Hasher;
use blake3::hazmat::{self, ChainingValue, HasherExt, Mode};

use crate::chunking::CHUNK_BYTES_MAX;
use crate::id::ChunkId;

/// Bytes of a group: parts are sent in whole ones.
pub const GROUP_BYTES: u32 = 16 * 1024;
/// Most hashes that the proof of one part holds: two paths down the tree of a chunk's groups.
pub const PROOF_HASHES_MAX: usize = 2 * (CHUNK_BYTES_MAX / GROUP_BYTES).ilog2() as usize + 2;

/// The whole groups of a chunk of `total` bytes that hold `wanted`.
pub fn groups_around(wanted: Range<u32>, total: u32) -> Range<u32> {
    let start = wanted.start / GROUP_BYTES * GROUP_BYTES;
    let end = u64::from(wanted.end).div_ceil(u64::from(GROUP_BYTES)) * u64::from(GROUP_BYTES);
    start..u32::try_from(end).unwrap_or(u32::MAX).min(total)
}

/// The hashes beside `part` of the chunk `bytes`; `part` consists of whole groups.
pub fn prove(bytes: &[u8], part: Range<u32>) -> Vec<ChainingValue> {
    let mut beside = Vec::new();
    let part = part.start as usize..part.end as usize;
    if !(part.start == 0 && part.end == bytes.len()) {
        prove_subtree(bytes, 0, &part, &mut beside);
    }
    beside
}

fn prove_subtree(bytes: &[u8], at: usize, part: &Range<usize>, beside: &mut Vec<ChainingValue>) {
    let end = at + bytes.len();
    if part.start <= at && end <= part.end {
        return;
    }
    if end <= part.start || part.end <= at {
        beside.push(subtree(bytes, at));
        return;
    }
    let (left, right) = bytes.split_at(left_bytes(bytes.len()));
    prove_subtree(left, at, part, beside);
    prove_subtree(right, at + left.len(), part, beside);
}

/// Whether `bytes` are those from `offset` on of the chunk `id`, which has `total` bytes, given the hashes beside them.
pub fn verify(id: &ChunkId, total: u32, offset: u32, bytes: &[u8], beside: &[ChainingValue]) -> bool {
    let end = offset as usize + bytes.len();
    if offset == 0 && bytes.len() == total as usize {
        return beside.is_empty() && blake3::hash(bytes) == *id.as_bytes();
    }
    let whole_groups = offset.is_multiple_of(GROUP_BYTES)
        && (end == total as usize || end.is_multiple_of(GROUP_BYTES as usize))
        && !bytes.is_empty()
        && end <= total as usize;
    if !whole_groups {
        return false;
    }
    let part = offset as usize..end;
    let mut beside = beside.iter();
    let left = left_bytes(total as usize);
    let halves =
        (subtree_of(0..left, &part, bytes, &mut beside), subtree_of(left..total as usize, &part, bytes, &mut beside));
    match halves {
        (Some(left), Some(right)) if beside.next().is_none() => {
            hazmat::merge_subtrees_root(&left, &right, Mode::Hash) == *id.as_bytes()
        }
        _ => false,
    }
}

/// The hash of the subtree over `span` of the chunk, of which `bytes` are those of `part`.
fn subtree_of(
    span: Range<usize>,
    part: &Range<usize>,
    bytes: &[u8],
    beside: &mut std::slice::Iter<'_, ChainingValue>,
) -> Option<ChainingValue> {
    if part.start <= span.start && span.end <= part.end {
        return Some(subtree(&bytes[span.start - part.start..span.end - part.start], span.start));
    }
    if span.end <= part.start || part.end <= span.start {
        return beside.next().copied();
    }
    let middle = span.start + left_bytes(span.len());
    let left = subtree_of(span.start..middle, part, bytes, beside)?;
    let right = subtree_of(middle..span.end, part, bytes, beside)?;
    Some(hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash))
}

fn subtree(bytes: &[u8], at: usize) -> ChainingValue {
    Hasher::new().set_input_offset(at as u64).update(bytes).finalize_non_root()
}

fn left_bytes(bytes: usize) -> usize {
    hazmat::left_subtree_len(bytes as u64) as usize
}
