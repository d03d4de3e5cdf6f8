//! The rules that cut: which records belong together, and where groups, shared chunks and pages end.

use std::ops::Range;

use crate::id::ChunkId;
use crate::path::stem;
use crate::record::FileRecord;

/// Most records of a stem group; a longer run of one stem is several groups.
pub const STEM_GROUP_RECORDS_MAX: usize = 64;

/// The stem groups of a leaf's records, as ranges of their indices.
pub fn stem_groups(records: &[FileRecord]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut start = 0;
    std::iter::from_fn(move || {
        let first = records.get(start)?;
        let stem_of_group = stem(&first.path);
        let length = records[start..]
            .iter()
            .take(STEM_GROUP_RECORDS_MAX)
            .take_while(|record| stem(&record.path) == stem_of_group)
            .count();
        let group = start..start + length;
        start = group.end;
        Some(group)
    })
}

/// A number that depends on `bytes` alone, evenly spread.
pub(super) fn draw(bytes: &[u8]) -> u64 {
    draw_id(&ChunkId::of(bytes))
}

/// The same for bytes whose hash is known.
pub(super) fn draw_id(id: &ChunkId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// Whether something of `size` units ends a container that should hold `average` units, given the `draw` of its content:
/// true with probability `size / average`.
pub(super) fn ends(draw: u64, size: u64, average: u64) -> bool {
    u128::from(draw) * u128::from(average) < u128::from(size) << 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_as_often_as_it_should() {
        let cuts = (0u32..100_000).filter(|i| ends(draw(&i.to_le_bytes()), 3, 256)).count();
        assert!((1_000..1_350).contains(&cuts), "{cuts} cuts where 1,172 were expected");
        assert!(ends(u64::MAX, 256, 256));
        assert!(!ends(u64::MAX, 255, 256));
    }
}
