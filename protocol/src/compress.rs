//! Compression of pages and chunks: zstd where a quick sample shows that it pays, and deltas over bytes that the other
//! side holds.

/// Most sources of a delta.
pub const DELTA_SOURCES_MAX: usize = 512;
/// Most bytes that the sources of a delta amount to.
pub const DELTA_PREFIX_BYTES_MAX: usize = 2 << 20;
