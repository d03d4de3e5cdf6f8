//! Lines of a text. A line's end is not part of it; lines of nothing are no samples.

use super::{RECORD_BYTES_MAX, RecordSink, SplitError, Splitter, check_record_bytes, numbered};

/// Finds lines.
pub(super) struct Lines {
    name: &'static [u8],
    at: u64,
    /// Bytes of the open line that were given on; 0: none is open.
    open: u64,
    /// A carriage return that is part of the line unless the line ends behind it.
    held: bool,
    sample: u64,
}

impl Lines {
    pub(super) fn new(name: &'static [u8]) -> Self {
        Self { name, at: 0, open: 0, held: false, sample: 0 }
    }

    /// Gives on bytes of the line that is open, or opens one.
    fn give(&mut self, at: u64, part: &[u8], sink: &mut dyn RecordSink) -> Result<(), SplitError> {
        if part.is_empty() {
            return Ok(());
        }
        if self.open == 0 {
            sink.begin(self.sample, &numbered(self.sample, at, self.name)?);
            self.sample += 1;
        }
        self.open += part.len() as u64;
        if self.open > RECORD_BYTES_MAX {
            return check_record_bytes(at, self.open);
        }
        sink.bytes(at, part);
        Ok(())
    }

    fn end(&mut self, sink: &mut dyn RecordSink) {
        if std::mem::take(&mut self.open) > 0 {
            sink.end();
        }
    }
}

impl Splitter for Lines {
    fn push(&mut self, mut bytes: &[u8], sink: &mut dyn RecordSink) -> Result<(), SplitError> {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.held) && first != b'\n' {
                self.give(self.at - 1, b"\r", sink)?;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let mut line = &bytes[..end.unwrap_or(bytes.len())];
            let taken = line.len() + usize::from(end.is_some());
            if let Some(before) = line.strip_suffix(b"\r") {
                line = before;
                self.held = end.is_none();
            }
            self.give(self.at, line, sink)?;
            if end.is_some() {
                self.end(sink);
            }
            self.at += taken as u64;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    fn finish(&mut self, sink: &mut dyn RecordSink) -> Result<(), SplitError> {
        if std::mem::take(&mut self.held) {
            self.give(self.at - 1, b"\r", sink)?;
        }
        self.end(sink);
        Ok(())
    }
}
