//! Cutting files by content: FastCDC, with the parameters that stand in every manifest.

mod stream;

pub use stream::{StreamChunker, cut_point};

use rkyv::{Archive, Deserialize, Serialize};

/// Largest chunk that any parameters allow, in bytes.
pub const CHUNK_BYTES_MAX: u32 = 1 << 20;
/// Smallest `min_bytes` that parameters may name.
pub const CHUNK_BYTES_MIN: u32 = 4 << 10;

/// Largest `extents_inline_max` that parameters may name: a stem group of files with as many chunks fits into a page.
pub const EXTENTS_INLINE_MAX: u32 = 128;

/// How large files are cut: FastCDC v2020 with normalisation level 1. All powers of two: the reference implementation has
/// changed its cut points for other averages before.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkerParams {
    /// Smallest chunk but a file's last, in bytes.
    pub min_bytes: u32,
    /// Average, in bytes.
    pub average_bytes: u32,
    /// Largest, in bytes.
    pub max_bytes: u32,
}

impl Default for ChunkerParams {
    fn default() -> Self {
        Self { min_bytes: 64 << 10, average_bytes: 256 << 10, max_bytes: CHUNK_BYTES_MAX }
    }
}

/// Parameters that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "parameters {min} / {average} / {max} can't be used: powers of two in rising order, from {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX}"
)]
pub struct ParamsError {
    min: u32,
    average: u32,
    max: u32,
}

impl ChunkerParams {
    /// Checks that the parameters are powers of two in rising order and in bounds.
    pub fn check(&self) -> Result<(), ParamsError> {
        let Self { min_bytes: min, average_bytes: average, max_bytes: max } = *self;
        let powers = [min, average, max].iter().all(|value| value.is_power_of_two());
        let ordered = CHUNK_BYTES_MIN <= min && min < average && average < max && max <= CHUNK_BYTES_MAX;
        if powers && ordered { Ok(()) } else { Err(ParamsError { min, average, max }) }
    }
}

/// How files below `ChunkerParams::min_bytes` share chunks, and where pages end.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupingParams {
    /// Average bytes of a chunk that small files share.
    pub shared_average_bytes: u32,
    /// Average records of a leaf page.
    pub page_records_average: u32,
    /// Average references of an inner page, and chunks of an extent page.
    pub page_children_average: u32,
    /// A file with more chunks than this lists them in extent pages; at most [`EXTENTS_INLINE_MAX`].
    pub extents_inline_max: u32,
}

impl Default for GroupingParams {
    fn default() -> Self {
        Self {
            shared_average_bytes: 256 << 10,
            page_records_average: 256,
            page_children_average: 128,
            extents_inline_max: 64,
        }
    }
}

impl GroupingParams {
    /// Checks that the parameters are powers of two and in bounds.
    pub fn check(&self) -> Result<(), ParamsError> {
        let Self {
            shared_average_bytes: shared,
            page_records_average: records,
            page_children_average: children,
            extents_inline_max,
        } = *self;
        let powers = [shared, records, children].iter().all(|value| value.is_power_of_two());
        let bounded = (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX / 2).contains(&shared)
            && (16..=1024).contains(&records)
            && (16..=1024).contains(&children)
            && (1..=EXTENTS_INLINE_MAX).contains(&extents_inline_max);
        if powers && bounded { Ok(()) } else { Err(ParamsError { min: shared, average: records, max: children }) }
    }
}

#[cfg(test)]
mod tests;
