//! Samples inside files: finding the records of a file while its bytes go by.
//!
//! Most samples are files. Others are rows of an array, lines of a text, or members of an archive; [`Rule`] says which files of a
//! dataset hold such records, and a [`Splitter`] finds them. It sees each byte once, in order, whatever the size of the file,
//! and tells a [`RecordSink`] where records begin and end. Another format is another [`Splitter`] and a name in [`Rule`].
//!
//! A record gets a path below its file's, as if the file were a folder: `NUMBER.json` for a line, `NUMBER/a/0001.jpg` for a member.
//! NUMBER counts the samples of the file in ten digits, so that path order is their order; what shares a stem is one
//! sample, as it is with files.

mod fixed;
mod lines;
mod npy;
mod rule;
mod tar;

#[cfg(test)]
mod tests;

pub use rule::{Rule, RuleError};

use crate::path::PATH_BYTES_MAX;

/// Most bytes of one record: it has to fit into a receive slot.
pub const RECORD_BYTES_MAX: u64 = 512 << 20;
/// Most samples of one file, so that their numbers have ten digits.
pub const FILE_SAMPLES_MAX: u64 = 9_999_999_999;
/// Most fields of one sample of an archive.
pub const SAMPLE_FIELDS_MAX: usize = 20;

/// Why a file does not hold what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("from byte {at} on: {reason}")]
pub struct SplitError {
    /// Where in the file that was noticed.
    pub at: u64,
    /// What is wrong there.
    pub reason: String,
}

impl SplitError {
    pub(super) fn new(at: u64, reason: impl Into<String>) -> Self {
        Self { at, reason: reason.into() }
    }
}

/// Hears of the records of a file, in file order. Bytes between two records are of none.
pub trait RecordSink {
    /// A record of sample number `sample` begins; `name` is its path below the file. Samples come in order.
    fn begin(&mut self, sample: u64, name: &[u8]);
    /// The next bytes of the record, which begin at byte `at` of the file.
    fn bytes(&mut self, at: u64, part: &[u8]);
    /// The record is complete.
    fn end(&mut self);
}

/// Finds the records of one file.
pub trait Splitter {
    /// Takes the next bytes of the file. After an error nothing more may be asked of it.
    fn push(&mut self, bytes: &[u8], sink: &mut dyn RecordSink) -> Result<(), SplitError>;
    /// The file has ended.
    fn finish(&mut self, sink: &mut dyn RecordSink) -> Result<(), SplitError>;
}

/// The first part of a record's name.
fn numbered(sample: u64, at: u64, rest: &[u8]) -> Result<Vec<u8>, SplitError> {
    if sample > FILE_SAMPLES_MAX {
        return Err(SplitError::new(at, format!("it holds more than {FILE_SAMPLES_MAX} samples")));
    }
    let mut name = format!("{sample:010}").into_bytes();
    name.extend_from_slice(rest);
    if name.len() > PATH_BYTES_MAX {
        return Err(SplitError::new(at, format!("a name of {} bytes", rest.len())));
    }
    Ok(name)
}

fn check_record_bytes(at: u64, bytes: u64) -> Result<(), SplitError> {
    if bytes <= RECORD_BYTES_MAX {
        return Ok(());
    }
    Err(SplitError::new(
        at,
        format!("a record of {bytes} bytes, over {RECORD_BYTES_MAX}: publish it as a file of its own"),
    ))
}
