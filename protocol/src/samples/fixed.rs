//! Records of one size, one after the other.

use std::num::NonZeroU64;

use super::{RecordSink, SplitError, Splitter, check_record_bytes, numbered};

/// Finds records of one size.
pub(super) struct Fixed {
    bytes: u64,
    name: &'static [u8],
    at: u64,
    /// Bytes that the open record lacks; 0: none is open.
    lacks: u64,
    sample: u64,
}

impl Fixed {
    /// Records of `bytes` bytes fill a file of `size` from `start` on.
    pub(super) fn new(start: u64, bytes: NonZeroU64, size: u64, name: &'static [u8]) -> Result<Self, SplitError> {
        check_record_bytes(start, bytes.get())?;
        let left = size.saturating_sub(start) % bytes;
        if left > 0 || size < start {
            let reason =
                format!("{left} bytes are left over behind records of {bytes}: it was cut short, or is another form");
            return Err(SplitError::new(size - left, reason));
        }
        Ok(Self { bytes: bytes.get(), name, at: start, lacks: 0, sample: 0 })
    }
}

impl Splitter for Fixed {
    fn push(&mut self, mut bytes: &[u8], sink: &mut dyn RecordSink) -> Result<(), SplitError> {
        while !bytes.is_empty() {
            if self.lacks == 0 {
                sink.begin(self.sample, &numbered(self.sample, self.at, self.name)?);
                self.sample += 1;
                self.lacks = self.bytes;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(usize::try_from(self.lacks).unwrap_or(usize::MAX)));
            sink.bytes(self.at, part);
            self.at += part.len() as u64;
            self.lacks -= part.len() as u64;
            if self.lacks == 0 {
                sink.end();
            }
            bytes = rest;
        }
        Ok(())
    }

    fn finish(&mut self, _sink: &mut dyn RecordSink) -> Result<(), SplitError> {
        match self.lacks {
            0 => Ok(()),
            lacks => Err(SplitError::new(self.at, format!("the last record lacks {lacks} bytes"))),
        }
    }
}
