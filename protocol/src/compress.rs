//! Compression of pages and chunks: zstd where a quick sample shows that it pays, and deltas over bytes that the other
//! side holds.
//!
//! A frame is always one zstd frame that states its content's length. Decoders never produce more than the length that
//! they were told to expect, and refuse whatever follows the frame. Contexts are reused per thread.

use std::cell::RefCell;

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer};

use crate::chunking::CHUNK_BYTES_MAX;

#[cfg(test)]
mod tests;

/// Most sources of a delta.
pub const DELTA_SOURCES_MAX: usize = 512;
/// Most bytes that the sources of a delta amount to.
pub const DELTA_PREFIX_BYTES_MAX: usize = 2 << 20;
/// Most plain bytes of anything that is compressed here.
pub const PLAIN_BYTES_MAX: usize = CHUNK_BYTES_MAX as usize;
/// Largest zstd window, as a power of two: a delta's prefix and its content fit.
pub const WINDOW_LOG_MAX: u32 = 22;
/// Below this many plain bytes a frame's own header eats what it saves.
pub const COMPRESS_BYTES_MIN: usize = 128;

/// Bytes of the pieces that decide whether compression pays.
const SAMPLE_PIECE_BYTES: usize = 4 << 10;
/// How many of them.
const SAMPLE_PIECES: usize = 3;
/// What counts as paying: at least one part in this many is saved.
const SAVING_PARTS: usize = 16;
/// zstd level of the sample.
const SAMPLE_LEVEL: i32 = 1;
/// zstd level of deltas: they are short, and their length is what counts.
const DELTA_LEVEL: i32 = 3;
/// Smallest zstd window.
const WINDOW_LOG_MIN: u32 = 10;

const _: () = assert!(DELTA_PREFIX_BYTES_MAX + PLAIN_BYTES_MAX <= 1 << WINDOW_LOG_MAX);

/// Why a frame does not become the bytes that it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// The frame, or something after it, is not what this module writes.
    #[error("not one whole zstd frame that states its length")]
    Frame,
    /// It states another length.
    #[error("the frame states {stated} bytes where {expected} were expected")]
    Length {
        /// In the frame.
        stated: u64,
        /// What its header or table said.
        expected: usize,
    },
    /// More bytes than anything here may have.
    #[error("{0} bytes are more than a chunk or a delta's prefix may have")]
    TooLong(usize),
    /// zstd found it damaged.
    #[error("the frame is damaged: {0}")]
    Damaged(&'static str),
}

/// The contexts of a thread.
struct Contexts {
    compress: CCtx<'static>,
    level: Option<i32>,
    decompress: DCtx<'static>,
    frame: Vec<u8>,
}

thread_local! {
    static CONTEXTS: RefCell<Contexts> = RefCell::new(Contexts {
        compress: CCtx::create(),
        level: None,
        decompress: DCtx::create(),
        frame: Vec::new(),
    });
}

fn damaged(code: zstd_safe::ErrorCode) -> DecompressError {
    DecompressError::Damaged(zstd_safe::get_error_name(code))
}

/// `plain` as a zstd frame, if a quick sample says that it pays and it then does.
pub fn compress(plain: &[u8], level: i32) -> Option<Vec<u8>> {
    if plain.len() < COMPRESS_BYTES_MIN || plain.len() > PLAIN_BYTES_MAX {
        return None;
    }
    CONTEXTS.with_borrow_mut(|contexts| {
        if plain.len() > SAMPLE_PIECES * SAMPLE_PIECE_BYTES && !contexts.sample_pays(plain) {
            return None;
        }
        let frame = contexts.frame_of(plain, level)?;
        (frame.len() <= worth(plain.len())).then(|| frame.to_vec())
    })
}

/// The longest frame of `plain_bytes` bytes that is worth its trouble.
const fn worth(plain_bytes: usize) -> usize {
    plain_bytes - plain_bytes / SAVING_PARTS
}

impl Contexts {
    /// `plain` as a frame, in the thread's own buffer.
    fn frame_of(&mut self, plain: &[u8], level: i32) -> Option<&[u8]> {
        if self.level != Some(level) {
            self.compress.set_parameter(CParameter::CompressionLevel(level)).ok()?;
            self.level = Some(level);
        }
        self.frame.clear();
        self.frame.reserve(zstd_safe::compress_bound(plain.len()));
        self.compress.compress2(&mut self.frame, plain).ok()?;
        Some(&self.frame)
    }

    /// Compresses pieces from the start, the middle and the end of `plain`.
    fn sample_pays(&mut self, plain: &[u8]) -> bool {
        let mut sample = [0; SAMPLE_PIECES * SAMPLE_PIECE_BYTES];
        let last = plain.len() - SAMPLE_PIECE_BYTES;
        for (piece, to) in sample.chunks_exact_mut(SAMPLE_PIECE_BYTES).enumerate() {
            let first = last * piece / (SAMPLE_PIECES - 1);
            to.copy_from_slice(&plain[first..first + SAMPLE_PIECE_BYTES]);
        }
        self.frame_of(&sample, SAMPLE_LEVEL).is_some_and(|frame| frame.len() <= worth(sample.len()))
    }
}

/// The `plain_bytes` bytes in `frame`.
pub fn decompress(frame: &[u8], plain_bytes: usize) -> Result<Vec<u8>, DecompressError> {
    check_frame(frame, plain_bytes)?;
    CONTEXTS.with_borrow_mut(|contexts| decompress_with(&mut contexts.decompress, frame, plain_bytes))
}

fn decompress_with(context: &mut DCtx<'_>, frame: &[u8], plain_bytes: usize) -> Result<Vec<u8>, DecompressError> {
    let mut plain = Vec::with_capacity(plain_bytes);
    let length = context.decompress(&mut plain, frame).map_err(damaged)?;
    if length == plain_bytes { Ok(plain) } else { Err(DecompressError::Frame) }
}

/// Checks that `frame` is one frame of `plain_bytes` bytes, before anything is allocated for it.
fn check_frame(frame: &[u8], plain_bytes: usize) -> Result<(), DecompressError> {
    if plain_bytes > PLAIN_BYTES_MAX {
        return Err(DecompressError::TooLong(plain_bytes));
    }
    match zstd_safe::get_frame_content_size(frame) {
        Ok(Some(stated)) if stated == plain_bytes as u64 => {}
        Ok(Some(stated)) => return Err(DecompressError::Length { stated, expected: plain_bytes }),
        Ok(None) | Err(_) => return Err(DecompressError::Frame),
    }
    match zstd_safe::find_frame_compressed_size(frame) {
        Ok(length) if length == frame.len() => Ok(()),
        Ok(_) | Err(_) => Err(DecompressError::Frame),
    }
}

/// `plain` as a zstd frame over `prefix`, which the other side holds; none if either is too long or it saves nothing.
pub fn encode_delta(prefix: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    if plain.is_empty() || plain.len() > PLAIN_BYTES_MAX || prefix.is_empty() || prefix.len() > DELTA_PREFIX_BYTES_MAX {
        return None;
    }
    let window_log = (prefix.len() + plain.len()).next_power_of_two().ilog2().clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX);
    let mut context = CCtx::create();
    context.set_parameter(CParameter::CompressionLevel(DELTA_LEVEL)).ok()?;
    context.set_parameter(CParameter::WindowLog(window_log)).ok()?;
    // The ordinary match tables forget the start of a long prefix.
    context.set_parameter(CParameter::EnableLongDistanceMatching(true)).ok()?;
    context.ref_prefix(prefix).ok()?;
    let mut frame = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
    context.compress2(&mut frame, plain).ok()?;
    (frame.len() < plain.len()).then(|| frame.as_slice().to_vec())
}

/// The `plain_bytes` bytes in `frame` over `prefix`, as [`encode_delta`] made it.
pub fn decode_delta(prefix: &[u8], frame: &[u8], plain_bytes: usize) -> Result<Vec<u8>, DecompressError> {
    if prefix.len() > DELTA_PREFIX_BYTES_MAX {
        return Err(DecompressError::TooLong(prefix.len()));
    }
    check_frame(frame, plain_bytes)?;
    let mut context = DCtx::create();
    context.ref_prefix(prefix).map_err(damaged)?;
    decompress_with(&mut context, frame, plain_bytes)
}

/// As many plain bytes as the first part of a frame gives: what can be kept when a link is cut. At most `plain_bytes`.
pub fn decompress_part(part: &[u8], plain_bytes: usize) -> Vec<u8> {
    if plain_bytes > PLAIN_BYTES_MAX
        || !matches!(zstd_safe::get_frame_content_size(part), Ok(Some(stated)) if stated == plain_bytes as u64)
    {
        return Vec::new();
    }
    let mut context = DCtx::create();
    if context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).is_err() {
        return Vec::new();
    }
    let mut plain = Vec::with_capacity(plain_bytes);
    let mut input = InBuffer::around(part);
    let mut output = OutBuffer::around(&mut plain);
    loop {
        let before = (input.pos(), output.pos());
        let result = context.decompress_stream(&mut output, &mut input);
        if !matches!(result, Ok(hint) if hint > 0) || (input.pos(), output.pos()) == before {
            break;
        }
    }
    plain
}
