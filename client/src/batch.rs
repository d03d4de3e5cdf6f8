//! What was read: a view of the receive buffer.

use headwater_host::error::{CodedError, codes, printable};
use headwater_protocol::delivery::{FileStatus, Reply, SampleView};

use crate::buffers::Buffer;

/// Samples that were read at once, in the order in which they were asked for. The receive buffer is used again when this is
/// dropped.
#[derive(Debug)]
pub struct Batch {
    buffer: Buffer,
    reply: Reply,
    numbers: Vec<u64>,
    label: std::sync::Arc<str>,
}

/// A sample: its files in path order.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    number: u64,
    view: SampleView<'a>,
}

/// A file of a sample.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// What follows the stem in its name, as `.png`; or its path, where paths were asked for.
    pub name: &'a [u8],
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Bytes of the whole file: more than there are in `bytes` where a range was read.
    pub size: u64,
}

impl Batch {
    pub(crate) fn new(buffer: Buffer, reply: Reply, numbers: Vec<u64>, label: std::sync::Arc<str>) -> Self {
        Self { buffer, reply, numbers, label }
    }

    /// How many samples it has.
    pub fn len(&self) -> usize {
        self.reply.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.reply.is_empty()
    }

    /// Bytes of its files.
    pub fn bytes(&self) -> usize {
        self.reply.payload_bytes()
    }

    /// The receive buffer: its files lie in it.
    pub fn buffer(&self) -> &[u8] {
        self.buffer.bytes()
    }

    /// The receive buffer, to write in. Whoever writes changes what this batch shows, and must not ask it for samples again:
    /// where they lie stands in the same memory.
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        self.buffer.bytes_mut()
    }

    /// The numbers of its samples.
    pub fn numbers(&self) -> &[u64] {
        &self.numbers
    }

    /// Sample number `index` of the batch, which must have so many. An error if the core can't read it; the others are not
    /// affected.
    pub fn sample(&self, index: usize) -> Result<Sample<'_>, CodedError> {
        let view = self.reply.sample(self.buffer.bytes(), index);
        let number = self.numbers.get(index).copied().unwrap_or_default();
        match view.files().find(|file| file.status == FileStatus::Unreadable) {
            None => Ok(Sample { number, view }),
            Some(file) => {
                let path = printable(&String::from_utf8_lossy(file.name));
                let chunk = file.lost.map(|id| id.short()).unwrap_or_default();
                let message = format!(
                    "sample {number} of `{}` can't be read: chunk {chunk} of `{path}` is damaged at the core",
                    self.label
                );
                Err(CodedError::new(&codes::SAMPLE_UNREADABLE, message))
            }
        }
    }

    /// All samples, as [`Batch::sample`] gives them.
    pub fn samples(&self) -> impl Iterator<Item = Result<Sample<'_>, CodedError>> {
        (0..self.len()).map(|index| self.sample(index))
    }
}

impl<'a> Sample<'a> {
    /// Its number in the dataset.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Its files in path order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        self.view.files().map(|file| Field { name: file.name, bytes: file.bytes, size: file.size })
    }

    /// The file whose name ends with `name` after the stem, as `.png`.
    pub fn field(&self, name: &str) -> Option<Field<'a>> {
        self.fields().find(|field| field.name == name.as_bytes())
    }

    /// The bytes of its first file: all there is of a sample that is one file.
    pub fn bytes(&self) -> &'a [u8] {
        self.fields().next().map_or(&[], |field| field.bytes)
    }
}
