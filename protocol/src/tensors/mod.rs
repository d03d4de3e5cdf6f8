//! Models and updates as files: the safetensors format, and the encodings in which updates travel.
//!
//! A safetensors file is a little-endian `u64`, that many bytes of JSON, and the tensors' bytes without a gap
//! (<https://huggingface.co/docs/safetensors>). [`Layout`] is its header, read strictly: what comes from a device is counted and
//! measured before anything is believed. The header is read by serde_json into a visitor that stops at the first thing that is too
//! much; the `safetensors` package builds a map of whatever there is first, and brings files with it.

mod dtype;
pub mod encoding;
mod header;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

pub use dtype::{Dtype, UnknownDtype};

/// Bytes of the length in front of the header.
pub const PREFIX_BYTES: usize = 8;
/// Longest header, in bytes.
pub const HEADER_BYTES_MAX: u64 = 16 << 20;
/// Most tensors of a file.
pub const TENSORS_MAX: usize = 65_536;
/// Most dimensions of a tensor.
pub const DIMENSIONS_MAX: usize = 32;
/// The first tensor's bytes begin at a multiple of so many.
const ALIGNMENT: usize = 8;

/// A tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// What its elements are.
    pub dtype: Dtype,
    /// Its dimensions; none for a single number.
    pub shape: Vec<u64>,
    /// Where its bytes are, from the end of the header on.
    pub range: Range<u64>,
}

impl Tensor {
    /// Its elements. That they can be counted was checked when it was read.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Its elements in stretches of at most `step`, in order.
    pub fn stretches(&self, step: u64) -> impl Iterator<Item = Range<u64>> + use<> {
        let elements = self.elements();
        (0..elements.div_ceil(step)).map(move |index| index * step..((index + 1) * step).min(elements))
    }

    /// Its shape as people write it.
    pub fn shown_shape(&self) -> String {
        let dimensions: Vec<_> = self.shape.iter().map(u64::to_string).collect();
        format!("[{}]", dimensions.join(", "))
    }
}

/// Why bytes are no safetensors file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// There are fewer bytes than the header needs.
    #[error("it is no safetensors file: {bytes} bytes, and its header would need {needed}")]
    Short {
        /// Bytes that there are.
        bytes: u64,
        /// Bytes that the header says it has.
        needed: u64,
    },
    /// The header is longer than any.
    #[error("it is no safetensors file, or not one for here: its header would have {0} bytes, over {HEADER_BYTES_MAX}")]
    HeaderTooLong(u64),
    /// The header is no JSON of the right form.
    #[error("its header can't be read: {0}")]
    Header(String),
    /// There are too many tensors.
    #[error("it has over {TENSORS_MAX} tensors")]
    TooMany,
    /// A tensor's shape can't be counted, or has too many dimensions.
    #[error("tensor `{0}` has a shape that can't be")]
    Shape(String),
    /// A tensor's bytes are not as many as its shape needs.
    #[error("tensor `{name}` has {bytes} bytes, and its shape needs {needed}")]
    Length {
        /// Which.
        name: String,
        /// Bytes that the header gives it.
        bytes: u64,
        /// Bytes that it needs.
        needed: u64,
    },
    /// Tensors overlap or leave a gap.
    #[error("tensor `{name}` begins at byte {begins}, and the one before ends at {ended}")]
    Gap {
        /// Which.
        name: String,
        /// Where it begins.
        begins: u64,
        /// Where the one before ends.
        ended: u64,
    },
    /// The file is longer or shorter than its tensors.
    #[error("its tensors end at byte {ends}, and the file at {bytes}")]
    End {
        /// Where the tensors end, from the file's start.
        ends: u64,
        /// Where the file ends.
        bytes: u64,
    },
}

/// The header of a safetensors file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// In the order of their bytes.
    tensors: Vec<Tensor>,
    metadata: BTreeMap<String, String>,
    data_start: u64,
}

impl Layout {
    /// Reads the header of a file of `file_bytes` bytes; `read` fills a buffer with what is at an offset.
    pub fn read<E: From<LayoutError>>(
        file_bytes: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut prefix = [0; PREFIX_BYTES];
        if file_bytes < PREFIX_BYTES as u64 {
            return Err(LayoutError::Short { bytes: file_bytes, needed: PREFIX_BYTES as u64 }.into());
        }
        read(0, &mut prefix)?;
        let mut header = vec![0; Self::header_bytes(prefix, file_bytes)? as usize];
        read(PREFIX_BYTES as u64, &mut header)?;
        Ok(Self::parse(&header, file_bytes)?)
    }

    /// The length of the header that follows the first [`PREFIX_BYTES`] of a file of `file_bytes` bytes.
    fn header_bytes(prefix: [u8; PREFIX_BYTES], file_bytes: u64) -> Result<u64, LayoutError> {
        let length = u64::from_le_bytes(prefix);
        if length > HEADER_BYTES_MAX {
            return Err(LayoutError::HeaderTooLong(length));
        }
        let needed = PREFIX_BYTES as u64 + length;
        if needed > file_bytes { Err(LayoutError::Short { bytes: file_bytes, needed }) } else { Ok(length) }
    }

    /// Reads the header (without its length) of a file of `file_bytes` bytes.
    pub fn parse(header: &[u8], file_bytes: u64) -> Result<Self, LayoutError> {
        let header::Parsed { mut tensors, metadata } = header::parse(header)?;
        tensors.sort_by(|left, right| {
            (left.range.start, left.range.end, &left.name).cmp(&(right.range.start, right.range.end, &right.name))
        });
        let mut ended = 0;
        for tensor in &tensors {
            let Range { start, end } = tensor.range;
            if start != ended || end < start {
                return Err(LayoutError::Gap { name: tensor.name.clone(), begins: start, ended });
            }
            let needed = needed(tensor).ok_or_else(|| LayoutError::Shape(tensor.name.clone()))?;
            if end - start != needed {
                return Err(LayoutError::Length { name: tensor.name.clone(), bytes: end - start, needed });
            }
            ended = end;
        }
        let data_start = (PREFIX_BYTES + header.len()) as u64;
        let ends = data_start.saturating_add(ended);
        if ends != file_bytes {
            return Err(LayoutError::End { ends, bytes: file_bytes });
        }
        Ok(Self { tensors, metadata, data_start })
    }

    /// Reads the header at the start of a whole file.
    pub fn of(file: &[u8]) -> Result<Self, LayoutError> {
        Self::read(file.len() as u64, |at, into| {
            let at = at as usize;
            into.copy_from_slice(&file[at..at + into.len()]);
            Ok(())
        })
    }

    /// The layout of a file with these tensors and this metadata: in the order of their names, so that the same tensors give the same
    /// bytes. Of each tensor the range is ignored.
    pub fn build(mut tensors: Vec<Tensor>, metadata: BTreeMap<String, String>) -> Result<Self, LayoutError> {
        tensors.sort_by(|left, right| left.name.cmp(&right.name));
        if tensors.len() > TENSORS_MAX {
            return Err(LayoutError::TooMany);
        }
        let mut at = 0_u64;
        for tensor in &mut tensors {
            let shape = || LayoutError::Shape(tensor.name.clone());
            let end = needed(tensor).and_then(|bytes| at.checked_add(bytes)).ok_or_else(shape)?;
            tensor.range = at..end;
            at = end;
        }
        let mut layout = Self { tensors, metadata, data_start: 0 };
        layout.data_start = layout.encode_header().len() as u64;
        Ok(layout)
    }

    /// Where in the file a tensor of at least `least` bytes begins or ends: there its chunks begin and end too, so that one layer
    /// that changes leaves the chunks of all others as they were. In rising order, without the file's own ends.
    pub fn cuts(&self, least: u64) -> Vec<u64> {
        let large = self.tensors.iter().filter(|tensor| tensor.range.end - tensor.range.start >= least.max(1));
        let mut cuts: Vec<_> =
            large.flat_map(|tensor| [tensor.range.start, tensor.range.end]).map(|at| self.data_start + at).collect();
        cuts.dedup();
        cuts.retain(|cut| *cut < self.file_bytes());
        cuts
    }

    /// The file's bytes up to the first tensor.
    pub fn encode_header(&self) -> Vec<u8> {
        let mut json = header::encode(&self.tensors, &self.metadata);
        while !(PREFIX_BYTES + json.len()).is_multiple_of(ALIGNMENT) {
            json.push(b' ');
        }
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.append(&mut json);
        bytes
    }

    /// The tensors, in the order of their bytes.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// What else the file says of itself.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Where the tensors' bytes begin in the file.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// The file's length.
    pub fn file_bytes(&self) -> u64 {
        self.data_start + self.tensors.last().map_or(0, |tensor| tensor.range.end)
    }

    /// Where elements of a tensor lie in the file.
    pub fn place(&self, tensor: &Tensor, elements: Range<u64>) -> Range<u64> {
        let start = self.data_start + tensor.range.start;
        let bytes = tensor.dtype.bytes();
        start + elements.start * bytes..start + elements.end * bytes
    }
}

fn needed(tensor: &Tensor) -> Option<u64> {
    if tensor.shape.len() > DIMENSIONS_MAX {
        return None;
    }
    let elements = tensor.shape.iter().try_fold(1_u64, |product, dimension| product.checked_mul(*dimension))?;
    elements.checked_mul(tensor.dtype.bytes())
}
