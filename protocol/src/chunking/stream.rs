//! Cutting a stream into chunks with a bounded buffer.

use std::io::{self, Read};

use fastcdc::v2020::FastCDC;

use super::{ChunkerParams, ParamsError};
use crate::id::ChunkId;
use crate::record::ChunkRef;

/// The buffer holds this many of the largest chunks: bytes are moved within it once in as many chunks at most.
const BUFFER_CHUNKS: usize = 4;

/// Cuts streams into chunks and names these, in a buffer of four largest chunks (4 MiB by default) whatever the length of
/// the stream. One chunker serves many streams, one after the other, and keeps its buffer.
///
/// FastCDC as in Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems"
/// (IEEE TPDS 2020), normalisation level 1, as the `fastcdc` crate cuts (`v2020`).
#[derive(Debug)]
pub struct StreamChunker {
    params: ChunkerParams,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
}

impl StreamChunker {
    /// A chunker; the buffer is allocated when the first byte is read.
    pub fn new(params: ChunkerParams) -> Result<Self, ParamsError> {
        params.check()?;
        Ok(Self { params, buffer: Vec::new(), start: 0, end: 0, ended: false })
    }

    /// The next chunk of `reader` and its bytes; `None` at its end. After `None` the chunker is ready for another stream.
    pub fn next_chunk(&mut self, reader: &mut impl Read) -> io::Result<Option<(ChunkRef, &[u8])>> {
        let Some(bytes) = self.next_cut(reader)? else { return Ok(None) };
        Ok(Some((ChunkRef { id: ChunkId::of(bytes), length: bytes.len() as u32 }, bytes)))
    }

    /// Like [`next_chunk`](Self::next_chunk), but without the hash.
    pub fn next_cut(&mut self, reader: &mut impl Read) -> io::Result<Option<&[u8]>> {
        if !self.ended && self.end - self.start < self.params.max_bytes as usize {
            self.fill(reader)?;
        }
        if self.start == self.end {
            self.reset();
            return Ok(None);
        }
        let length = cut_point(&self.params, &self.buffer[self.start..self.end]);
        self.start += length;
        Ok(Some(&self.buffer[self.start - length..self.start]))
    }

    /// Bytes that its buffer takes.
    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Forgets the stream that was being cut, so that another can be.
    pub fn reset(&mut self) {
        (self.start, self.end, self.ended) = (0, 0, false);
    }

    fn fill(&mut self, reader: &mut impl Read) -> io::Result<()> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; self.params.max_bytes as usize * BUFFER_CHUNKS];
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        while self.end < self.buffer.len() {
            match reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Length of the first chunk of `window`, which begins where a chunk does, and is at least `max_bytes` long or ends where
/// the file does. 0 only if the window is empty.
pub fn cut_point(params: &ChunkerParams, window: &[u8]) -> usize {
    let ChunkerParams { min_bytes, average_bytes, max_bytes } = *params;
    FastCDC::new(window, min_bytes as usize, average_bytes as usize, max_bytes as usize).cut(0, window.len()).1
}
